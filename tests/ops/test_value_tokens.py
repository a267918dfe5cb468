"""embedding_mixup and windowed_value: the reference against its definition written out, the kernels against the reference."""

import importlib.util
import math
import os
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import ordkernels
from ordkernels.ops import embedding_mixup, windowed_value
from ordkernels.testing.compare import assert_within_budget, same_bits
from ordkernels.testing.inputs import SIZES, strided

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
KERNEL = torch.ops.ordkernels
native = pytest.mark.native
NATIVE_AND_REFERENCE = pytest.mark.parametrize("backend", ["reference", None])


class _None:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def on(backend: str | None) -> Any:
    return ordkernels.use_backend(backend) if backend else _None()


def inputs(R: int, V: int, E: int, dtype: torch.dtype = torch.float32, scale: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """logits with ties in every fourth row, embedding, values (0 for specials)."""
    x = torch.randn(R, V, dtype=torch.float64) * scale
    x[::4] = x[::4].round()
    values = torch.rand(V, dtype=torch.float64).sort(descending=True).values * 10
    values[:3] = 0
    return x.to(dtype), torch.randn(V, E, dtype=torch.float64).to(dtype), values.to(dtype)


def results(x: Tensor, e: Tensor, v: Tensor, window: int | None) -> list[Tensor]:
    """Both outputs, and the gradients of everything."""
    x, e, v = (t.detach().clone().requires_grad_() for t in (x, e, v))
    mixed, value = embedding_mixup(x, e, window=window), windowed_value(x, v, window=window)
    g = [torch.linspace(-1, 1, t.numel(), dtype=torch.float64).mul(64).round().div(64).view(t.shape).to(t.dtype) for t in (mixed, value)]
    return [mixed.detach(), value.detach(), *torch.autograd.grad(mixed, (x, e), g[0]), *torch.autograd.grad(value, (x, v), g[1])]


# ---- what is computed


def by_hand(x: list[float], e: list[list[float]], v: list[float], window: int | None, first: int) -> tuple[list[float], float]:
    V, m = len(x), x.index(max(x))
    b = V if window is None else window // 2
    around = [j for j in range(V) if abs(j - m) <= b]
    mix = around if window is None else [m] if m < first else [j for j in around if j >= first]
    weights = [math.exp(x[j] - x[m]) for j in mix]
    mixed = [sum(w * e[j][k] for w, j in zip(weights, mix, strict=True)) / sum(weights) for k in range(len(e[0]))]
    total = sum(math.exp(t - x[m]) for t in x)
    return mixed, sum(math.exp(x[j] - x[m]) / total * v[j] for j in around)


@native
@NATIVE_AND_REFERENCE
@pytest.mark.parametrize("window", [0, 1, 2, 5, 20, 1000, None])
def test_values_follow_the_definition(backend: str | None, window: int | None) -> None:
    x, e, v = inputs(40, 17, 5, torch.float64)
    for first in (0, 3, 17, 40):
        with on(backend):
            mixed, value = embedding_mixup(x, e, window=window, first_value_token=first), windowed_value(x, v, window=window)
        for i in range(len(x)):
            a, b = by_hand(x[i].tolist(), e.tolist(), v.tolist(), window, first)
            torch.testing.assert_close(mixed[i], torch.tensor(a, dtype=torch.float64))
            torch.testing.assert_close(value[i], torch.tensor(b, dtype=torch.float64))


@native
@NATIVE_AND_REFERENCE
def test_a_special_argmax_stands_alone_and_specials_are_never_mixed_in(backend: str | None) -> None:
    e = torch.eye(8)
    x = torch.zeros(4, 8)
    x[0, 1], x[1, 3], x[2, 7], x[3, 5] = 9.0, 9.0, 9.0, 9.0
    with on(backend):
        mixed = embedding_mixup(x, e, window=6)
    assert torch.equal(mixed[0], e[1])
    assert (mixed[1:, :3] == 0).all()
    assert (mixed[1] > 0).tolist() == [False] * 3 + [True] * 4 + [False]
    assert (mixed[2] > 0).tolist() == [False] * 4 + [True] * 4
    assert (mixed[3] > 0).tolist() == [False] * 3 + [True] * 5
    torch.testing.assert_close(mixed.sum(1), torch.ones(4))


@native
@NATIVE_AND_REFERENCE
def test_the_first_of_equal_logits_is_the_argmax(backend: str | None) -> None:
    x = torch.zeros(3, 40)
    x[1, 17], x[1, 30], x[2, 3], x[2, 35] = 1.0, 1.0, 1.0, 1.0
    with on(backend):
        mixed = embedding_mixup(x, torch.arange(40.0)[:, None], window=0)
        whole = windowed_value(x, torch.ones(40), window=0)
    assert mixed[:, 0].tolist() == [0.0, 17.0, 3.0]
    torch.testing.assert_close(whole, torch.tensor([1 / 40, *[math.e / (2 * math.e + 38)] * 2]))


@native
@NATIVE_AND_REFERENCE
def test_masked_logits_and_rows_without_a_softmax(backend: str | None) -> None:
    x, e, v = inputs(8, 20, 4)
    x[0, :7], x[2], x[3, 11], x[5, 4], x[6, 1] = -math.inf, -math.inf, math.inf, math.nan, math.nan
    bad = torch.tensor([i in (2, 3, 5, 6) for i in range(8)])
    for window in (4, None):
        with on(backend):
            got, clean = results(x, e, v, window), results(x[~bad], e, v, window)
        for t, c in zip(got[:2], clean[:2], strict=True):
            assert t[bad].isnan().all()
            assert same_bits([t[~bad]], [c])
            assert not c.isnan().any()
        if backend is None:  # one row's NaN reaches its own gradient alone, and the tables' sums
            for i in (2, 4):
                assert got[i][bad].isnan().all()
                assert not got[i][~bad].isnan().any()


# ---- accuracy, sizes, layouts


@native
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("R", "V", "E"), [*((r, 64, 64) for r in SIZES), (67, 1, 1), (33, 130, 37), (9, 20, 300), (5, 9, 8)])
@pytest.mark.parametrize("window", [20, 3, None])
def test_errors_keep_their_budget(dtype: torch.dtype, R: int, V: int, E: int, window: int | None) -> None:
    x, e, v = inputs(R, V, E, dtype)
    got = results(x, e, v, window)
    with ordkernels.use_backend("reference"):
        eager, truth = results(x, e, v, window), results(x.double(), e.double(), v.double(), window)
    assert_within_budget(got, eager, truth, ulps=16.0, scale=1.0)


