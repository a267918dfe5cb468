"""torchmetrics metrics against the functions they stand for: in batches, merged, and over processes."""

import copy
import doctest
import importlib
import math
import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ordkernels import ops, scores
from ordkernels.scores.grid import _LARGEST, GridXAUC

ROOT = Path(__file__).parents[2]
torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
from ordkernels import metrics as m  # noqa: E402

LEVELS = [0.1, 0.5, 0.9]
EDGES = [-1.0, 0.0, 1.0, 2.5]
TRAIN = np.round(np.random.default_rng(9).normal(1, 2, 300), 1)


def rows(n, seed=0):
    """With ties on both sides; row i belongs to user i % 7."""
    rng = np.random.default_rng(seed)
    y = np.round(rng.normal(1, 2, n), 1)
    p = np.round(y + rng.normal(0, 1, n), 1)
    return {"y": y, "p": p, "s": p[:, None] + np.linspace(-2, 2, 3), "g": np.arange(n) % 7 - 3, "w": rng.integers(1, 4, n)}


# metric, its update's columns, and the same score of all rows at once
CASES = {
    "MAE": (m.MAE, "p y", lambda r: scores.mae(r["y"], r["p"])),
    "RMSE": (m.RMSE, "p y", lambda r: scores.rmse(r["y"], r["p"])),
    "CS": (lambda: m.CumulativeScore(0.5), "p y", lambda r: scores.cumulative_score(r["y"], r["p"], 0.5)),
    "LCC": (m.LCC, "p y", lambda r: scores.lcc(r["y"], r["p"])),
    "SRCC": (m.SRCC, "p y", lambda r: scores.srcc(r["y"], r["p"])),
    "KendallTau": (m.KendallTau, "p y", lambda r: scores.kendall_tau(r["y"], r["p"])),
    "KendallTau c": (lambda **kw: m.KendallTau("c", **kw), "p y", lambda r: scores.kendall_tau(r["y"], r["p"], variant="c")),
    "NormalizedGini": (m.NormalizedGini, "p y", lambda r: scores.normalized_gini(r["y"], r["p"])),
    "AUC": (m.AUC, "p b", lambda r: scores.auc(r["b"], r["p"])),
    "RelaImpr": (lambda: m.RelaImpr(0.7), "p b", lambda r: scores.relaimpr(scores.auc(r["b"], r["p"]), 0.7)),
    "XAUC": (m.XAUC, "p y", lambda r: scores.xauc(r["y"], r["p"]).value),
    "XAUC strict": (lambda: m.XAUC(ties="strict"), "p y", lambda r: scores.xauc(r["y"], r["p"], ties="strict").value),
    "XAUC weight": (m.XAUC, "p y w", lambda r: scores.xauc(r["y"], r["p"], weight=r["w"]).value),
    "XAUC group": (m.XAUC, "p y none g", lambda r: scores.xauc(r["y"], r["p"], group=r["g"]).value),
    "XAUC pair": (lambda: m.XAUC(average="pair"), "p y none g", lambda r: scores.xauc(r["y"], r["p"], group=r["g"], average="pair").value),
    "XAUC binned": (lambda: m.XAUC(mode="binned", bins=64), "p y", lambda r: GridXAUC(64).update(r["y"], r["p"]).result()[:2]),
    "CRPS": (m.CRPS, "s y", lambda r: ops.crps(r["s"], r["y"]).mean()),
    "CRPS fair": (lambda: m.CRPS(fair=True), "s y", lambda r: ops.crps(r["s"], r["y"], fair=True).mean()),
    "Pinball": (lambda: m.Pinball(LEVELS), "s y", lambda r: ops.pinball(r["s"], r["y"], LEVELS).mean(0)),
    "Coverage": (m.IntervalCoverage, "low high y", lambda r: scores.coverage(r["low"], r["high"], r["y"])),
    "PDF": (
        lambda: m.PDF(TRAIN),
        "p y g",
        lambda r: scores.histogram_jsd(r["y"], r["p"], r["g"], edges=np.unique(np.quantile(TRAIN, np.linspace(0, 1, 51))), base=2),
    ),
    "JSD": (
        lambda: m.HistogramJSD(edges=EDGES, base=math.e),
        "p y g",
        lambda r: scores.histogram_jsd(r["y"], r["p"], r["g"], edges=EDGES),
    ),
}
COUNTED = {"CS", "AUC", "XAUC", "XAUC strict", "XAUC binned"}  # ratios of integers: the same to the last bit


