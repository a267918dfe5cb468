"""planar_flow, its inverse and conditional_planar_flow against fp64 truth and autograd; every way through autograd; bad input."""

import copy
from typing import Any

import pytest
import torch
from _planar_flow import FLOATS, KERNEL, MODES, OPS, compare, gradients, inputs_of, loss, native, same
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import ordkernels
from ordkernels.ops import conditional_planar_flow, planar_flow, planar_flow_inverse
from ordkernels.testing.compare import same_bits
from ordkernels.testing.inputs import SIZES, flow_inputs, strided


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("form", ["rows", "shared", "groups"])
@native
def test_gradcheck(op: str, mode: Any, form: str) -> None:
    if (op, mode) == ("planar_flow_inverse", False) or (op, form) == ("conditional_planar_flow", "shared"):
        return
    args = inputs_of(op)
    if form == "groups":
        args[0] = torch.randn(3, 2, 4, dtype=torch.float64).requires_grad_()
    if form == "shared":
        args[1:] = [t.detach()[0].requires_grad_() for t in args[1:]]
    assert torch.autograd.gradcheck(lambda *a: OPS[op](*a, constrained=mode), args)


@pytest.mark.registration
@pytest.mark.parametrize("op", OPS)
@native
def test_opcheck(op: str) -> None:
    rest = inputs_of(op, dtype=torch.float32)[1:]
    for lead in ((), (2,)):
        zs = torch.randn(3, *lead, 4).requires_grad_()
        for prefix in ("", "_"):
            forward, backward = (getattr(KERNEL, f"{prefix}{op}{s}").default for s in ("", "_backward"))
            args = [zs, *rest] if prefix == "" else [t.detach() for t in (zs, *rest)]
            torch.library.opcheck(forward, (*args, 1))
            out = forward(*(t.detach() for t in args), 1)
            middle = [t.detach() for t in rest[:2]] if op != "conditional_planar_flow" else [t.detach() for t in rest]
            torch.library.opcheck(backward, (zs.detach(), out[2], *middle, torch.randn_like(zs), torch.randn_like(out[1]), 1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("K", "D"), [(1, 1), (4, 3), (3, 16)])
@native
def test_log_det_is_that_of_the_jacobian(mode: Any, K: int, D: int) -> None:
    z, u, w, b = flow_inputs(3, K, D, dtype=torch.float64)
    for i in range(3):
        J = torch.autograd.functional.jacobian(lambda x: planar_flow(x[None], u[[i]], w[[i]], b[[i]], constrained=mode)[0][0], z[i])  # noqa: B023
        got = planar_flow(z[[i]], u[[i]], w[[i]], b[[i]], constrained=mode)[1]
        torch.testing.assert_close(got[0], torch.linalg.slogdet(J)[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["normal", "dead", "low", "high", "saturated"])
@pytest.mark.parametrize("mode", [True, "smooth"])
def test_constrained_log_det_is_finite(kind: str, mode: Any) -> None:
    for dtype in FLOATS:
        z, log_det = planar_flow(*flow_inputs(64, 4, 8, dtype=dtype, kind=kind), constrained=mode)
        assert z.isfinite().all()
        assert log_det.isfinite().all()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("D", [1, 64, 127, 128, 129])
@pytest.mark.parametrize("K", [1, 4, 16])
@native
def test_error_budget_widths(D: int, K: int, dtype: torch.dtype) -> None:
    compare(9, K, D, None, False, dtype, "normal", 1, same)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("B", SIZES)
@pytest.mark.parametrize("form", ["rows", "shared", "groups"])
@native
def test_error_budget_rows(B: int, form: str, dtype: torch.dtype) -> None:
    compare(B, 3, 9, 2 if form == "groups" else None, form == "shared", dtype, "normal", 2, same)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("form", ["rows", "shared", "groups", "shared groups"])
@native
def test_error_budget_strided(form: str, dtype: torch.dtype) -> None:
    compare(33, 3, 19, 5 if "groups" in form else None, "shared" in form, dtype, "normal", 1, strided)


@pytest.mark.parametrize("kind", ["dead", "low", "high", "saturated"])
@pytest.mark.parametrize("mode", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@native
def test_error_budget_hostile(kind: str, mode: int, dtype: torch.dtype) -> None:
    compare(40, 2, 33, None, False, dtype, kind, mode, same)


@pytest.mark.parametrize(("B", "N"), [(1, 1000), (3, 600), (100, 40), (2, 0), (0, 3)])
@native
def test_long_groups(B: int, N: int) -> None:
    """Gradient sums over many rows: cut into parts, added in order."""
    compare(B, 2, 20, N, False, torch.float32, "normal", 1, same)
    compare(B, 2, 20, N, True, torch.float32, "normal", 0, same)


@native
def test_parameters_as_views_of_a_hypernetwork() -> None:
    D, K = 13, 3
    p = torch.randn(40, K, 2 * D + 1)
    z, u, w, b = torch.randn(40, D), p[..., :D], p[..., D : 2 * D], p[..., 2 * D]
    assert same_bits(planar_flow(z, u, w, b), planar_flow(z, u.contiguous(), w.contiguous(), b.contiguous()))
    one = [t[:1].expand(40, *t.shape[1:]) for t in (z, u, w, b)]  # stride 0
    assert same_bits(planar_flow(*one), planar_flow(*(t.contiguous() for t in one)))


@native
def test_large_rows_go_one_at_a_time() -> None:
    compare(5, 2, 40_000, None, False, torch.float32, "normal", 1, same)


@native
def test_nan_stays_in_its_row() -> None:
    for shared in (False, True):
        z, u, w, b = flow_inputs(50, 3, 17, shared=shared)
        clean = planar_flow(z, u, w, b)
        bad = z.clone()
        bad[::7, 3] = float("nan")
        for op in (planar_flow, planar_flow_inverse):
            got, clean = op(bad, u, w, b), op(z, u, w, b)
            rows = torch.arange(50) % 7 != 0
            assert same_bits([t[rows] for t in got], [t[rows] for t in clean])
            assert got[1][~rows].isnan().all()
    z, u, w, b = flow_inputs(50, 3, 17)
    for t in (u, w, b):
        other = t.clone()
        other[20] = float("nan")
        got = planar_flow(*(other if x is t else x for x in (z, u, w, b)))
        assert got[1][20].isnan()
        assert got[1].isnan().sum() == 1


@native
def test_rows_do_not_depend_on_batch_or_threads() -> None:
    args = list(flow_inputs(1000, 3, 37))
    gz, gl = torch.randn(1000, 37), torch.randn(1000)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            for name in ("planar_flow", "planar_flow_inverse"):
                out = getattr(KERNEL, f"_{name}")(*args, 1)
                back = getattr(KERNEL, f"_{name}_backward")
                results.append((*out, *back(args[0], out[2], *args[1:3], gz, gl, 1)))
                shared = [t[0] for t in args[1:]]
                out = getattr(KERNEL, f"_{name}")(args[0], *shared, 1)
                results.append((*out, *back(args[0], out[2], *shared[:2], gz, gl, 1)))
        for one, three in zip(results[:4], results[4:], strict=True):
            assert same_bits(one, three)
    finally:
        torch.set_num_threads(before)
    whole = results[0]
    for start, stop in ((0, 1), (1, 30), (333, 462)):
        part = slice(start, stop)
        out = KERNEL._planar_flow(*(t[part] for t in args), 1)
        grads = KERNEL._planar_flow_backward(args[0][part], out[2], args[1][part], args[2][part], gz[part], gl[part], 1)
        assert same_bits((*out, *grads), [t[part] for t in whole])


@pytest.mark.registration
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dynamic", [False, True])
@native
def test_compile(op: str, dynamic: bool) -> None:
    torch._dynamo.reset()
    args = inputs_of(op)
    compiled = torch.compile(
        lambda *a: loss(OPS[op], *a),
        fullgraph=True,
        dynamic=dynamic,
        backend="inductor" if op == "planar_flow" and not dynamic else "aot_eager",
    )
    torch.testing.assert_close(torch.autograd.grad(compiled(*args), args), gradients(OPS[op], args))
    with torch.no_grad():
        torch.testing.assert_close(compiled(*args), loss(OPS[op], *args))


@pytest.mark.registration
@pytest.mark.parametrize("op", OPS)
@native
def test_func_grad(op: str) -> None:
    args = inputs_of(op)
    want = gradients(OPS[op], args)
    plain = [t.detach() for t in args]
    torch.testing.assert_close(torch.func.grad(lambda *a: loss(OPS[op], *a), argnums=(0, 1, 2, 3))(*plain), want)
    _, pull = torch.func.vjp(lambda *a: loss(OPS[op], *a), *plain)
    torch.testing.assert_close(pull(torch.ones((), dtype=torch.float64)), want)


@pytest.mark.registration
@pytest.mark.parametrize("op", ["planar_flow", "conditional_planar_flow"])
def test_compiled_func_grad(op: str) -> None:
    """Through the reference: Dynamo would differentiate through the body of a custom Function, silently wrong."""
    torch._dynamo.reset()
    args = inputs_of(op)
    f = torch.compile(torch.func.grad(lambda *a: loss(OPS[op], *a), argnums=(0, 1, 2, 3)), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(f(*(t.detach() for t in args)), gradients(OPS[op], args))


@pytest.mark.registration
@pytest.mark.parametrize("op", OPS)
@native
def test_vmap(op: str) -> None:
    args = [t.detach() for t in inputs_of(op, B=6)]
    V = 3
    stacked = [torch.stack([t + 0.1 * v for v in range(V)]) for t in args]
    for batched in ((0, 0, 0, 0), (0, None, None, None), (None, 0, None, 0), (1, 0, 0, None)):
        ins = [(s.movedim(0, d) if d else s) if d is not None else a for s, a, d in zip(stacked, args, batched, strict=True)]
        got = torch.vmap(OPS[op], in_dims=batched)(*ins)
        rows = [OPS[op](*(s[v] if d is not None else a for s, a, d in zip(stacked, args, batched, strict=True))) for v in range(V)]
        torch.testing.assert_close(got, tuple(torch.stack(t) for t in zip(*rows, strict=True)))
    per_sample = torch.vmap(torch.func.grad(lambda *a: loss(OPS[op], *a), argnums=(0, 1)), in_dims=(0, 0, 0, 0))(*stacked)
    for v in range(V):
        want = gradients(OPS[op], [s[v].clone().requires_grad_() for s in stacked])[:2]
        torch.testing.assert_close([g[v] for g in per_sample], list(want))


@pytest.mark.registration
@native
def test_vmap_over_shared_parameters() -> None:
    z, u, w, b = flow_inputs(6, 2, 4, shared=True, dtype=torch.float64)
    many = [torch.stack([t, t * 2, t - 1]) for t in (u, w, b)]
    got = torch.vmap(planar_flow, in_dims=(None, 0, 0, 0))(z, *many)
    rows = [planar_flow(z, *(t[v] for t in many)) for v in range(3)]
    torch.testing.assert_close(got, tuple(torch.stack(t) for t in zip(*rows, strict=True)))


@native
def test_jacrev() -> None:
    z, u, w, b = (t.detach() for t in inputs_of("planar_flow", B=1))
    J = torch.func.jacrev(lambda x: planar_flow(x[None], u, w, b)[0][0])(z[0])
    want = torch.autograd.functional.jacobian(lambda x: planar_flow(x[None], u, w, b)[0][0], z[0])
    torch.testing.assert_close(J, want)


class Net(torch.nn.Module):
    def __init__(self, op: str, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.op = OPS[op]
        self.rest = torch.nn.ParameterList([t.detach() for t in inputs_of(op, dtype=dtype)[1:]])

    def forward(self, z: Tensor) -> Tensor:
        out, log_det = self.op(z, self.rest[0], self.rest[1], self.rest[2])
        return out.square().sum() + log_det.sum()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("way", ["fx", "make_fx", "export", "checkpoint"])
@native
def test_traced_gradients(op: str, way: str) -> None:
    net, z = Net(op), torch.randn(3, 4, dtype=torch.float64)
    other = copy.deepcopy(net)
    if way == "fx":
        f = torch.fx.symbolic_trace(NetAllOps(op))
        args = inputs_of(op)
        torch.testing.assert_close(torch.autograd.grad(f(*args), args), torch.autograd.grad(NetAllOps(op)(*args), args))
        return
    net(z).backward()
    if way == "make_fx":
        from torch.fx.experimental.proxy_tensor import make_fx

        args = inputs_of(op)
        graph = make_fx(lambda *a: gradients(OPS[op], list(a)))(*args)
        torch.testing.assert_close(graph(*args), gradients(OPS[op], args))
        return
    if way == "export":
        exported = torch.export.export(other, (z,)).module()
        exported(z).backward()
        grads = {n.replace("rest.", ""): p.grad for n, p in exported.named_parameters()}
        for i, p in enumerate(net.rest):
            torch.testing.assert_close(grads[str(i)], p.grad)
        return
    checkpoint(other, z, use_reentrant=False).backward()
    for p, q in zip(net.rest, other.rest, strict=True):
        torch.testing.assert_close(p.grad, q.grad)


class NetAllOps(torch.nn.Module):
    """The op on module inputs, as FX traces it: through its dispatcher op, since a proxy is no tensor to check."""

    def __init__(self, op: str) -> None:
        super().__init__()
        self.op = op

    def forward(self, z: Tensor, p: Tensor, q: Tensor, r: Tensor) -> Tensor:
        out = getattr(KERNEL, self.op)(z, p, q, r, 1)
        return out[0].square().sum() + out[1].sum()


@pytest.mark.parametrize("op", OPS)
@native
def test_forward_mode_and_double_backward_raise(op: str) -> None:
    args = inputs_of(op)
    with forward_ad.dual_level(), pytest.raises((RuntimeError, NotImplementedError)):
        OPS[op](forward_ad.make_dual(args[0].detach(), torch.ones_like(args[0])), *args[1:])
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.func.jvp(lambda x: OPS[op](x, *(t.detach() for t in args[1:])), (args[0].detach(),), (torch.ones_like(args[0]),))
    (g,) = torch.autograd.grad(loss(OPS[op], *args), args[0], create_graph=True)
    with pytest.raises(RuntimeError):
        g.sum().backward()
    (g,) = torch.autograd.grad(OPS[op](*args)[0].sum(), args[0], create_graph=True)  # nothing but saved tensors to differentiate
    with pytest.raises(RuntimeError, match="differentiated twice"):
        (g.sum() + args[0].sum()).backward()
    with pytest.raises(RuntimeError, match="differentiated twice"):
        torch.func.grad(lambda x: torch.func.grad(lambda y: loss(OPS[op], y, *(t.detach() for t in args[1:])))(x).sum())(args[0].detach())


def test_reference_backend_differentiates_twice() -> None:
    args = inputs_of("planar_flow")
    with ordkernels.use_backend("reference"):
        assert torch.autograd.gradgradcheck(lambda *a: planar_flow(*a), args)


def test_forced_backends() -> None:
    args = flow_inputs(2, 1, 3)
    for op in OPS:
        available = ordkernels.available_backends(op)
        assert available["reference"] == []
        for name, reasons in available.items():
            if reasons:
                with ordkernels.use_backend(name), pytest.raises(RuntimeError, match="cannot run on the backend"):
                    planar_flow(*args) if op == "planar_flow" else planar_flow_inverse(*args)
    with pytest.raises(ValueError, match="name: expected one of"), ordkernels.use_backend("gpu"):
        pass


@native
@pytest.mark.usefixtures("native")
def test_native_kernels_are_the_ones_that_run() -> None:
    assert ordkernels.available_backends("planar_flow")["cpu"] == []
    args = inputs_of("planar_flow")
    want = gradients(planar_flow, args)
    with ordkernels.use_backend("cpu"):
        assert same_bits(gradients(planar_flow, args), want)
    with ordkernels.use_backend("reference"):
        torch.testing.assert_close(gradients(planar_flow, args), want)


@native
def test_inputs_are_left_alone() -> None:
    args = [t.detach() for t in inputs_of("planar_flow")]
    before = [t.clone() for t in args]
    out = KERNEL._planar_flow(*args, 1)
    KERNEL._planar_flow_backward(args[0], out[2], *args[1:3], args[0], out[1], 1)
    assert same_bits(args, before)


Z, P, Q = torch.zeros(4, 3), torch.zeros(4, 2, 3), torch.zeros(4, 2)


BAD: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ((Z[0], P, P, Q), {}, ValueError, r"z: expected \[B, D\] or \[B, N, D\], got 1 dim"),
    (([1.0], P, P, Q), {}, TypeError, "z: expected a torch.Tensor, got list"),
    ((Z.int(), P, P, Q), {}, TypeError, "z: expected float32, float64, bfloat16 or float16, got torch.int32"),
    ((Z, P.double(), P, Q), {}, TypeError, "u: expected the dtype of z, torch.float32, got torch.float64"),
    ((Z, P, P.half(), Q), {}, TypeError, "w: expected the dtype of z"),
    ((Z, P, P, Q.to("meta")), {}, ValueError, "b: expected the device of z, cpu, got meta"),
    ((Z, P[0, 0], P, Q), {}, ValueError, r"u: expected \[B, K, D\] or \[K, D\]"),
    ((Z, P[:3], P, Q), {}, ValueError, r"u: expected \[B, K, D\] = \[4, 2, 3\], got \[3, 2, 3\]"),
    ((Z, P, P[0], Q), {}, ValueError, r"w: expected \[B, K, D\] = \[4, 2, 3\], got \[2, 3\]"),
    ((Z, P[0], P[0], Q), {}, ValueError, r"b: expected \[K\] = \[2\], got \[4, 2\]"),
    ((Z, P, P, Q[:, :1]), {}, ValueError, r"b: expected \[B, K\] = \[4, 2\], got \[4, 1\]"),
    ((Z, P[:, :0], P[:, :0], Q[:, :0]), {}, ValueError, "u: expected at least one layer"),
    ((Z, P, P, Q), {"constrained": "x"}, ValueError, "constrained: expected True, False or 'smooth', got 'x'"),
    ((Z, P, P, Q), {"constrained": 1.5}, ValueError, "constrained: expected"),
]


@pytest.mark.parametrize(("args", "kwargs", "error", "text"), BAD)
def test_bad_input(args: Any, kwargs: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        planar_flow(*args, **kwargs)


def test_bad_input_of_the_others() -> None:
    with pytest.raises(ValueError, match="constrained: expected True or 'smooth'"):
        planar_flow_inverse(Z, P, P, Q, constrained=False)
    with pytest.raises(TypeError, match=r"z_out: expected a torch\.Tensor"):
        planar_flow_inverse(None, P, P, Q)  # type: ignore[arg-type]
    h, weight, bias = torch.zeros(4, 5), torch.zeros(14, 5), torch.zeros(14)
    for args, text in (
        ((Z, h[:2], weight, bias), r"h: expected \[B, H\] = \[4, 5\], got \[2, 5\]"),
        ((Z, h, weight[:13], bias), "weight: expected a positive multiple of 2D \\+ 1 = 7 rows"),
        ((Z, h, weight[:, :4], bias), "weight: expected"),
        ((Z, h, weight, bias[:7]), r"bias: expected \[K \(2D \+ 1\)\] = \[14\], got \[7\]"),
    ):
        with pytest.raises(ValueError, match=text):
            conditional_planar_flow(*args)
    with pytest.raises(TypeError, match="bias: expected the dtype of z"):
        conditional_planar_flow(Z, h, weight, bias.double())


@native
@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((Z, P[:3], P, Q, 1), "u: expected shape"),
        ((Z, P, P[:, :1], Q, 1), "w: expected shape"),
        ((Z, P, P, Q.double(), 1), "b: expected float32, got float64"),
        ((Z, P, P, Q[:2], 1), "b: expected shape"),
        ((Z, P, P, Q, 3), "mode: expected 0, 1 or 2, got 3"),
        ((Z.int(), P, P, Q, 1), "z: expected float32"),
        ((Z[0], P, P, Q, 1), "expected at least 2 dimensions"),
        ((Z, P[:, :0], P[:, :0], Q[:, :0], 1), "at least one layer"),
    ],
)
def test_second_line_of_checks(args: Any, text: str) -> None:
    """The dispatcher's ops called directly: C++ checks what Python would have."""
    with pytest.raises(RuntimeError, match=text):
        KERNEL._planar_flow(*args)


@pytest.mark.parametrize("backend", [pytest.param("cpu", marks=pytest.mark.native), "reference"])
@pytest.mark.parametrize("mode", [True, "smooth"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("size", [1e-8, 1e-15, 1e-18, 1e-20, 1e-22, 1e-30, 0.0, 1e12, 1e20])
def test_small_and_large_w(backend, mode, shared, size):
    """|w|^2 leaves fp32 at 1e-19 and 1e19; at the small end the correction's factor (m(w.u) - w.u) / |w|^2 does too."""
    g = torch.Generator().manual_seed(1)
    B, D, K = 19, 8, 1  # a later layer would see the first one's 1 / |w|
    lead = () if shared else (B,)
    z, u, w, b = (torch.randn(*s, generator=g) for s in ((B, D), (*lead, K, D), (*lead, K, D), (*lead, K)))
    w *= size

    def numbers(dtype, on):
        tensors = [t.to(dtype).clone().requires_grad_() for t in (z, u, w, b)]
        with ordkernels.use_backend(on):
            out, log_det = planar_flow(*tensors, constrained=mode)
            (1e-20 * (out * out.detach().abs().clamp(max=1)).sum() + 1e-3 * log_det.sum()).backward()
        return out.detach(), log_det.detach(), *(t.grad for t in tensors)

    for found, want in zip(numbers(torch.float32, backend), numbers(torch.float64, "reference"), strict=True):
        rows = (want.abs() < 1e36) & ((want.abs() > 1e-25) | (want == 0))  # what fp32 holds, with room for what it comes from
        if not rows.any():
            continue
        scale = want.abs().where(rows, 0).amax()
        torch.testing.assert_close(found.double()[rows], want[rows], rtol=1e-3, atol=3e-5 * float(scale))