@native
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_wide_tables_with_16_bit_logits(dtype: torch.dtype) -> None:
    x, e, v = inputs(50, 40, 24, dtype)
    wide = results(x, e.float(), v.float() * 1e6, 6)
    assert [t.dtype for t in wide] == [torch.float32] * 2 + [dtype, torch.float32] * 2
    with ordkernels.use_backend("reference"):
        eager = results(x, e.float(), v.float() * 1e6, 6)
        truth = results(x.double(), e.double(), v.double() * 1e6, 6)
    assert_within_budget(wide[:4], eager[:4], truth[:4], scale=1.0)
    assert_within_budget([wide[5]], [eager[5]], [truth[5]], scale=1.0)


@native
def test_huge_logits_stay_exact() -> None:
    x, e, v = inputs(30, 33, 9, scale=3e4)
    got = results(x, e, v, 8)
    with ordkernels.use_backend("reference"):
        assert_within_budget(got, results(x, e, v, 8), results(x.double(), e.double(), v.double(), 8), scale=1.0)


@native
def test_strides_and_leading_dimensions_do_not_matter() -> None:
    x, e, v = inputs(24, 19, 6)
    mixed, value = embedding_mixup(x, e, window=4), windowed_value(x, v, window=4)
    assert same_bits((embedding_mixup(strided(x), strided(e), window=4),), (mixed,))
    assert same_bits((windowed_value(strided(x), strided(v), window=4),), (value,))
    for lead in ((24,), (4, 6), (2, 3, 4), (24, 1)):
        assert same_bits((embedding_mixup(x.view(*lead, 19), e, window=4),), (mixed.view(*lead, 6),))
        assert same_bits((windowed_value(x.view(*lead, 19), v, window=4),), (value.view(lead),))
    assert same_bits((embedding_mixup(x[3], e, window=4), windowed_value(x[3], v, window=4)), (mixed[3], value[3]))
    assert embedding_mixup(x.view(4, 6, 19)[:0], e, window=4).shape == (0, 6, 6)
    assert windowed_value(x.view(4, 6, 19)[:, :0], v, window=4).shape == (4, 0)
    assert same_bits(
        (torch.autograd.functional.vjp(lambda t: windowed_value(t, v, window=4), x.view(4, 6, 19), torch.ones(4, 6))[1],),
        (torch.autograd.functional.vjp(lambda t: windowed_value(t, v, window=4), x, torch.ones(24))[1].view(4, 6, 19),),
    )


@native
def test_rows_and_threads_do_not_change_a_bit() -> None:
    x, e, v = inputs(5000, 30, 8)
    whole, before = results(x, e, v, 6), torch.get_num_threads()
    for rows in (slice(0, 1), slice(3, 200), slice(4999, 5000)):
        assert same_bits((embedding_mixup(x[rows], e, window=6), windowed_value(x[rows], v, window=6)), [t[rows] for t in whole[:2]])
    try:
        torch.set_num_threads(1)
        assert same_bits(results(x, e, v, 6), whole)
    finally:
        torch.set_num_threads(before)