def columns(r, names, part=slice(None)):
    all_ = {**r, "low": r["p"] - 1, "high": r["p"] + 1, "b": (r["y"] > 1).astype(np.int64)}
    return [None if name == "none" else torch.as_tensor(all_[name][part]) for name in names.split()]


def whole(name, r):
    return np.asarray(CASES[name][2]({**r, "low": r["p"] - 1, "high": r["p"] + 1, "b": r["y"] > 1}), np.float64).ravel()


def flat(value):
    return np.array([float(x) for x in value] if isinstance(value, tuple) else value.double().numpy()).ravel()


def same(name, found, expected):
    if name in COUNTED:
        np.testing.assert_array_equal(found, expected, err_msg=name)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("name", CASES)
def test_batches_forward_merge_and_copies_give_the_score_of_all_rows(name):
    make, names, _ = CASES[name]
    r = rows(200)
    parts = [slice(0, 90), slice(90, 150), slice(150, 200)]
    updated, stepped, left, right = make(), make(), make(), make()
    for part in parts:
        updated.update(*columns(r, names, part))
        batch = stepped(*columns(r, names, part))
        same(name, flat(batch), whole(name, {k: v[part] for k, v in r.items()}))
    left.update(*columns(r, names, parts[0]))
    for part in parts[1:]:
        right.update(*columns(r, names, part))
    left.merge_state(right)
    saved = copy.deepcopy(updated), pickle.loads(pickle.dumps(updated))
    for each in (updated, stepped, left, *saved):
        same(name, flat(each.compute()), whole(name, r))
    updated.reset()
    updated.update(*columns(r, names, parts[2]))
    same(name, flat(updated.compute()), whole(name, {k: v[parts[2]] for k, v in r.items()}))


