"""The fuzz entries of accumulators, metrics, schedules, diagnostics and samplers. See CONTRIBUTING, "Add an op"."""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import fuzz_expected as expected
import numpy as np
import pytest
import torch
from fuzz_arguments import FLAG, SEED, Choice, Column, Draw, Floats, Ids, Made, Number
from fuzz_checks import NO_BACKEND, Call, Entry, run, same
from table_data import ANY_PAIR, FEW, FLOAT_COLUMN, GROUP, PAIR, ROWS, Ordered, against, auc, edges, levels, within
from torch import Tensor

from ordkernels import diagnostics, schedules
from ordkernels.schedules import NoiseSchedule
from ordkernels.scores.grid import GridXAUC
from ordkernels.scores.streaming import BinnedXAUC, Coverage, Errors, GroupedJSD, SampleScores


def halves(*columns: Any) -> list[tuple[Any, ...]]:
    """The same rows in two parts, where they are of a kind that can be cut."""
    if (
        not all(
            isinstance(x, list) or (isinstance(x, np.ndarray | Tensor) and x.ndim and not getattr(x, "is_sparse", False)) for x in columns
        )
        or len(columns[0]) < 2
    ):
        return [columns]
    cut = len(columns[0]) // 2
    return [tuple(x[:cut] for x in columns), tuple(x[cut:] for x in columns)]


# ------------------------------------------------------------------------------------------------ accumulators and metrics


def accumulated(make: Callable[[], Any], *columns: Any) -> Any:
    """Two parts, merged."""
    total = make()
    for part in halves(*columns):
        total.merge(make().update(*part))
    return total.result()


def errors(y: Any, prediction: Any, thetas: Any = (1.0,)) -> Any:
    return list(accumulated(lambda: Errors(thetas), y, prediction).values())


def interval_coverage(lower: Any, upper: Any, y: Any) -> Any:
    return accumulated(Coverage, lower, upper, y)


def sample_scores(samples: Any, y: Any, fair: Any = False) -> Any:
    return accumulated(lambda: SampleScores(fair=fair), samples, y)


def quantile_scores(samples: Any, y: Any, levels: Any) -> Any:
    return accumulated(lambda: SampleScores(levels=levels), samples, y)


def grouped_jsd(y: Any, prediction: Any, group: Any, edges: Any, base: Any = math.e) -> Any:
    return accumulated(lambda: GroupedJSD(edges, base), y, prediction, group)


def binned_xauc(y: Any, prediction: Any, y_edges: Any, prediction_edges: Any) -> Any:
    return accumulated(lambda: BinnedXAUC(y_edges, prediction_edges), y, prediction)


def grid_xauc(y: Any, prediction: Any, bins: Any = 8) -> Any:
    return accumulated(lambda: GridXAUC(bins), y, prediction)


def computed(metric: Any, *columns: Any) -> Any:
    for part in halves(*columns):
        metric.update(*part)
    return metric.compute()


def metric(name: str, *, settings: tuple[str, ...] = (), columns: tuple[str, ...] = ("prediction", "y")) -> Callable[..., Any]:
    """A function of the arguments of a torchmetrics metric and of its updates."""

    def function(**k: Any) -> Any:
        from ordkernels import metrics

        made = getattr(metrics, name)(**{s: k[s] for s in settings})
        return computed(made, *(k[c] for c in columns))

    function.__name__ = name
    return function


def mean_errors(y: list[Any], prediction: list[Any], thetas: Any) -> list[Any]:
    e = expected.errors(y, prediction)
    share = [Fraction(sum(x <= Fraction(t) for x in e), len(y)) for t in thetas]
    return [expected.mae(y, prediction), expected.rmse(y, prediction), expected.lcc(y, prediction), *share]


def mean_crps(samples: Any, y: Any, fair: Any) -> float:
    s, t = np.asarray(samples, np.float64), np.asarray(y, np.float64)
    L = s.shape[1]
    spread = np.abs(s[:, :, None] - s[:, None]).sum((1, 2)) / (2 * L * (L - 1 if fair else L))
    return float((np.abs(s - t[:, None]).mean(1) - spread).mean())


def bounded(entry: Entry, call: Call, backend: str | None) -> None:
    """The exact XAUC is between low and high, and within the bound of the value."""
    value, bound, low, high = (x.item() for x in run(entry, call.arguments, backend))
    plain = call.draw.plain
    exact = expected.xauc(plain["y"], plain["prediction"])[0]
    if isinstance(exact, float):
        return
    assert low - 1e-12 <= exact <= high + 1e-12
    assert abs(value - exact) <= bound + 1e-12


