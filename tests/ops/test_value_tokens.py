"""embedding_mixup and windowed_value together: definition, error budgets, hostile rows, ways through autograd, Triton."""

import math

import pytest
import torch
from _tokens import DEVICE, FLOATS, NATIVE_AND_REFERENCE, by_hand, inputs, native, needs_triton, on, results
from torch import Tensor

import ordkernels
from ordkernels.ops import embedding_mixup, windowed_value
from ordkernels.testing.compare import assert_within_budget, same_bits
from ordkernels.testing.inputs import SIZES, strided


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
@pytest.mark.usefixtures("native")
def test_the_native_kernels_are_there() -> None:
    x, e, v = inputs(2, 9, 4)
    with ordkernels.use_backend("cpu"):
        results(x, e, v, 2)


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