def _worker(rank, world, file, out):
    torch.set_num_threads(1)
    os.environ["ORDKERNELS_NUM_THREADS"] = "1"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    r, found = rows(200), {}
    for name, (make, names, _) in CASES.items():
        metric = make()
        for begin in range(0, 200, 20):  # uneven shards, and the last process has none
            if (begin // 20) % (world - 1) == rank:
                metric.update(*columns(r, names, slice(begin, begin + 20)))
        found[name] = flat(metric.compute())
        if rank == 0:  # what compute gathered is gone again
            metric.update(*columns(r, names, slice(0, 5)))
            assert metric._update_count == 1 + len([b for b in range(0, 200, 20) if (b // 20) % (world - 1) == 0])
    torch.save(found, f"{out}.{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_four_processes_agree_with_one(tmp_path):
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("torch was built without gloo")
    multiprocessing.set_forkserver_preload(["ordkernels.metrics"])  # imports once, before it forks, from a process without threads
    mp.start_processes(_worker, args=(4, tmp_path / "store", tmp_path / "out"), nprocs=4, start_method="forkserver")
    r = rows(200)
    for rank in range(4):
        found = torch.load(f"{tmp_path / 'out'}.{rank}", weights_only=False)
        for name in CASES:
            same(name, found[name], whole(name, r))


def test_processes_with_rows_of_different_dtypes_agree_on_one():
    metric = m.XAUC()
    y, p = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float32), torch.tensor([1, 3, 2])
    metric.update(p, y)
    other = torch.tensor([2, 2, 0, 0])  # codes: another process with float64, without weights and groups

    def gather(x, group=None):
        return [x, other if len(x) == 4 and x.dtype == torch.int64 and x[0] in (1, 3) and x[2] == 0 else x]

    metric.sync(dist_sync_fn=gather, distributed_available=lambda: True)
    assert metric.y_rows.dtype == metric.prediction_rows.dtype == torch.float64
    assert len(metric.y_rows) == 6
    metric.unsync()
    assert metric.y_rows[0].dtype == torch.float32


def test_a_collection_shares_what_is_equal_and_nothing_else():
    r = rows(60)
    each = {"mae": m.MAE(), "rmse": m.RMSE(), "cs1": m.CumulativeScore(100), "cs2": m.CumulativeScore(200), "x": m.XAUC(), "s": m.SRCC()}
    both = torchmetrics.MetricCollection(each)
    p, y = columns(r, "p y")
    both.update(p, y)  # every row is within 100 and within 200: the counts are equal, the metrics are not
    both.update(p + 150, y)
    found = both.compute()
    assert sorted(sorted(g) for g in both.compute_groups.values()) == [["cs1"], ["cs2"], ["mae", "rmse"], ["s"], ["x"]]
    assert found["cs1"] == 0.5
    assert found["cs2"] == 1
    q, z = np.concatenate((r["p"], r["p"] + 150)), np.concatenate((r["y"], r["y"]))
    assert float(found["s"]) == pytest.approx(scores.srcc(z, q), rel=1e-13)
    assert float(found["rmse"]) == pytest.approx(scores.rmse(z, q), rel=1e-13)


def test_binned_has_a_tight_bound_on_smooth_data():
    rng = np.random.default_rng(0)
    y = rng.lognormal(3, 1, 2000).astype(np.float32)
    p = (y * rng.lognormal(0, 0.5, 2000)).astype(np.float32)
    metric = m.XAUC(mode="binned", bins=1024)
    metric.update(p, y)
    value, bound = metric.compute()
    assert float(bound) < 0.02
    assert abs(float(value) - scores.xauc(y, p).value) < 2e-3


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: m.MAE().update([1.0, math.nan], [1.0, 2.0]), ValueError, "prediction: expected no NaN, got 1 of 2, the first at index 1"),
        (lambda: m.MAE().update([1.0], [1.0, 2.0]), ValueError, "prediction: expected shape"),
        (lambda: m.XAUC().update([1.0], [1.0, 2.0]), ValueError, r"y: expected shape \[N\] = \[1\], as prediction, got \[2\]"),
        (lambda: m.XAUC().update([1.0, 2.0], [math.nan, 2.0]), ValueError, "y: expected no NaN, got 1 of 2, the first at index 0"),
        (lambda: m.XAUC().update(torch.ones(2, 2), torch.ones(2, 2)), ValueError, r"prediction: expected shape \[N\], got \[2, 2\]"),
        (lambda: m.XAUC().update(["a"], [1.0]), TypeError, "prediction: expected integers or floats of 16 to 64 bits"),
        (lambda: m.XAUC().update([1.0], [1.0], group=[0.5]), TypeError, "group: expected integers, got float64"),
        (lambda: m.XAUC(mode="fast"), ValueError, "mode: expected 'exact' or 'binned', got 'fast'"),
        (lambda: m.XAUC(ties="no"), ValueError, "ties: expected"),
        (lambda: m.XAUC(average="user"), ValueError, "average: expected"),
        (lambda: m.XAUC(mode="binned", ties="strict"), ValueError, "ties: expected 'half' with mode='binned'"),
        (lambda: m.XAUC(mode="binned", bins=4), ValueError, "bins: expected 8 to 32768, got 4"),
        (lambda: m.XAUC(mode="binned", bins=8.0), TypeError, "bins: expected an int, got float"),
        (lambda: m.XAUC(mode="binned", bins=8).update([1.0], [2.0], group=[1]), ValueError, "group: expected None with mode='binned'"),
        (lambda: m.XAUC(mode="binned", bins=8).update([4 * _LARGEST], [2.0]), ValueError, r"prediction: expected magnitudes up to 2\^300"),
        (lambda: m.XAUC(mode="binned", bins=8).update([math.inf], [2.0]), ValueError, "prediction: expected finite"),
        (lambda: m.CumulativeScore(-1), ValueError, "theta"),
        (lambda: m.RelaImpr(0.5), ValueError, "base: expected an AUC other than 0.5"),
        (lambda: m.Pinball([0.5, 1.5]), ValueError, "levels: expected numbers in"),
        (lambda: m.CRPS(fair=True).update([[1.0]], [1.0]), ValueError, "samples: expected"),
        (lambda: m.PDF(), ValueError, "labels: expected either labels or edges, got neither"),
        (lambda: m.PDF([1, 2], edges=[1, 2]), ValueError, "labels: expected either labels or edges, got both"),
        (lambda: m.PDF([3, 3, 3]), ValueError, "labels: expected at least two different ones, got only 3"),
        (lambda: m.PDF([]), ValueError, "labels: expected at least one"),
        (lambda: m.PDF([1, 2], bins=0), ValueError, "bins: expected at least 1, got 0"),
        (lambda: m.PDF(edges=[2, 1]), ValueError, "edges: expected strictly ascending"),
    ],
)  # fmt: skip
def test_wrong_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int32])
def test_every_dtype_with_gradients_and_strides(dtype):
    values = torch.tensor([[1, 9], [2, 9], [4, 9], [3, 9]]).to(dtype)
    p, y = values[:, 0], torch.tensor([1, 3, 4, 2]).to(dtype)
    if dtype.is_floating_point:
        p = p.clone().requires_grad_()
    for metric, columns in ((m.MAE(), (p, y)), (m.XAUC(), (p, y)), (m.LCC(), (p, y)), (m.CRPS(), (p[:, None], y))):
        metric.update(*columns)
        value = metric.compute()
        expected = {"MAE": 0.5, "CRPS": 0.5, "XAUC": 5 / 6, "LCC": 0.8}[type(metric).__name__]
        assert float(value) == pytest.approx(expected)
        assert not value.requires_grad