def samples(d: Draw) -> Any:
    d.row_axes["samples"] = 0
    x = d.random.standard_normal((d.size("B"), d.size("L"))).round(d.choose(1, 8)).astype(d.choose(np.float64, np.float32))
    return d.choose(x, x.tolist(), torch.from_numpy(x), np.asfortranarray(x), x[::-1][::-1])


def equal_mass_edges(labels: Any, bins: Any) -> Any:
    from ordkernels.metrics import equal_mass_edges

    return equal_mass_edges(labels, bins)


def ascending(entry: Entry, call: Call, backend: str | None) -> None:
    """From the least label to the largest, or the documented refusal of equal ones."""
    labels = call.draw.plain["labels"]
    if min(labels) == max(labels):
        with pytest.raises(ValueError, match="labels: expected at least two different ones"):
            run(entry, call.arguments, backend)
        return
    found = run(entry, call.arguments, backend)[0].tolist()
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (min(labels), max(labels))


MODEST = Column(dtypes=(*FLOAT_COLUMN, np.int32), low=-1e6, high=1e6)
LISTED = Column(dtypes=FLOAT_COLUMN, low=-9.0, high=9.0, map=lambda a: a.round(2))
TWO = FEW | {"L": (2, 3, 8, 9)}
JSD_ARGUMENTS: dict[str, Any] = ANY_PAIR | dict(group=GROUP, edges=Made(edges), base=Number((2.0, math.e)))
METRIC_PAIR = dict(prediction=MODEST, y=MODEST)
SAMPLES: dict[str, Any] = dict(samples=Made(samples), y=LISTED)
STREAMING = [
    Entry(
        errors,
        PAIR | {"y": MODEST, "prediction": MODEST, "thetas": Choice(((0.37,), (1.7, 3.3), [0.9]))},
        against(mean_errors, rounding=1e-9),
        sizes=ROWS,
        covers="scores.streaming.Errors",
        names=("result",),
    ),
    Entry(
        interval_coverage,
        dict(lower=Column(dtypes=FLOAT_COLUMN, low=-1e15, high=1e15), upper=Ordered(), y=Column()),
        against(expected.coverage, rounding=1e-12),
        sizes=ROWS,
        covers="scores.streaming.Coverage",
        names=("result",),
    ),
    Entry(
        sample_scores,
        SAMPLES | dict(fair=FLAG),
        within(mean_crps, 10.0),
        sizes=TWO,
        covers="scores.streaming.SampleScores",
        names=("result",),
        **NO_BACKEND,
    ),
    Entry(
        quantile_scores,
        SAMPLES | dict(levels=Made(levels)),
        lambda e, c, b: run(e, c.arguments, b) and None,
        sizes=TWO,
        covers="scores.streaming.SampleScores",
        names=("result",),
        **NO_BACKEND,
    ),
    Entry(grouped_jsd, JSD_ARGUMENTS, within(expected.histogram_jsd), sizes=FEW, covers="scores.streaming.GroupedJSD"),
    Entry(
        binned_xauc,
        ANY_PAIR | dict(y_edges=Made(edges), prediction_edges=Made(edges)),
        bounded,
        sizes=FEW,
        covers="scores.streaming.BinnedXAUC",
        names=("result",),
    ),
    Entry(grid_xauc, dict(y=MODEST, prediction=MODEST, bins=Number((8, 16))), bounded, sizes=FEW, covers="scores.grid.GridXAUC"),
]
METRICS = [
    Entry(metric("MAE"), METRIC_PAIR, against(expected.mae, rounding=1e-12), sizes=ROWS, covers="metrics.MAE"),
    Entry(metric("RMSE"), METRIC_PAIR, against(expected.rmse, rounding=1e-12), sizes=ROWS, covers="metrics.RMSE"),
    Entry(metric("LCC"), METRIC_PAIR, within(expected.lcc, 1e3), sizes=ROWS, covers="metrics.LCC"),
    Entry(metric("SRCC"), METRIC_PAIR, within(expected.srcc), sizes=ROWS, covers="metrics.SRCC"),
    Entry(
        metric("KendallTau", settings=("variant",)),
        METRIC_PAIR | dict(variant=Choice(("a", "b", "c"))),
        against(expected.kendall_tau, rounding=1e-12),
        sizes=FEW,
        covers="metrics.KendallTau",
    ),
    Entry(metric("NormalizedGini"), METRIC_PAIR, within(expected.normalized_gini), sizes=FEW, covers="metrics.NormalizedGini"),
    Entry(
        metric("XAUC", settings=("ties",)),
        METRIC_PAIR | dict(ties=Choice(("half", "strict"))),
        against(lambda y, prediction, ties: expected.xauc(y, prediction, ties)[0], rounding=1e-12),
        sizes=FEW,
        covers="metrics.XAUC",
    ),
    Entry(
        metric("AUC"),
        dict(prediction=MODEST, y=Column(dtypes=(np.int64, np.float32), map=lambda a: np.arange(len(a)) % 2)),
        against(auc, rounding=1e-12),
        sizes={"B": (2, 3, 8, 17)},
        covers="metrics.AUC",
    ),
    Entry(
        metric("CRPS", settings=("fair",), columns=("samples", "y")),
        SAMPLES | dict(fair=FLAG),
        within(mean_crps, 10.0),
        sizes=TWO,
        covers="metrics.CRPS",
        names=("result",),
    ),
    Entry(
        metric("CumulativeScore", settings=("theta",)),
        dict(prediction=Column(dtypes=(np.int32, np.uint8)), y=Column(dtypes=(np.int32,)), theta=Number((0, 1, 2.5))),
        against(lambda y, prediction, theta: mean_errors(y, prediction, (theta,))[3], rounding=1e-12),
        sizes=ROWS,
        covers="metrics.CumulativeScore",
        names=("result",),
    ),
    Entry(
        metric("IntervalCoverage", columns=("lower", "upper", "y")),
        dict(lower=Column(dtypes=FLOAT_COLUMN, low=-1e6, high=1e6), upper=Ordered(), y=MODEST),
        against(expected.coverage, rounding=1e-9),
        sizes=ROWS,
        covers="metrics.IntervalCoverage",
        names=("result",),
    ),
    Entry(
        metric("HistogramJSD", settings=("edges", "base"), columns=("prediction", "y", "group")),
        JSD_ARGUMENTS,
        within(expected.histogram_jsd),
        sizes=FEW,
        covers="metrics.HistogramJSD",
        names=("result", "labels"),
    ),
    Entry(
        metric("Pinball", settings=("levels",), columns=("samples", "y")),
        SAMPLES | dict(levels=Made(levels)),
        lambda e, c, b: run(e, c.arguments, b) and None,
        sizes=TWO,
        covers="metrics.Pinball",
        names=("result",),
    ),
    Entry(
        equal_mass_edges,
        dict(labels=Column(low=-1e6, high=1e6), bins=Number((1, 3, 50))),
        ascending,
        sizes=ROWS,
        covers="metrics",
        **NO_BACKEND,
    ),
    Entry(
        metric("RelaImpr", settings=("base",)),
        dict(prediction=MODEST, y=Column(dtypes=(np.int64,), map=lambda a: np.arange(len(a)) % 2), base=Number((0.6, 0.9, 0))),
        against(lambda y, prediction, base: (auc(y, prediction) - Fraction(1, 2)) / (Fraction(base) - Fraction(1, 2)) - 1, rounding=1e-9),
        sizes={"B": (2, 3, 8, 17)},
        covers="metrics.RelaImpr",
    ),
]


