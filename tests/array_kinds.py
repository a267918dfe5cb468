"""Arrays as people hold them, and calls of every public function of the data side with one of its array arguments left open."""

import collections
import math
import tempfile
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from ordkernels import metrics, ops, quantiles, rng, scores
from ordkernels.scores.grid import GridXAUC
from ordkernels.scores.streaming import BinnedXAUC, Coverage, Errors, GroupedJSD, SampleScores
from ordkernels.vocabulary import ValueVocabulary


def read_only(x):
    a = np.array(x)
    a.flags.writeable = False
    return a


def unaligned(x):
    a = np.array(x)
    b = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype)
    b[:] = a
    return b


def strided_field(x):
    a = np.zeros(len(x), [("other", "i1"), ("x", "i8")])
    a["x"] = x
    return a["x"]


def memmap(x):
    with tempfile.NamedTemporaryFile() as f:
        np.array(x, np.int64).tofile(f.name)
        return np.memmap(f.name, np.int64, "r", shape=len(x))


def pd():
    return pytest.importorskip("pandas")


def pl():
    return pytest.importorskip("polars")


def pa():
    return pytest.importorskip("pyarrow")


INTEGERS = {  # whole numbers in an integer type
    "tuple": tuple,
    "deque": collections.deque,
    "list of NumPy scalars": lambda x: list(np.array(x)),
    "objects": lambda x: np.array(x, object),
    "read-only": read_only,
    "unaligned": unaligned,
    "strided": lambda x: np.repeat(np.array(x), 2)[::2],
    "field of records": strided_field,
    "reversed": lambda x: np.array(x)[::-1].copy()[::-1],
    "column of a matrix in Fortran order": lambda x: np.asfortranarray(np.array([x, x]).T)[:, 1],
    "row of a matrix in Fortran order": lambda x: np.asfortranarray(np.array([x, x]))[1],
    "memmap": memmap,
    "masked nowhere": lambda x: np.ma.array(x, mask=[False] * len(x)),
    **{dtype: lambda x, dtype=dtype: np.array(x, dtype) for dtype in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i8", ">u2", ">i4")},
    **{
        f"tensor of {dtype}": lambda x, dtype=dtype: torch.tensor(x, dtype=getattr(torch, dtype))
        for dtype in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    },
    "strided tensor": lambda x: torch.tensor(x).repeat_interleave(2)[::2],
    "pandas": lambda x: pd().DataFrame({"x": [0, *x]})["x"][1:],  # its index does not begin at 0
    "pandas, of another order": lambda x: pd().Series(x, index=range(len(x))[::-1]),
    "pandas index": lambda x: pd().Index(x),
    "pandas objects": lambda x: pd().Series(x, dtype=object),
    "pandas Int64": lambda x: pd().Series(x, dtype="Int64"),
    "pandas UInt8": lambda x: pd().Series(x, dtype="UInt8"),
    "pandas categories": lambda x: pd().Series(x).astype("category"),
    "pandas of Arrow": lambda x: pd().Series(x, dtype="int64[pyarrow]"),
    "pandas array": lambda x: pd().array(x),
    "pandas sparse": lambda x: pd().Series(x).astype(pd().SparseDtype("int64")),
    "polars": lambda x: pl().Series(x),
    "polars UInt16": lambda x: pl().Series(x, dtype=pl().UInt16),
    "polars of chunks": lambda x: pl().concat([pl().Series(x[:1]), pl().Series(x[1:])], rechunk=False),
    "pyarrow": lambda x: pa().array(x),
    "pyarrow int16": lambda x: pa().array(x, pa().int16()),
    "pyarrow of chunks": lambda x: pa().chunked_array([x[:1], x[1:]]),
    "pyarrow dictionary": lambda x: pa().array(x).dictionary_encode(),
    "pyarrow slice": lambda x: pa().array([9, *x])[1:],
}
FLOATS = {
    "list of floats": lambda x: [float(v) for v in x],
    "list of floats and ints": lambda x: [float(x[0]), *x[1:]],
    **{dtype: lambda x, dtype=dtype: np.array(x, dtype) for dtype in ("f2", "f4", "f8", "g", ">f2", ">f4", ">f8", ">g")},
    "float objects": lambda x: np.array([float(v) for v in x], object),
    "reversed floats": lambda x: np.array(x, float)[::-1].copy()[::-1],
    "tensor with gradient": lambda x: torch.tensor(x, dtype=torch.float32, requires_grad=True),
    **{
        f"tensor of {dtype}": lambda x, dtype=dtype: torch.tensor(x).to(getattr(torch, dtype))
        for dtype in ("float16", "bfloat16", "float32", "float64")
    },
    "negated view": lambda x: torch._neg_view(-torch.tensor(x).float()),
    "reversed tensor": lambda x: torch.tensor(x).double().flip(0).flip(0),
    "pandas floats": lambda x: pd().Series(x, dtype="float32", index=[7] * len(x)),
    "pandas Float64": lambda x: pd().Series(x, dtype="Float64"),
    "pandas floats of Arrow": lambda x: pd().Series(x, dtype="double[pyarrow]"),
    "polars floats": lambda x: pl().Series(x, dtype=pl().Float32),
    "pyarrow floats": lambda x: pa().array(x, pa().float32()),
}
MISSING = {
    "None in a list": lambda x: [*x[:-1], None],
    "None in objects": lambda x: np.array([*x[:-1], None], object),
    "masked": lambda x: np.ma.array(x, mask=[True] + [False] * (len(x) - 1)),
    "masked floats": lambda x: np.ma.masked_equal(np.array(x, float), x[0]),
    "pandas Int64 with NA": lambda x: pd().Series([*x[:-1], None], dtype="Int64"),
    "pandas Float64 with NA": lambda x: pd().Series([*x[:-1], None], dtype="Float64"),
    "pandas boolean with NA": lambda x: pd().Series([None] + [True] * (len(x) - 1), dtype="boolean"),
    "pandas categories with NA": lambda x: pd().Series([*x[:-1], None]).astype("category"),
    "pandas of Arrow with null": lambda x: pd().Series([*x[:-1], None], dtype="int64[pyarrow]"),
    "polars with null": lambda x: pl().Series([*x[:-1], None]),
    "pyarrow with null": lambda x: pa().array([*x[:-1], None]),
    "pyarrow of chunks with null": lambda x: pa().chunked_array([x[:-1], pa().array([None], pa().int64())]),
}
REFUSED = {
    "generator": lambda x: (v for v in x),
    "map": lambda x: map(int, x),
    "set": set,
    "dict": lambda x: dict.fromkeys(x),
    "text": lambda x: "".join(map(str, x)),
    "bytes": lambda x: bytes(x),
    "texts": lambda x: list(map(str, x)),
    "text objects": lambda x: np.array(list(map(str, x)), object),
    "pandas text categories": lambda x: pd().Series(list(map(str, x))).astype("category"),
    "polars text": lambda x: pl().Series(list(map(str, x))),
    "complex": lambda x: np.array(x, complex),
    "complex tensor": lambda x: torch.tensor(x).to(torch.complex64),
    "records": lambda x: np.zeros(len(x), [("x", "f8")]),
    "fractions": lambda x: [Fraction(v) for v in x],
    "decimals": lambda x: np.array([Decimal(v) for v in x], object),
    "integers of more than 64 bits": lambda x: [*x[:-1], 2**70],
    "floats and integers that they round": lambda x: [0.5, *x[:-2], 2**53 + 1],
    "durations": lambda x: np.array(x, "m8[s]"),
    "matrix": np.matrix,
    "without dimensions": lambda x: np.array(x[0]),
    "tensor without dimensions": lambda x: torch.tensor(x[0]),
    "number": lambda x: float(x[0]),
    "two dimensions": lambda x: [x, x],
    "ragged": lambda x: [x, x[:1]],
    "data frame": lambda x: pd().DataFrame({"a": x, "b": x}),
    "sparse tensor": lambda x: torch.tensor(x).to_sparse(),
    "nested tensor": lambda x: torch.nested.nested_tensor([torch.tensor(x).float()]),
    "meta tensor": lambda x: torch.tensor(x, device="meta"),
}


class Call(NamedTuple):
    argument: str  # the one left open
    values: list[int]  # for it
    call: Callable[[Any], Any]


def updated(make, *columns):
    m = make()
    m.update(*columns)
    return m.compute()


Y, P, G = [3, 1, 2, 7], [1, 5, 2, 6], [4, 4, 9, 9]
V = ValueVocabulary([1, 5, 20])
OF_TWO_COLUMNS = (
    scores.mae, scores.rmse, scores.lcc, scores.srcc, scores.xauc, scores.kendall_tau, scores.normalized_gini, scores.decile_table,
)  # fmt: skip
NUMBERS = [
    *(Call("y", Y, lambda x, f=f: f(x, P)) for f in OF_TWO_COLUMNS),
    *(Call("prediction", P, lambda x, f=f: f(Y, x)) for f in OF_TWO_COLUMNS),
    Call("y", [0, 1, 1, 0], lambda x: scores.auc(x, P)),
    Call("prediction", P, lambda x: scores.auc([0, 1, 1, 0], x)),
    Call("weight", Y, lambda x: scores.xauc(Y, P, weight=x)),
    Call("weight", Y, lambda x: scores.auc([0, 1, 1, 0], P, weight=x)),
    Call("y", Y, lambda x: scores.cumulative_score(x, P, 2)),
    Call("prediction", P, lambda x: scores.cumulative_score(Y, x, 2)),
    Call("lower", [0, 1, 3, 0], lambda x: scores.coverage(x, [4] * 4, Y)),
    Call("upper", [4, 5, 1, 9], lambda x: scores.coverage([0] * 4, x, Y)),
    Call("y", Y, lambda x: scores.coverage([2] * 4, [4] * 4, x)),
    Call("y", Y, lambda x: scores.mae_by_interval(x, P, [0, 2, 9])),
    Call("prediction", P, lambda x: scores.mae_by_interval(Y, x, [0, 2, 9])),
    Call("edges", [0, 2, 9], lambda x: scores.mae_by_interval(Y, P, x)),
    Call("y", Y, lambda x: scores.histogram_jsd(x, P, G, edges=[0, 2, 4, 6])),
    Call("prediction", P, lambda x: scores.histogram_jsd(Y, x, G, edges=[0, 2, 4, 6])),
    Call("edges", [0, 2, 5], lambda x: scores.histogram_jsd(Y, P, G, edges=x)),
    Call("y", Y, lambda x: Errors(thetas=(2,)).update(x, P).result()),
    Call("prediction", P, lambda x: Errors(thetas=(2,)).update(Y, x).result()),
    Call("lower", [0, 1, 3, 0], lambda x: Coverage().update(x, [4] * 4, Y).result()),
    Call("upper", [4, 5, 1, 9], lambda x: Coverage().update([0] * 4, x, Y).result()),
    Call("y", Y, lambda x: Coverage().update([2] * 4, [4] * 4, x).result()),
    Call("y", Y, lambda x: SampleScores().update([[1, 5]] * 4, x).result()),
    Call("levels", [0, 1], lambda x: SampleScores(levels=x).update([[1, 5]] * 4, Y).result()),
    Call("y", Y, lambda x: GroupedJSD([0, 2, 5]).update(x, P, G).result()),
    Call("prediction", P, lambda x: GroupedJSD([0, 2, 5]).update(Y, x, G).result()),
    Call("edges", [0, 2, 5], lambda x: GroupedJSD(x).update(Y, P, G).result()),
    Call("y", Y, lambda x: BinnedXAUC([0, 2, 5], [0, 2, 5]).update(x, P).result()),
    Call("prediction", P, lambda x: BinnedXAUC([0, 2, 5], [0, 2, 5]).update(Y, x).result()),
    Call("y_edges", [0, 2, 5], lambda x: BinnedXAUC(x, [0, 2, 5]).update(Y, P).result()),
    Call("prediction_edges", [0, 2, 5], lambda x: BinnedXAUC([0, 2, 5], x).update(Y, P).result()),
    Call("y", Y, lambda x: GridXAUC(8).update(x, P).result()),
    Call("prediction", P, lambda x: GridXAUC(8).update(Y, x).result()),
    *(
        Call("values", Y, lambda x, f=f: f(x, [0, 3, 4], [0.25, 0.5]))
        for f in (quantiles.segment_quantiles, quantiles.leave_one_out_quantiles, quantiles.out_of_fold_quantiles)
    ),
    *(
        Call("levels", [0, 1], lambda x, f=f: f([3.0, 1.0, 2.0, 7.0], [0, 3, 4], x))
        for f in (quantiles.segment_quantiles, quantiles.leave_one_out_quantiles, quantiles.out_of_fold_quantiles)
    ),
    Call("values", Y, lambda x: quantiles.history_quantiles(x, G, [0, 1, 2, 3], [0.5])),
    Call("time", [0, 2, 1, 3], lambda x: quantiles.history_quantiles([3.0, 1.0, 2.0, 7.0], [0] * 4, x, [0.5])),
    Call("levels", [0, 1], lambda x: quantiles.history_quantiles([3.0, 1.0, 2.0, 7.0], [0] * 4, [0, 2, 1, 3], x)),
    Call("labels", [0, 10, 20, 30, 100], lambda x: ValueVocabulary.fit(x).values),
    Call("labels", [47, 0, 5], lambda x: V.encode(x)),
    Call("labels", [47, 0, 5], lambda x: ValueVocabulary([1, 5, 20], unit=0.5).encode(x, 30)[1]),
    Call("labels", [47, 0, 5], lambda x: str(V.report(x))),
    Call("y", [3, 1], lambda x: ops.crps([[0.0, 2.0, 5.0], [1.0, 5.0, 2.0]], x.detach() if isinstance(x, torch.Tensor) else x)),
    *(Call("prediction", P, lambda x, f=f: updated(f, x, Y)) for f in (metrics.MAE, metrics.RMSE, metrics.LCC, metrics.SRCC, metrics.XAUC)),
    *(Call("y", Y, lambda x, f=f: updated(f, P, x)) for f in (metrics.MAE, metrics.RMSE, metrics.LCC, metrics.SRCC, metrics.XAUC)),
    Call("weight", Y, lambda x: updated(metrics.XAUC, P, Y, x)),
    Call("y", [0, 1, 1, 0], lambda x: updated(metrics.AUC, P, x)),
    Call("prediction", P, lambda x: updated(lambda: metrics.XAUC("binned", bins=8), x, Y)),
    Call("y", Y, lambda x: updated(metrics.CRPS, [[1, 5]] * 4, x)),
    Call("levels", [0, 1], lambda x: updated(lambda: metrics.Pinball(x), [[1, 5]] * 4, Y)),
    Call("lower", [0, 1, 3, 0], lambda x: updated(metrics.IntervalCoverage, x, [4] * 4, Y)),
    Call("upper", [4, 5, 3, 9], lambda x: updated(metrics.IntervalCoverage, [0] * 4, x, Y)),
    Call("y", Y, lambda x: updated(metrics.IntervalCoverage, [0] * 4, [4] * 4, x)),
    Call("labels", Y, lambda x: updated(lambda: metrics.PDF(x, bins=2), P, Y, G)),
    Call("edges", [0, 2, 5], lambda x: updated(lambda: metrics.PDF(edges=x), P, Y, G)),
    Call("prediction", P, lambda x: updated(lambda: metrics.PDF(edges=[0, 2, 5]), x, Y, G)),
    Call("y", Y, lambda x: updated(lambda: metrics.PDF(edges=[0, 2, 5]), P, x, G)),
    Call("labels", Y, lambda x: metrics.equal_mass_edges(x, 2)),
]  # fmt: skip
IDS = [
    Call("group", G, lambda x: scores.xauc(Y, P, group=x)),
    Call("group", G, lambda x: scores.histogram_jsd(Y, P, x, edges=[0, 2, 4, 6])),
    Call("group", G, lambda x: GroupedJSD([0, 2, 5]).update(Y, P, x).state()),
    Call("group", G, lambda x: quantiles.history_quantiles([3.0, 1.0, 2.0, 7.0], x, [0, 1, 2, 3], [0.5])),
    Call("offsets", [0, 3, 4], lambda x: quantiles.segment_quantiles([3.0, 1.0, 2.0, 7.0], x, [0.25, 0.5])),
    Call("offsets", [0, 3, 4], lambda x: quantiles.leave_one_out_quantiles([3.0, 1.0, 2.0, 7.0], x, [0.25, 0.5])),
    Call("values", [1, 5, 20], lambda x: ValueVocabulary(x).values),
    Call("digits", [1, 2, 5], lambda x: ValueVocabulary.manual(60, digits=x).values),
    Call("tokens", [3, 4, 2, 4], lambda x: V.decode(x)),
    Call("group", G, lambda x: updated(metrics.XAUC, P, Y, None, x)),
    Call("group", G, lambda x: updated(lambda: metrics.PDF(edges=[0, 2, 5]), P, Y, x)),
    Call("row_ids", G, lambda x: rng.normal(0, x, 0, 3)),
]


def flat(result):
    """All numbers of a result, as Python's."""
    if isinstance(result, dict):
        return flat(list(result.values()))
    if isinstance(result, list | tuple):
        return [x for part in result for x in flat(part)]
    if isinstance(result, torch.Tensor):
        return result.detach().double().reshape(-1).tolist()
    return np.asarray(result).reshape(-1).tolist()


def same(a, b):
    return len(a) == len(b) and all(x == y or (isinstance(x, float) and math.isnan(x) and math.isnan(y)) for x, y in zip(a, b, strict=True))


__all__ = ["FLOATS", "IDS", "INTEGERS", "MISSING", "NUMBERS", "REFUSED", "Call", "flat", "read_only", "same"]
