"""Uninitialised memory is NaN in every test: a kernel that leaves an element unwritten, or reads one, shows."""

import importlib.util
import os
from collections.abc import Iterator

import pytest
import torch
import torch.utils.deterministic

if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton"):
    from ordkernels.testing.interpreter import vectorize_xor

    vectorize_xor()


@pytest.fixture(autouse=True)
def uninitialised_is_nan() -> Iterator[None]:
    """`torch.empty` and its kin, C++ kernels' outputs included, are filled with NaN (integers: with their largest value)."""
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def native() -> None:
    """Skips where the compiled CPU part is not there."""
    from ordkernels._library import NOT_LOADED

    if "ordkernels._C" in NOT_LOADED:
        pytest.skip(f"no native CPU kernels: {NOT_LOADED['ordkernels._C']}")
