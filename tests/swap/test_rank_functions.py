"""Rank correlations and XAUCs of other packages under ``swap_in("package")``: the same results, types, errors and warnings."""

import copy
import pickle
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from same_results import compare, same

from ordkernels import swap_in
from ordkernels.swap import SwapError

RNG = np.random.default_rng(0)


# --- scipy


def columns(kind, n=200):
    x, y = RNG.normal(size=(2, n))
    return {
        "random": (x, y),
        "related": (x, x + 0.3 * y),
        "tied": (np.round(x), np.round(y)),
        "one side tied": (x, np.round(y)),
        "int": (RNG.integers(0, 9, n), RNG.integers(0, 5, n)),
        "mixed": (RNG.integers(0, 9, n), y.astype(np.float32)),
        "strided": (np.repeat(x, 2)[::2], y[::-1]),
        "two dimensions": (x.reshape(2, -1), y.reshape(2, -1)),
        "infinite": (np.where(x > 1, np.inf, x), y),
        "lists": (x.tolist(), np.round(y).tolist()),
    }[kind]


KINDS = ["random", "related", "tied", "one side tied", "int", "mixed", "strided", "two dimensions", "infinite", "lists"]
OPTIONS = [{}, {"variant": "c"}, {"method": "asymptotic", "alternative": "less"}, {"alternative": "greater", "nan_policy": "omit"}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_kendalltau(kind, options):
    stats = pytest.importorskip("scipy.stats")
    x, y = columns(kind)
    assert compare("scipy", lambda: stats.kendalltau(x, y, **options)) == 1


def test_kendalltau_of_pandas():
    stats, pd = pytest.importorskip("scipy.stats"), pytest.importorskip("pandas")
    x, y = map(pd.Series, columns("tied"))
    assert compare("scipy", lambda: stats.kendalltau(x, y)) == 1


@pytest.mark.parametrize(
    ("x", "y", "options"),
    [
        ([], [], {}),
        ([1.0, 2.0], [2.0, 1.0], {}),
        ([1.0, 2.0, 3.0], [1.0, 2.0], {}),
        ([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0], {}),
        (np.arange(30.0), np.arange(30.0) % 7 + np.arange(30) / 50, {"method": "exact"}),
        (np.arange(100.0), np.arange(100.0), {}),
        (np.arange(40.0), np.where(np.arange(40) == 3, np.nan, np.arange(40)), {}),
        (np.arange(40.0), np.where(np.arange(40) == 3, np.nan, np.arange(40)), {"nan_policy": "omit"}),
        (np.arange(40.0), np.where(np.arange(40) == 3, np.nan, np.arange(40)), {"nan_policy": "raise"}),
        (np.round(np.sin(np.arange(40))), np.arange(40.0), {"method": "exact"}),
        (np.arange(40.0), np.cos(np.arange(40)), {"variant": "a"}),
        (np.arange(40.0), np.cos(np.arange(40)), {"alternative": "up"}),
        (np.ma.masked_less(np.arange(40.0), 3), np.cos(np.arange(40)), {}),
        (np.array(list("abcdefg")), np.arange(7), {}),
        (2**53 + np.arange(40), np.cos(np.arange(40)), {}),
    ],
)
def test_kendalltau_left_to_the_original(x, y, options):
    stats = pytest.importorskip("scipy.stats")
    assert compare("scipy", lambda: stats.kendalltau(x, y, **options)) == 0


def test_kendalltau_in_other_modules_and_wrong_arguments():
    stats = pytest.importorskip("scipy.stats")
    before = stats.kendalltau
    assert compare("scipy", lambda: stats.kendalltau([1.0, 2.0])) == 0
    with swap_in("scipy") as report:
        assert stats.kendalltau is not before
        assert "Kendall" in stats.kendalltau.__doc__
        assert report.swapped[0].op == "kendall_tau"
    assert stats.kendalltau is before


# --- torchmetrics


@pytest.mark.parametrize("variant", ["a", "b", "c"])
@pytest.mark.parametrize("kind", ["random", "tied", "int", "strided"])
@pytest.mark.parametrize("outputs", [1, 3])
def test_torchmetrics(variant, kind, outputs):
    functional = pytest.importorskip("torchmetrics.functional")
    metrics = pytest.importorskip("torchmetrics")
    pairs = [tuple(torch.from_numpy(np.ascontiguousarray(x)) for x in columns(kind, 60)) for _ in range(outputs)]
    p, t = (torch.stack(side, 1) if outputs > 1 else side[0] for side in zip(*pairs, strict=True))
    assert compare("torchmetrics", lambda: functional.kendall_rank_corrcoef(p, t, variant)) == 1

    def evaluate(metric):
        for part in range(3):
            metric.update(p[part::3], t[part::3])
        return metric.compute()

    def made():
        return metrics.KendallRankCorrCoef(variant, num_outputs=outputs)

    assert compare("torchmetrics", lambda: evaluate(made())) == 1
    metric, theirs = made(), made()
    original = vars(metric)["compute"]
    report = swap_in(metric, strict=True)
    same(evaluate(metric), evaluate(theirs))
    assert report.swapped[0].calls == 1
    assert report.swapped[0].verified == ["compute"]
    metric.reset()
    same(metric(p, t), theirs(p, t))
    report.undo()
    assert vars(metric)["compute"] is original
    assert type(metric) is metrics.KendallRankCorrCoef


def test_torchmetrics_left_to_the_original():
    functional = pytest.importorskip("torchmetrics.functional")
    x, y = torch.randn(2, 30)
    for call in (
        lambda: functional.kendall_rank_corrcoef(x, y, t_test=True),
        lambda: functional.kendall_rank_corrcoef(x, y[:-1]),
        lambda: functional.kendall_rank_corrcoef(x, torch.where(y > 1, torch.nan, y)),
        lambda: functional.kendall_rank_corrcoef(x[:0], y[:0]),
        lambda: functional.kendall_rank_corrcoef(x, y, variant="d"),
    ):
        assert compare("torchmetrics", call) == 0


def test_torchmetrics_copies_pickles_and_many_rows():
    metrics = pytest.importorskip("torchmetrics")
    metric = metrics.KendallRankCorrCoef()
    n = 100_000  # whose products of pairs the original's int64 does not hold
    x = torch.randn(n, generator=torch.Generator().manual_seed(0))
    y = x + torch.randn(n, generator=torch.Generator().manual_seed(1))
    metric.update(x, y)
    report = swap_in(metric)
    assert metric.compute().item() == pytest.approx(0.5, abs=0.01)  # 2/pi asin of the correlation
    assert report.swapped[0].verified == ["compute"]
    copied, loaded = copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))
    assert type(loaded) is metrics.KendallRankCorrCoef
    same(copied.compute(), metric.compute())
    metric.reset()
    assert copied.preds != []


