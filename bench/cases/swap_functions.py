"""Functions of other packages before and after ``swap_in("package")``: the same call, the same results. A package that is not installed
has no case; nor has the GR authors' ``xauc_score`` without their checkout on PYTHONPATH."""

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from ordkernels import swap_in

from . import OURS, Case, Run, Scaling, Size, optional
from ._watched import watched

ROWS: dict[Size, int] = {"tiny": 60, "quick": 10_000, "full": 1_000_000}
PAIR_ROWS: dict[Size, int] = {"tiny": 60, "quick": 1_000, "full": 10_000}  # where the original compares all pairs
MEMBERS = 100
LEVELS = np.linspace(0.05, 0.95, 20)


def cases(device: str, size: Size) -> Iterator[Case]:
    if device == "cpu":
        yield from _ranks(ROWS[size], PAIR_ROWS[size])
        yield from _ensembles(PAIR_ROWS[size])
        yield from _quantiles(ROWS[size])


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    stats = optional("scipy.stats", {}, "")
    if device != "cpu" or stats is None:
        return
    top = {"tiny": 2, "quick": 5, "full": 7}[size]
    with swap_in("scipy", verify=False):
        ours = stats.kendalltau

    def rows(N: int) -> Run:
        y, p = watched(N)
        return lambda: ours(y, p)

    sizes = tuple(10**e for e in range(2 if size == "tiny" else 3, top + 1))
    yield Scaling("swap_functions", "scipy kendalltau, swapped", "N", sizes, rows, float)


def _ranks(N: int, few: int) -> Iterator[Case]:
    y, p = watched(N)
    yield from _case("scipy", "scipy.stats", "kendalltau", f"N={N}", lambda f: _numbers(f(y, p)), 8 * N)
    a, b = np.round(y), np.round(p)
    yield from _case("scipy", "scipy.stats", "kendalltau", f"tied N={N}", lambda f: _numbers(f(a, b)), 8 * N)
    t, s = (torch.from_numpy(x[:few]) for x in (y, p))
    call: Callable[[Any], Any] = lambda f: f(s[:, None], t[:, None], importlib.import_module(KENDALL)._MetricVariant.B)[0]  # noqa: E731
    yield from _case("torchmetrics", KENDALL, "_kendall_corrcoef_compute", f"N={few}", call, 8 * few)
    yield from _case("metrics", "metrics", "xauc_score", f"N={10 * few}", lambda f: f(y[: 10 * few], p[: 10 * few]), 80 * few)


KENDALL = "torchmetrics.functional.regression.kendall"


def _numbers(result: Any) -> tuple[Any, ...]:
    return result.statistic, result.pvalue


def _ensembles(B: int) -> Iterator[Case]:
    rng = np.random.default_rng(0)
    y, x = rng.normal(size=B), rng.normal(size=(B, MEMBERS))
    size, moved = f"B={B} members={MEMBERS}", 8 * B * (MEMBERS + 2)
    yield from _case("properscoring", "properscoring", "crps_ensemble", size, lambda f: f(y, x), moved)
    for estimator in ("qd", "pwm", "fair"):
        call: Callable[[Any], Any] = lambda f, estimator=estimator: f(y, x, estimator=estimator)  # noqa: E731
        yield from _case("scoringrules", "scoringrules", "crps_ensemble", f"{estimator} {size}", call, moved)
    xarray = optional("xarray", {}, "")
    if xarray is not None:
        a, b = xarray.DataArray(y, dims="row"), xarray.DataArray(x, dims=("row", "member"))
        name = "xskillscore.core.probabilistic"
        yield from _case("xskillscore", name, "crps_ensemble", size, lambda f: f(a, b, dim=[]).to_numpy(), moved)


def _quantiles(N: int) -> Iterator[Case]:
    pandas = optional("pandas", {}, "")
    if pandas is None:
        return
    G = max(N // 50, 1)
    grouped = (
        pandas.DataFrame({"user": np.random.default_rng(0).integers(0, G, N), "y": watched(N)[0].astype(np.float64)}).groupby("user").y
    )
    for levels, name in ((0.5, "1 level"), (LEVELS, "20 levels")):
        call: Callable[[Any], Any] = lambda f, levels=levels: f(grouped, levels).to_numpy()  # noqa: E731
        yield from _case("pandas", "pandas.core.groupby.groupby.GroupBy", "quantile", f"N={N} G={G}, {name}", call, 16 * N)


def _case(package: str, owner: str, name: str, size: str, call: Callable[[Any], Any], moved: int) -> Iterator[Case]:
    """The function as it is, and as it is under the swap."""
    module, _, cls = owner.rpartition(".") if owner.endswith("GroupBy") else (owner, "", "")
    found = optional(module, {}, "")
    holder = getattr(found, cls) if found is not None and cls else found
    theirs = getattr(holder, name, None)
    if theirs is None or optional(package, {}, "") is None:
        return
    with swap_in(package, strict=True, verify=False):
        ours = getattr(holder, name)
    label = {"quantile": "groupby(...).quantile", "_kendall_corrcoef_compute": "kendall_rank_corrcoef"}.get(name, name)
    peer = "GR authors" if package == "metrics" else package
    yield Case(
        "swap_functions", f"{peer} {label} {size}", {OURS: lambda: call(ours), peer: lambda: call(theirs)},
        lambda: result if isinstance(result := call(theirs), tuple) else (result,), 1e-12, bytes=moved,
    )  # fmt: skip
