"""Uninitialised memory is NaN in every test, so that an element left unwritten, or read too early, shows; and the option --fast."""

import importlib.util
import os
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton"):
    from ordkernels.testing.interpreter import vectorize_xor

    vectorize_xor()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fast", action="store_true", help="first and last case of each test function, without those marked aot, registration or slow"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--fast"):
        return
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if not {"aot", "registration", "slow"} & {mark.name for mark in item.iter_markers()}:
            cases[item.nodeid.partition("[")[0]].append(item)
    kept = {id(item) for group in cases.values() for item in (group[0], group[-1])}
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in kept])
    items[:] = [item for item in items if id(item) in kept]


@pytest.fixture(autouse=True)
def uninitialised_is_nan() -> Iterator[None]:
    """`torch.empty` and its kin, C++ kernels' outputs included, are filled with NaN (integers: with their largest value)."""
    import torch
    import torch.utils.deterministic

    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seeded() -> None:
    import torch

    torch.manual_seed(0)


@pytest.fixture
def native() -> None:
    """Skips where the compiled CPU part is not there."""
    from ordkernels._library import NOT_LOADED

    if "ordkernels._C" in NOT_LOADED:
        pytest.skip(f"no native CPU kernels: {NOT_LOADED['ordkernels._C']}")


@pytest.fixture(params=["reference", "cpu"])
def host_backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test of the data side on both of its backends."""
    from ordkernels import use_backend
    from ordkernels._backend import host_module

    if request.param == "cpu" and host_module() is None:
        pytest.skip("the compiled data side is not built")
    with use_backend(request.param):
        yield request.param


@pytest.fixture
def numpy_empty_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `numpy.empty` leaves uninitialised is NaN: for the references, which are NumPy."""
    import numpy as np

    empty = np.empty

    def filled(*args: Any, **kwargs: Any) -> Any:
        out = empty(*args, **kwargs)
        if out.dtype.kind == "f":
            out.fill(np.nan)
        return out

    monkeypatch.setattr(np, "empty", filled)
