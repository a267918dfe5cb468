"""One set of array checks: the same kinds of arrays are accepted, and rejected with the same words, wherever arrays are arguments."""

import numpy as np
import pytest
import torch

from ordkernels import data, ops, quantiles, scores
from ordkernels.scores.streaming import Errors, GroupedJSD, SampleScores
from ordkernels.vocabulary import ValueVocabulary

VALUES = [3.0, 1.0, 2.0, 7.0]


def read_only(x):
    a = np.array(x)
    a.flags.writeable = False
    return a


def pandas(x):
    return pytest.importorskip("pandas").DataFrame({"x": [0.0, *x]})["x"][1:]  # its index does not begin at 0


KINDS = {
    "tuple": tuple,
    "float32": lambda x: np.array(x, np.float32),
    "float16": lambda x: np.array(x, np.float16),
    "int8": lambda x: np.array(x, np.int8),
    "uint64": lambda x: np.array(x, np.uint64),
    "big-endian": lambda x: np.array(x, ">f8"),
    "read-only": read_only,
    "strided": lambda x: np.repeat(np.array(x), 2)[::2],
    "reversed": lambda x: np.array(x)[::-1].copy()[::-1],
    "tensor": torch.tensor,
    "tensor with gradient": lambda x: torch.tensor(x, requires_grad=True),
    "bfloat16": lambda x: torch.tensor(x, dtype=torch.bfloat16),
    "negated view": lambda x: torch._neg_view(-torch.tensor(x)),
    "pandas": pandas,
    "nullable pandas": lambda x: pytest.importorskip("pandas").Series(x, dtype="Int64"),
    "polars": lambda x: pytest.importorskip("polars").Series(x),
    "pyarrow": lambda x: pytest.importorskip("pyarrow").array(x),
}
CALLS = {
    "mae": lambda x: scores.mae(x, [0.0] * 4),
    "xauc": lambda x: scores.xauc(x, x).pairs,
    "histogram_jsd": lambda x: scores.histogram_jsd(x, x, [0] * 4, edges=[0, 2, 4]),
    "crps": lambda x: ops.crps([[0.0, 1.0]] * 4, x.detach() if isinstance(x, torch.Tensor) else x),
    "errors": lambda x: Errors().update(x, [0.0] * 4).result()["mae"],
    "segment_quantiles": lambda x: quantiles.segment_quantiles(x, [0, 4], [0.5]),
    "history_quantiles": lambda x: quantiles.history_quantiles([1.0] * 4, [0] * 4, x, [0.5]),
    "vocabulary": lambda x: ValueVocabulary([1]).encode(x)[1],
}


def plain(x):
    return np.asarray(x.detach().double() if isinstance(x, torch.Tensor) else x, np.float64)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_taken_everywhere(call, kind):
    np.testing.assert_array_equal(plain(CALLS[call](KINDS[kind](VALUES))), plain(CALLS[call](VALUES)))


@pytest.mark.parametrize("call", [c for c in CALLS if c not in ("crps", "history_quantiles")])  # which have words of their own
@pytest.mark.parametrize(
    ("x", "error", "text"),
    [
        ([[1.0, 2.0]], ValueError, r"expected shape \[N\], got \[1, 2\]"),
        ([[1.0], [1.0, 2.0]], ValueError, r"expected shape \[N\], got list"),
        (["a"] * 4, TypeError, "expected integers or floats of 16 to 64 bits, got <U1"),
        (torch.ones(4, dtype=torch.complex64), TypeError, "expected integers or floats of 16 to 64 bits, got torch.complex64"),
        (torch.ones(4, device="meta"), TypeError, "expected a tensor with values, got a tensor on meta"),
        (torch.ones(4).to_sparse(), TypeError, "expected a dense tensor, got torch.sparse_coo"),
        ([1.0, np.nan, 2.0, 3.0], ValueError, "expected no NaN, got"),
    ],
    ids=["two dimensions", "ragged", "text", "complex", "meta", "sparse", "NaN"],
)
def test_the_same_words_everywhere(call, x, error, text):
    with pytest.raises(error, match=rf"^(y|values|labels): {text}"):
        CALLS[call](x)


@pytest.mark.parametrize("ids", [np.array([2**64 - 1, 1], np.uint64), np.array([-1, 1]), torch.tensor([-1, 1]), [-1, 1]])
def test_ids_are_any_integers_of_64_bits(ids):
    assert scores.xauc([1, 2], [1, 2], group=ids).pairs == 0
    assert GroupedJSD([0, 1]).update([1, 2], [1, 2], ids).state()["_ids"].tolist() == [-1, 1]
    assert np.isnan(quantiles.history_quantiles([1.0, 2.0], ids, [0, 1], [0.5])).all()


def test_samples_are_taken_like_columns():
    want = SampleScores().update([[0.0, 2.0]], [1.0]).result()
    for kind in (torch.tensor, lambda x: torch.tensor(x).bfloat16(), lambda x: np.array(x, ">f4"), read_only):
        assert SampleScores().update(kind([[0.0, 2.0]]), kind([1.0])).result() == want


def test_loaders_check_sizes_with_the_same_words():
    for call in (
        lambda: data.kuairand(quantiles=0),
        lambda: data.kuairand_sessions(items=0),
        lambda: data.movielens("", long=0),
    ):
        with pytest.raises(ValueError, match=r"(quantiles|items|long): expected a whole number of at least 1, got 0"):
            call()