def test_weights_and_groups_come_always_or_never():
    metric = m.XAUC()
    metric.update([1.0], [1.0], group=[1])
    with pytest.raises(ValueError, match="group: expected an array, as in earlier updates, got NoneType"):
        metric.update([1.0], [1.0])
    with pytest.raises(ValueError, match="weight: expected None, as in earlier updates, got list"):
        metric.update([1.0], [1.0], [2.0], [1])


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
@pytest.mark.parametrize("name", CASES)
def test_no_rows(name):
    metric = CASES[name][0]()
    with pytest.raises(ValueError, match="expected at least one row"):
        metric.compute()


def test_empty_updates_change_nothing():
    r = rows(30)
    for name, (make, names, _) in CASES.items():
        metric = make()
        metric.update(*columns(r, names, slice(0, 0)))
        metric.update(*columns(r, names))
        metric.update(*columns(r, names, slice(0, 0)))
        same(name, flat(metric.compute()), whole(name, r))


def test_rows_kept_are_copies_in_exact_dtypes():
    p, y = torch.tensor([1.0, 2.0], dtype=torch.bfloat16), torch.tensor([2**60, 2**60 + 1])
    metric = m.XAUC()
    metric.update(p, y)
    y.zero_()
    assert float(metric.compute()) == 1


def test_without_torchmetrics_the_error_names_the_extra():
    code = """
import sys
sys.modules["torchmetrics"] = None
import ordkernels
from ordkernels import scores, scores_stream, scores_grid
try:
    ordkernels.metrics
except ImportError as e:
    assert "pip install 'ordkernels[metrics]'" in str(e), e
else:
    raise AssertionError
assert "torch" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["scores.grid", "metrics.errors", "metrics.ranking", "metrics.distributions"])
def test_examples(module):
    found = doctest.testmod(importlib.import_module(f"ordkernels.{module}"), extraglobs={"torch": torch})
    assert found.attempted
    assert not found.failed