@native
def test_unwanted_gradients_are_not_made() -> None:
    x, e, v = inputs(6, 9, 4)
    for wanted, empty in ((1, 1), (2, 0)):
        assert KERNEL._embedding_mixup_backward(x, e, torch.ones(6, 4), 4, 3, wanted)[empty].numel() == 0
        assert KERNEL._windowed_value_backward(x, v, torch.ones(6), 4, wanted)[empty].numel() == 0


# ---- every way through autograd


@native
@pytest.mark.parametrize("window", [4, 0, None])
def test_gradcheck(window: int | None) -> None:
    x, e, v = (t.requires_grad_() for t in inputs(6, 12, 5, torch.float64))
    with torch.no_grad():
        x += torch.rand_like(x) * 0.1  # no ties: there the argmax changes
    assert torch.autograd.gradcheck(lambda x, e: embedding_mixup(x, e, window=window), (x, e))
    assert torch.autograd.gradcheck(lambda x, v: windowed_value(x, v, window=window), (x, v))


@pytest.mark.registration
@native
def test_opcheck() -> None:
    x, e, v = inputs(5, 9, 4)
    for window in (4, -1):
        torch.library.opcheck(KERNEL.embedding_mixup.default, (x.clone().requires_grad_(), e.clone().requires_grad_(), window, 3))
        torch.library.opcheck(KERNEL.windowed_value.default, (x.clone().requires_grad_(), v.clone().requires_grad_(), window))
        torch.library.opcheck(KERNEL._embedding_mixup.default, (x, e, window, 3))
        for wanted in (1, 2, 3):
            torch.library.opcheck(KERNEL.embedding_mixup_backward.default, (x, e, torch.rand(5, 4), window, 3, wanted))
            torch.library.opcheck(KERNEL.windowed_value_backward.default, (x, v, torch.rand(5), window, wanted))


def loss(x: Tensor, e: Tensor, v: Tensor) -> Tensor:
    return (embedding_mixup(x, e, window=4) ** 2).sum() + (windowed_value(x, v, window=2) ** 2).sum()


@pytest.mark.registration
@native
def test_four_ways_agree() -> None:
    x, e, v = inputs(12, 9, 4, torch.float64)
    x = x.view(3, 4, 9)
    args = [t.clone().requires_grad_() for t in (x[0], e, v)]
    eager = torch.autograd.grad(loss(*args), args)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for way in (torch.autograd.grad(compiled(*args), args), torch.func.grad(loss, argnums=(0, 1, 2))(x[0], e, v)):
        for a, b in zip(way, eager, strict=True):
            torch.testing.assert_close(a, b)
    each = [torch.func.grad(loss, argnums=(0, 1, 2))(x[i], e, v) for i in range(3)]
    for dims in ((0, None, None), (1, None, None), (0, 0, 0)):
        tables = (e, v) if dims[1] is None else (e.expand(3, 9, 4), v.expand(3, 9))
        batch = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2)), in_dims=dims)(x.movedim(0, dims[0]), *tables)
        for i, a in enumerate(batch):
            torch.testing.assert_close(a, torch.stack([g[i] for g in each]))


@native
def test_second_derivatives_and_forward_mode_raise() -> None:
    x, e, v = inputs(3, 9, 4)
    for f in (lambda x: embedding_mixup(x, e, window=4), lambda x: windowed_value(x, v, window=4)):
        leaf = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(f(leaf).pow(2).sum(), leaf, create_graph=True)
        with pytest.raises(RuntimeError, match=r"twice"):
            torch.autograd.grad(g.sum(), leaf)
        with forward_ad.dual_level(), pytest.raises((RuntimeError, NotImplementedError)):
            forward_ad.unpack_dual(f(forward_ad.make_dual(x, torch.ones_like(x))))


# ---- bad input, backends