# ------------------------------------------------------------------------------------------------ schedules


def falling(entry: Entry, call: Call, backend: str | None) -> None:
    with torch.random.fork_rng():
        made = entry.function(**call.arguments)
    a = made.exact if isinstance(made, NoiseSchedule) else made
    assert a[0] == 1
    assert all(0 < y <= x for x, y in itertools.pairwise(a))


def from_config(**config: Any) -> NoiseSchedule:
    return NoiseSchedule.from_diffusers(config)


def steps_of(entry: Entry, call: Call, backend: str | None) -> None:
    out = run(entry, call.arguments, backend)[0].tolist()
    T = call.arguments["T"]
    assert all(1 <= t <= T for t in out)
    if "K" in call.arguments:
        assert len(out) == call.arguments["K"]
        assert out == sorted(set(out), reverse=True)


def as_given(entry: Entry, call: Call, backend: str | None) -> None:
    assert entry.function(**call.arguments) == np.asarray(call.arguments["aligned"]).tolist()


def mixed(entry: Entry, call: Call, backend: str | None) -> None:
    got = run(entry, call.arguments, backend)[0]
    assert same(got, run(entry, call.arguments, backend)[0])
    assert len(got) == call.arguments["B"]
    assert all(1 <= t <= 20 for t in got.tolist())
    ids = call.arguments["row_ids"]
    if ids is not None and len(got) > 1:
        own = run(entry, call.arguments | {"B": 1, "row_ids": np.asarray(ids)[1:2]}, backend)[0]
        assert own.item() == got[1].item(), "a row's timestep depends on its batch"


def some_betas(d: Draw) -> Any:
    x = d.random.random(d.size("B") or 1) * d.choose(0.02, 0.999)
    return d.choose(x, x.tolist(), torch.from_numpy(x), x.astype(np.float32), x[::-1])


