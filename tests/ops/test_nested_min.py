"""Order-preserving aggregation: against its definition on every tie, the kernels against the reference, gradients."""

import itertools
import math
from typing import Any

import pytest
import torch
from _increments import DEVICE, FLOATS, KERNEL, both_backends, floats, native, needs_triton, results, results_on_grids
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import forward_ad

import ordkernels
from ordkernels.ops import encode_increments, nested_min
from ordkernels.testing.compare import assert_within_budget, same_bits
from ordkernels.testing.inputs import SIZES, strided


def grid(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Every tie of the clip and of the cap: v, w [N, 3], C [N], exact in every dtype."""
    rows = itertools.product((-0.5, 0.0, 0.5, 1.0, 1.5), repeat=3)
    cases = [(v, w, c) for v in rows for w in ((1.0, 1.0, 1.0), (0.5, 1.0, 0.0), (1.0, 0.0, 0.5)) for c in (0.0, 0.5, 1.0, 1.5, 2.0, 9.0)]
    v, w, c = (torch.tensor(x, dtype=dtype) for x in zip(*cases, strict=True))
    return v, w, c


def by_hand(v: Any, w: Any, C: float) -> tuple[list[float], list[list[float]]]:
    """One row of the definition with its stated derivatives: outputs (parts, value) and their slopes in (v_1.., w_1.., C)."""
    K = len(v)
    n = 2 * K + 1
    parts, slopes, total, reached = [], [], 0.0, False
    for k in range(K):
        a, da = v[k], [0.0] * n
        if v[k] < 0:
            a = 0.0
        elif v[k] > w[k]:
            a, da[K + k] = w[k], 1.0
        else:  # inside, and at both ties
            da[k] = 1.0
        if reached:
            a, da = 0.0, [0.0] * n
        elif a >= C - total:
            reached = True
            a, da = C - total, [-sum(s[i] for s in slopes) for i in range(n)]
            da[-1] += 1.0
        parts.append(a)
        slopes.append(da)
        total += a
    return [*parts, total], [*slopes, [sum(s[i] for s in slopes) for i in range(n)]]


def jacobian(v: Tensor, w: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """(outputs [N, K + 1], slopes [N, K + 1, 2 K + 1]) of rows that do not touch each other."""
    args = [t.clone().requires_grad_() for t in (v, w, c)]
    value, parts = nested_min(*args)
    out = torch.cat([parts, value[:, None]], 1)
    rows = []
    for i in range(out.shape[1]):
        gv, gw, gc = torch.autograd.grad(out[:, i].sum(), args, retain_graph=True)
        rows.append(torch.cat([gv, gw, gc[:, None]], 1))
    return out.detach(), torch.stack(rows, 1)


@native
@pytest.mark.parametrize("backend", ["reference", None])
def test_values_and_derivatives_follow_the_definition_on_every_tie(backend: str | None) -> None:
    v, w, c = grid()
    if backend:
        with ordkernels.use_backend(backend):
            out, slopes = jacobian(v, w, c)
    else:
        out, slopes = jacobian(v, w, c)
    for i in range(len(v)):
        values, rows = by_hand(v[i].tolist(), w[i].tolist(), c[i].item())
        assert out[i].tolist() == values, (v[i], w[i], c[i])
        assert slopes[i].tolist() == rows, (v[i], w[i], c[i])


@native
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("K", [1, 2, 4, 7, 8, 9, 16, 17, 40])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("capacity", [None, 0.0, 1.5, "rows"])
def test_kernel_is_the_reference_on_grids(dtype: torch.dtype, K: int, shared: bool, capacity: Any) -> None:
    B = 67
    v = torch.randint(-1, 6, (B, K)).div(4).to(dtype)
    w = torch.randint(0, 6, (K,) if shared else (B, K)).div(4).to(dtype)
    cap = torch.randint(0, 3 * K, (B,)).div(4).to(dtype) if capacity == "rows" else capacity
    for which in ("both", "value", "clipped"):
        got, expected = both_backends(lambda which=which: results(v, w, cap, which))
        for i, (x, y) in enumerate(zip(got, expected, strict=True)):
            exact = not (
                shared and i == 3 and dtype in FLOATS[2:]
            )  # sums of more bits than 16-bit types hold are rounded once, in some order
            torch.testing.assert_close(x, y, rtol=0 if exact else 1e-2, atol=0 if exact else 1e-2)


@native
@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 12).flatmap(
        lambda K: st.tuples(st.lists(floats, min_size=K, max_size=K), st.lists(st.floats(0, 3, width=32), min_size=K, max_size=K))
    ),
    st.floats(0, 20, width=32),
)
def test_aggregation_keeps_order_and_cap(rows: Any, cap: float) -> None:
    v, w = (torch.tensor([x]) for x in rows)
    value, parts = nested_min(v, w[0], cap)
    a = v.clamp(min=0).minimum(w)
    assert value.item() <= cap
    assert (parts >= 0).all()
    assert (parts <= a).all()
    close = dict(rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(parts.sum(1), value, **close)
    torch.testing.assert_close(value.double(), a.double().sum(1).clamp(max=cap), **close)
    shortened = (parts < a)[0].nonzero()  # an increment is cut only where the cap is reached, and later ones are gone
    if len(shortened):
        first = int(shortened[0])
        assert (parts[0, first + 1 :] == 0).all()
        assert value.item() == pytest.approx(cap, rel=1e-6)
    k = int(a.argmax())
    v[0, k] += 0.5
    assert nested_min(v, w[0], cap)[0] >= value - 1e-5  # more of an increment is never less


@native
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1, 30, width=32), min_size=1, max_size=20),
    st.lists(st.integers(0, 12), min_size=1, max_size=10),
    st.sampled_from([None, 2.5, 7.0]),
)
def test_increments_sum_to_the_target(targets: Any, quarters: Any, cap: float | None) -> None:
    w = torch.tensor(quarters) / 4
    y = torch.tensor(targets)
    v = encode_increments(y, w)
    assert (v >= 0).all()
    assert (v <= w).all()
    top = min(w.sum().item(), math.inf if cap is None else cap)
    torch.testing.assert_close(nested_min(v, w, cap)[0], y.clamp(0, top), rtol=1e-6, atol=4e-6)
    full = v == w
    assert (full[:, :-1] | (v[:, 1:] == 0)).all()  # one begins when all before it are full


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_parts_survive_a_large_one(dtype: torch.dtype) -> None:
    v = torch.tensor([[1e5, 1e-3, 1e-3]], dtype=dtype)
    for cap in (None, 2e5, torch.tensor([2e5], dtype=dtype)):
        assert torch.equal(nested_min(v, torch.full((3,), 1e6, dtype=dtype), cap)[1], v)


@native
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("B", SIZES)
@pytest.mark.parametrize("shared", [True, False])
def test_errors_keep_their_budget(dtype: torch.dtype, B: int, shared: bool) -> None:
    K = 13
    v, w, c = (t.to(dtype) for t in (torch.randn(B, K) + 0.5, torch.rand(*((K,) if shared else (B, K))) + 0.2, torch.rand(B) * 4))
    got, eager = both_backends(lambda: results(v, w, None))
    with ordkernels.use_backend("reference"):
        truth = results(v.double(), w.double(), None)
    if B:
        assert_within_budget(got[:2], eager[:2], truth[:2])
    # where the cap is reached may differ by a rounding between the dtypes, so gradients are compared without it
    assert_within_budget(got[3:], eager[3:], truth[3:], scale=1.0)
    capped, capped_eager = both_backends(lambda: results(v, w, c))
    assert_within_budget(capped[:2], capped_eager[:2], [t.double() for t in capped_eager[:2]], scale=1.0)


@native
@pytest.mark.parametrize("shared", [True, False])
def test_strides_do_not_matter(shared: bool) -> None:
    v, w, c = torch.rand(9, 11), torch.rand(*((11,) if shared else (9, 11))), torch.rand(9)
    assert same_bits(nested_min(strided(v), strided(w), strided(c)), nested_min(v, w, c))
    assert torch.equal(encode_increments(strided(c), strided(w)), encode_increments(c, w))


@native
def test_rows_do_not_see_each_other() -> None:
    v, w, c = torch.rand(50, 9), torch.rand(50, 9), torch.rand(50) * 3
    whole = results(v, w, c)
    for rows in (slice(0, 1), slice(3, 20), slice(49, 50)):
        part = results(v[rows], w[rows], c[rows])
        assert same_bits(part[:2], [t[rows] for t in whole[:2]])


@native
def test_threads_do_not_change_a_bit() -> None:
    v, w = torch.rand(5000, 8), torch.rand(8)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = results(v, w, 1.0)
        torch.set_num_threads(2)
        assert same_bits(results(v, w, 1.0), one)
    finally:
        torch.set_num_threads(before)


@native
@pytest.mark.parametrize("backend", ["reference", None])
def test_nan_stays_in_its_row(backend: str | None) -> None:
    def run() -> list[Tensor]:
        v, w, c = torch.rand(4, 5), torch.rand(5) + 0.5, torch.full((4,), 1.5)
        clean = nested_min(v, w, c)
        v[1, 2], c[2] = math.nan, math.nan
        value, parts = nested_min(v, w, c)
        for i in (0, 3):
            assert same_bits((value[i], parts[i]), (clean[0][i], clean[1][i]))
        assert value[1:3].isnan().all()
        assert parts[2].isnan().all()
        return [value, parts]

    if backend:
        with ordkernels.use_backend(backend):
            run()
    else:
        _value, parts = run()
        assert not parts[1, :2].isnan().any()


@native
@pytest.mark.parametrize("capacity", [None, 1.0])
def test_nan_and_infinity_without_and_with_a_cap(capacity: Any) -> None:
    v = torch.tensor([[0.2, math.nan, 0.3], [math.inf, 0.1, 0.2], [0.1, -math.inf, 0.2]])
    got, expected = both_backends(lambda: nested_min(v, torch.ones(3), capacity))
    assert same_bits(got, expected)
    assert got[0][0].isnan()
    assert not got[0][1:].isnan().any()


@native
def test_nothing_is_left_of_an_infinite_capacity_that_is_reached() -> None:
    v, w = torch.tensor([[math.inf, 1.0, 2.0], [1.0, 2.0, 4.0]]), torch.full((3,), math.inf)
    for value, clipped in both_backends(lambda: nested_min(v, w, torch.tensor([math.inf, 2.0]))):
        assert value.tolist() == [math.inf, 2.0]
        assert clipped.tolist() == [[math.inf, 0.0, 0.0], [1.0, 1.0, 0.0]]


@native
def test_gradients_that_are_not_asked_for_are_empty() -> None:
    v, w = torch.rand(6, 4), torch.rand(6, 4)
    vr = v.clone().requires_grad_()
    nested_min(vr, w, 1.0)[0].sum().backward()
    assert w.grad is None
    wr = w.clone().requires_grad_()
    nested_min(v, wr, 1.0)[0].sum().backward()
    both = results(v, w, 1.0, "value")
    assert vr.grad is not None
    assert wr.grad is not None
    assert KERNEL._nested_min_backward(v, w, None, torch.ones(6), None, 1.0, 1)[1].numel() == 0
    assert len(both) == 4


def loss(v: Tensor, w: Tensor, c: Tensor | None) -> Tensor:
    value, parts = nested_min(v, w, c)
    return (value**2).sum() + (parts * torch.linspace(-1, 1, parts.numel(), dtype=parts.dtype).view_as(parts)).sum()


@native
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("capacity", ["rows", "number", None])
def test_gradcheck(shared: bool, capacity: str | None) -> None:
    v, w, c = (
        t.double().requires_grad_() for t in (torch.randn(5, 4) + 0.5, torch.rand(*((4,) if shared else (5, 4))) + 0.3, torch.rand(5) * 2)
    )
    if capacity == "rows":
        assert torch.autograd.gradcheck(nested_min, (v, w, c))
    else:
        assert torch.autograd.gradcheck(lambda v, w: nested_min(v, w, 1.1 if capacity else None), (v, w))


@pytest.mark.registration
@native
def test_opcheck() -> None:
    v, c = torch.rand(5, 4).requires_grad_(), torch.rand(5).requires_grad_()
    for w in (torch.rand(4).requires_grad_(), torch.rand(5, 4).requires_grad_()):
        for cap, number in ((c, math.inf), (None, 1.0), (None, math.inf)):
            torch.library.opcheck(KERNEL.nested_min.default, (v, w, cap, number))
            plain = [t if t is None else t.detach() for t in (v, w, cap)]
            torch.library.opcheck(KERNEL._nested_min.default, (*plain, number))
            for gy, go, grad_mask in ((torch.rand(5), None, 7), (None, torch.rand(5, 4), 1), (torch.rand(5), torch.rand(5, 4), 2)):
                torch.library.opcheck(KERNEL.nested_min_backward.default, (*plain, gy, go, number, grad_mask))


@pytest.mark.registration
@native
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("capacity", [True, False])
def test_four_ways_agree(shared: bool, capacity: bool) -> None:
    V, B, K = 3, 5, 4
    v = torch.rand(V, B, K, dtype=torch.float64)
    w = torch.rand(*((K,) if shared else (B, K)), dtype=torch.float64)
    c = torch.rand(B, dtype=torch.float64) if capacity else None
    some = (0, 1, 2) if capacity else (0, 1)
    compiled = torch.compile(lambda *a: loss(*a), fullgraph=True, backend="aot_eager")
    args = [v[0].clone().requires_grad_(), w.clone().requires_grad_(), *([c.clone().requires_grad_()] if c is not None else [None])]
    leaves = [a for a in args if a is not None]
    eager = torch.autograd.grad(loss(*args), leaves)
    for way in (torch.autograd.grad(compiled(*args), leaves), torch.func.grad(loss, argnums=some)(v[0], w, c)):
        for a, b in zip(way, eager, strict=True):
            torch.testing.assert_close(a, b)
    each = [torch.func.grad(loss, argnums=some)(v[i], w, c) for i in range(V)]
    for dims in ((0, None, None), (1, None, None)):
        batch = torch.func.vmap(torch.func.grad(loss, argnums=some), in_dims=dims)(v.movedim(0, dims[0]), w, c)
        for i, a in enumerate(batch):
            torch.testing.assert_close(a, torch.stack([e[i] for e in each]))
    encoded = torch.func.vmap(encode_increments, in_dims=(0, None))(v[..., 0], w)
    torch.testing.assert_close(encoded, torch.stack([encode_increments(v[i, :, 0], w) for i in range(V)]))


@native
def test_second_derivatives_and_forward_mode_raise() -> None:
    v, w = torch.rand(3, 4).requires_grad_(), torch.rand(4)
    (g,) = torch.autograd.grad(nested_min(v, w, 1.0)[0].pow(2).sum(), v, create_graph=True)
    with pytest.raises(RuntimeError, match=r"twice"):
        torch.autograd.grad(g.sum(), v)
    with forward_ad.dual_level(), pytest.raises((RuntimeError, NotImplementedError)):
        forward_ad.unpack_dual(nested_min(forward_ad.make_dual(v.detach(), torch.ones(3, 4)), w, 1.0)[0])


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: nested_min([1.0], torch.ones(1)), TypeError, "increments: expected a torch.Tensor, got list"),
        (lambda: nested_min(torch.ones(2, 3).int(), torch.ones(3)), TypeError, "increments: expected float32, float64"),
        (lambda: nested_min(torch.ones(3), torch.ones(3)), ValueError, r"increments: expected \[B, K\], got 1 dimensions"),
        (lambda: nested_min(torch.ones(2, 3), torch.ones(4)), ValueError, r"widths: expected \[K\] = \[3\], got \[4\]"),
        (lambda: nested_min(torch.ones(2, 3), torch.ones(3, 3)), ValueError, r"widths: expected \[B, K\] = \[2, 3\], got \[3, 3\]"),
        (lambda: nested_min(torch.ones(2, 3), torch.ones(3).double()), TypeError, "widths: expected the dtype of increments"),
        (lambda: nested_min(torch.ones(2, 0), torch.ones(0)), ValueError, "widths: expected at least one"),
        (lambda: nested_min(torch.ones(2, 3), torch.ones(3), -1.0), ValueError, r"capacity: expected 0 or more, got -1"),
        (lambda: nested_min(torch.ones(2, 3), torch.ones(3), math.nan), ValueError, r"capacity: expected 0 or more, got nan"),
        (
            lambda: nested_min(torch.ones(2, 3), torch.ones(3), torch.tensor([1.0, -2.0])),
            ValueError,
            "capacity: expected 0 or more, got -2",
        ),
        (lambda: nested_min(torch.ones(2, 3), torch.ones(3), torch.ones(3)), ValueError, r"capacity: .*\[B\] = \[2\], got \[3\]"),
        (lambda: nested_min(torch.ones(2, 3), torch.ones(3), "1"), TypeError, "capacity: expected a number, a tensor of shape"),
    ],
)
def test_bad_input_is_named(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@native
def test_a_capacity_of_one_number_in_a_tensor() -> None:
    v, w = torch.rand(4, 3), torch.rand(3)
    assert same_bits(nested_min(v, w, torch.tensor(0.7)), nested_min(v, w, torch.full((4,), 0.7)))


@pytest.mark.parametrize("op", ["nested_min"])
def test_backends_are_listed(op: str) -> None:
    listed = ordkernels.available_backends(op)
    assert listed["reference"] == []
    assert not any("no CUDA C++ kernel" in reason for reason in listed["cuda"])


@native
@pytest.mark.usefixtures("native")
def test_the_native_kernel_is_there() -> None:
    assert ordkernels.available_backends("nested_min")["cpu"] == []
    with ordkernels.use_backend("cpu"):
        nested_min(torch.rand(2, 3), torch.rand(3), 1.0)


@pytest.mark.triton
@needs_triton
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("B", "K", "shared", "capacity"), [(5, 3, True, "rows"), (131, 8, False, 1.5), (3, 19, True, None), (4, 9, False, "rows")]
)
def test_triton_is_the_reference_on_grids(dtype: torch.dtype, B: int, K: int, shared: bool, capacity: Any) -> None:
    run = results_on_grids(dtype, B, K, shared, capacity, DEVICE)
    with ordkernels.use_backend("triton"):
        got = run()
    with ordkernels.use_backend("reference"):
        expected = run()
    tol = 0.02 if dtype in FLOATS[2:] else 0  # 16 bits: sums rounded in another order
    for x, z in zip(got, expected, strict=True):
        torch.testing.assert_close(x, z, rtol=tol, atol=tol * B)


@pytest.mark.triton
@needs_triton
def test_triton_keeps_nan_in_its_row() -> None:
    v, w, c = torch.rand(4, 5, device=DEVICE), torch.rand(5, device=DEVICE) + 0.5, torch.full((4,), 1.5, device=DEVICE)
    v[1, 2], c[2] = math.nan, math.nan
    with ordkernels.use_backend("triton"):
        got = nested_min(v, w, c)
    with ordkernels.use_backend("reference"):
        assert same_bits(got, nested_min(v, w, c))


@pytest.mark.triton
@needs_triton
def test_triton_takes_empty_batches() -> None:
    with ordkernels.use_backend("triton"):
        value, parts = nested_min(torch.rand(0, 5, device=DEVICE).requires_grad_(), torch.rand(5, device=DEVICE), 1.0)
        (value.sum() + parts.sum()).backward()
        assert encode_increments(torch.rand(0, device=DEVICE), torch.rand(5, device=DEVICE)).shape == (0, 5)