X, TABLE = torch.ones(2, 5), torch.ones(5, 3)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: embedding_mixup([1.0], TABLE, window=2), TypeError, "logits: expected a torch.Tensor, got list"),
        (lambda: embedding_mixup(X.int(), TABLE, window=2), TypeError, "logits: expected float32, float64"),
        (lambda: embedding_mixup(torch.ones(()), TABLE, window=2), ValueError, r"logits: expected \[..., V\] .* 1, got shape \[\]"),
        (lambda: embedding_mixup(torch.ones(2, 0), TABLE, window=2), ValueError, r"logits: .* got shape \[2, 0\]"),
        (lambda: embedding_mixup(X, TABLE[:4], window=2), ValueError, r"embedding: expected \[V, E\] with V = 5 as logits, got \[4, 3\]"),
        (lambda: embedding_mixup(X, TABLE[:, :0], window=2), ValueError, r"embedding: .*E at least 1, got \[5, 0\]"),
        (lambda: embedding_mixup(X, TABLE[:, 0], window=2), ValueError, r"embedding: expected \[V, E\], got 1 dimensions"),
        (lambda: embedding_mixup(X, TABLE.double(), window=2), TypeError, "embedding: expected float32 with logits of torch.float32"),
        (lambda: embedding_mixup(X.half(), TABLE.bfloat16(), window=2), TypeError, "embedding: expected float16 or float32"),
        (lambda: embedding_mixup(X, TABLE, window=-2), ValueError, "window: expected at least 0, got -2"),
        (lambda: embedding_mixup(X, TABLE, window=2.0), TypeError, "window: expected an int, got float"),
        (lambda: embedding_mixup(X, TABLE, window=True), TypeError, "window: expected an int, got bool"),
        (lambda: embedding_mixup(X, TABLE, window=2, first_value_token=None), TypeError, "first_value_token: expected an int, got N"),
        (lambda: embedding_mixup(X, TABLE, window=2, first_value_token=-1), ValueError, "first_value_token: expected at least 0, got -1"),
        (lambda: windowed_value(X, torch.ones(4), window=2), ValueError, r"values: expected \[V\] with V = 5 as logits, got \[4\]"),
        (lambda: windowed_value(X, TABLE, window=2), ValueError, r"values: expected \[V\], got 2 dimensions"),
        (lambda: windowed_value(X, torch.ones(5).int(), window=2), TypeError, "values: expected float32"),
        (lambda: windowed_value(X, torch.ones(5, device="meta"), window=2), ValueError, "values: expected the device of logits"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("op", ["embedding_mixup", "windowed_value"])
def test_backends_are_listed(op: str) -> None:
    listed = ordkernels.available_backends(op)
    assert listed["reference"] == []
    assert any("no CUDA C++ kernel" in reason for reason in listed["cuda"])


@native
@pytest.mark.usefixtures("native")
def test_the_native_kernels_are_there() -> None:
    x, e, v = inputs(2, 9, 4)
    with ordkernels.use_backend("cpu"):
        results(x, e, v, 2)


# ---- Triton

INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if torch.cuda.is_available() and not INTERPRET else "cpu"
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not (INTERPRET or DEVICE == "cuda"),
    reason="neither TRITON_INTERPRET=1 nor a GPU, or no triton",
)


@pytest.mark.triton
@needs_triton
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("R", "V", "E", "window"), [(5, 9, 4, 2), (70, 64, 64, 20), (33, 100, 70, None), (0, 5, 3, 2)])
def test_triton_keeps_the_error_budget(dtype: torch.dtype, R: int, V: int, E: int, window: int | None) -> None:
    x, e, v = (t.to(DEVICE) for t in inputs(R, V, E, dtype))
    with ordkernels.use_backend("triton"):
        got = results(x, e, v, window)
    with ordkernels.use_backend("reference"):
        eager, truth = results(x, e, v, window), results(x.double(), e.double(), v.double(), window)
    assert_within_budget(got, eager, truth, scale=1.0)


@pytest.mark.triton
@needs_triton
def test_triton_on_hostile_rows() -> None:
    x, e, v = inputs(8, 20, 4)
    x[0, :7], x[2], x[3, 11], x[5, 4], x[7, 1] = -math.inf, -math.inf, math.inf, math.nan, 1e30
    bad = torch.tensor([i in (2, 3, 5) for i in range(8)])
    for window in (4, None):
        with ordkernels.use_backend("triton"):
            got = results(x.to(DEVICE), e.to(DEVICE), v.to(DEVICE), window)
        with ordkernels.use_backend("reference"):
            clean = results(x[~bad], e, v, window)
        for i in (0, 1):
            assert got[i].cpu()[bad].isnan().all()
            torch.testing.assert_close(got[i].cpu()[~bad], clean[i])
        for i in (2, 4):
            assert got[i].cpu()[bad].isnan().all()
            assert not got[i].cpu()[~bad].isnan().any()


@pytest.mark.triton
@needs_triton
def test_triton_takes_wide_tables() -> None:
    x, e, v = (t.to(DEVICE) for t in inputs(6, 12, 5, torch.bfloat16))
    with ordkernels.use_backend("triton"):
        got = results(x, e.float(), v.float(), 4)
    with ordkernels.use_backend("reference"):
        for a, b in zip(got, results(x, e.float(), v.float(), 4), strict=True):
            torch.testing.assert_close(a, b)