STEPS = Number((1, 2, 50, 1000, 3000, 4001))
SCHEDULES = [
    Entry(
        NoiseSchedule.linear,
        dict(T=STEPS, beta_start=Number((1e-4, 0, 0.0)), beta_end=Number((0.02, 0.1)), rescale=FLAG),
        falling,
        covers="schedules.NoiseSchedule",
        **NO_BACKEND,
    ),
    Entry(
        NoiseSchedule.cosine,
        dict(T=STEPS, s=Number((0.008, 0.1)), beta_max=Number((0.999, 0.5))),
        falling,
        covers="schedules.NoiseSchedule",
        **NO_BACKEND,
    ),
    Entry(NoiseSchedule.from_betas, dict(betas=Made(some_betas)), falling, covers="schedules.NoiseSchedule", **NO_BACKEND),
    Entry(schedules.noise_schedule, dict(schedule=Choice(("linear", "cosine", NoiseSchedule.linear(5))), T=STEPS), falling, **NO_BACKEND),
    Entry(
        schedules.aligned_timesteps,
        dict(K=Number((1, 2, 7)), T=Number((7, 50, 1000)), spacing=Choice(("linear", "log"))),
        steps_of,
        **NO_BACKEND,
    ),
    Entry(
        schedules.check_aligned,
        dict(aligned=Choice(([5, 2], (7, 1), torch.tensor([3]), np.array([4, 3]))), T=Number((7, 100))),
        as_given,
        **NO_BACKEND,
    ),
    Entry(
        schedules.mixture_timesteps,
        dict(
            B=Made(lambda d: d.size("B")),
            T=Number((20,)),
            aligned=Choice(([20, 3], torch.tensor([9]))),
            rho=Number((0.5, 0, 1, 0.0)),
            seed=SEED,
            step=Number((0, 9)),
            row_ids=Ids(),
        ),
        mixed,
    ),
]


# ------------------------------------------------------------------------------------------------ diagnostics


def as_in_double(entry: Entry, call: Call, backend: str | None) -> None:
    """Finite, twice the same, and what fp64 gives to a loose rounding: they are linear algebra of torch."""
    got = run(entry, call.arguments, backend)
    assert all(map(same, got, run(entry, call.arguments, backend)))
    wide = {name: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for name, x in call.arguments.items()}
    eps = torch.finfo(call.draw.dtype).eps
    for g, t in zip(got, run(entry, wide, backend), strict=True):
        assert g.shape == t.shape
        assert bool((g.double() - t.double()).abs().le(1e3 * eps * (1 + t.double().abs())).all()), f"{g} for {t}"


WIDE_ONLY: dict[str, Any] = NO_BACKEND | dict(dtypes=(torch.float32, torch.float64), kinds=("normal", "zeros"))
PREDICTIONS = dict(yhat=Floats("B M"))
DIAGNOSTICS = [
    Entry(diagnostics.effective_rank, dict(H=Floats("B D")), as_in_double, **WIDE_ONLY),
    Entry(diagnostics.stable_rank, dict(H=Floats("B D")), as_in_double, **WIDE_ONLY),
    Entry(diagnostics.oracle_time, dict(y=Floats("B"), yhat=Floats("B M")), as_in_double, **WIDE_ONLY),
    Entry(
        diagnostics.fuse_times,
        dict(yhat=Floats("B 2"), weights=Choice(([0.25, 0.75], torch.tensor([0.5, 0.5])))),
        as_in_double,
        **WIDE_ONLY,
    ),
    Entry(
        diagnostics.min_variance_weights,
        dict(yhat=Floats("B 2", kinds=("normal",)), y=Floats("B", optional=True)),
        lambda e, c, b: run(e, c.arguments, b) and None,
        **WIDE_ONLY,
    ),
    Entry(
        diagnostics.ordinal_error_bound,
        dict(loss_t=Number((0.01, 0, 2.0)), alphabar_t=Number((0.5, 1, 0.1)), gap=Number((0.5, 1))),
        as_in_double,
        **WIDE_ONLY,
    ),
    Entry(
        diagnostics.decode_ordinal, dict(y=Floats("B"), thresholds=Choice(([0.5, 1.5], [], torch.tensor([0.0])))), as_in_double, **WIDE_ONLY
    ),
    Entry(
        diagnostics.value_embedding,
        dict(
            tokens=Made(lambda d: torch.from_numpy(d.random.integers(0, 4, (d.size("B"), d.size("L"))))),
            values=Floats("4", np.abs),
            E=Floats("4 D"),
        ),
        as_in_double,
        **WIDE_ONLY,
    ),
]


MORE = [*STREAMING, *METRICS, *SCHEDULES, *DIAGNOSTICS]