# --- XAUC

TORCHREC = """
import torch

def compute_error_sum(labels, predictions, weights):
    sums = []
    for p, y, w in zip(predictions.double(), labels, weights):
        a, b = torch.meshgrid(p, p, indexing="ij")
        c, d = torch.meshgrid(y, y, indexing="ij")
        u, v = torch.meshgrid(w, w, indexing="ij")
        same_order = torch.logical_or(torch.logical_and(a > b, c > d), torch.logical_and(a < b, c < d))
        right = torch.logical_or(same_order, torch.logical_and(a == b, c == d)).double() * (u * v)
        sums.append(torch.sum(torch.triu(right, diagonal=1)).view(1))
    return torch.cat(sums)

def compute_weighted_num_pairs(weights):
    sums = []
    for w in weights:
        u, v = torch.meshgrid(w, w, indexing="ij")
        sums.append(torch.sum(torch.triu(u * v, diagonal=1)).view(1))
    return torch.cat(sums)
"""


@pytest.fixture
def torchrec(monkeypatch):
    """A module of the structure of TorchRec's."""
    for name in ("torchrec", "torchrec.metrics", "torchrec.metrics.xauc"):
        module = types.ModuleType(name)
        module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)
    exec(TORCHREC, module.__dict__)
    return module


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.int64, torch.int32])
@pytest.mark.parametrize("ones", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_torchrec(torchrec, dtype, ones, tied):
    y, p = torch.randn(2, 3, 50)
    y, p = (y.round(), p.round()) if tied else (y, p)
    w = (torch.ones(3, 50) if ones else torch.rand(3, 50) * 9).to(dtype)
    w[0, :5] = 0
    rtol = 1e-6 if dtype == torch.float32 else 1e-15
    assert compare("torchrec", lambda: torchrec.compute_error_sum(y, p, w), rtol) == 1
    assert compare("torchrec", lambda: torchrec.compute_weighted_num_pairs(w), rtol) == 1
    assert compare("torchrec", lambda: torchrec.compute_error_sum(labels=y.long(), predictions=p[:, :50], weights=w), rtol) == 1
    wide = torch.rand(2, 6000, generator=torch.Generator().manual_seed(3))
    with swap_in("torchrec"):
        found = torchrec.compute_weighted_num_pairs(wide)
    wide = wide.double()
    torch.testing.assert_close(found.double(), (wide.sum(1) ** 2 - (wide**2).sum(1)) / 2, rtol=1e-6, atol=0)


def test_torchrec_left_to_the_original(torchrec, monkeypatch):
    y, p = torch.randn(2, 2, 20)
    w = torch.rand(2, 20)
    for call in (
        lambda: torchrec.compute_error_sum(y, p, -w),
        lambda: torchrec.compute_error_sum(y, torch.where(p > 1, torch.nan, p), w),
        lambda: torchrec.compute_error_sum(y[:, :0], p[:, :0], w[:, :0]),
        lambda: torchrec.compute_error_sum(y[:0], p[:0], w[:0]),
        lambda: torchrec.compute_error_sum(y, p[:, 1:], w),
        lambda: torchrec.compute_error_sum(y, p, w.half()),
        lambda: torchrec.compute_weighted_num_pairs(w.requires_grad_()),
        lambda: torchrec.compute_weighted_num_pairs(),
    ):
        assert compare("torchrec", call) == 0
    monkeypatch.setattr(torchrec, "compute_error_sum", lambda labels, predictions, weights: weights)
    assert "another structure" in swap_in("torchrec").skipped[0].reason


def script(count_equal):
    """An evaluation script's XAUC, as GR's authors (strictly greater) or those of CWM (at least as great) count pairs."""

    def xauc_score(labels, pres):
        y = [a for a, _ in sorted(zip(labels.reshape(-1), pres.reshape(-1), strict=True), key=lambda row: row[1], reverse=True)]
        n = len(y)
        pairs = n * (n - 1) / 2
        found = sum(y[i] >= y[j] if count_equal else y[i] > y[j] for i in range(n) for j in range(i + 1, n))
        if count_equal and pairs == 0:
            return 1
        return int(found) / pairs

    return xauc_score


@pytest.mark.parametrize("count_equal", [False, True])
def test_xauc_score_of_scripts(monkeypatch, count_equal):
    module = types.ModuleType("my_metrics")
    module.xauc_score = script(count_equal)
    monkeypatch.setitem(sys.modules, "my_metrics", module)
    y, p = RNG.normal(size=(2, 80))
    for a, b in ((y, p), (np.round(y), np.round(p)), (y.reshape(-1, 2), p[::-1]), (np.arange(80), np.round(p)), map(torch.tensor, (y, p))):
        assert compare("my_metrics", lambda a=a, b=b: module.xauc_score(a, b)) == 1
    for a, b in ((y[:1], p[:1]), (y[:0], p[:0]), (y, p[1:]), (y.tolist(), p.tolist()), (y, np.where(p > 1, np.nan, p))):
        assert compare("my_metrics", lambda a=a, b=b: module.xauc_score(a, b)) == 0


@pytest.mark.parametrize("f", [lambda labels, pres: 0.5, lambda labels, pres: None, lambda labels: 0.5, 3])
def test_functions_of_that_name_of_another_rule_are_left_alone(monkeypatch, f):
    module = types.ModuleType("my_metrics")
    module.xauc_score = f
    monkeypatch.setitem(sys.modules, "my_metrics", module)
    report = swap_in("my_metrics")
    assert report.swapped == []
    assert "no rule for ties" in report.skipped[0].reason
    assert module.xauc_score is f


def test_a_wrong_kernel_is_found_and_undone(monkeypatch):
    from ordkernels.swap import scipy as rules

    stats = pytest.importorskip("scipy.stats")
    before = stats.kendalltau
    right = rules.pair_counts
    monkeypatch.setattr(rules, "pair_counts", lambda y, x: (right(y, x)[0] + 1, *right(y, x)[1:]))
    x, y = columns("random")
    swap_in("scipy")
    with pytest.raises(SwapError, match="kendalltau"):
        stats.kendalltau(x, y)
    assert stats.kendalltau is before


def test_threads_agree():
    stats = pytest.importorskip("scipy.stats")
    tables = [columns("tied") for _ in range(24)]
    expected = [stats.kendalltau(x, y).statistic for x, y in tables]
    with swap_in("scipy") as report, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda table: stats.kendalltau(*table).statistic, tables))
        assert report.swapped[0].verified == ["kendalltau"]
    assert found == expected
