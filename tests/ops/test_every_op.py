"""Every torch op compiled, exported, traced, transformed and under autocast: the same results and gradients as in eager mode."""

import inspect
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from every_op import CALLS, Call
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from ordkernels import _backend, ops, use_backend

pytestmark = [pytest.mark.registration, pytest.mark.native]
B, OTHER = 7, 11  # sizes that no other dimension has: a symbolic one is known by its size
OF_MODULES = ("denoise_chain", "fusion_chain", "value_decode")  # a module or a schedule is no argument of an FX node
every_op = pytest.mark.parametrize("name", CALLS)
differentiable = pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call.differentiable])


@pytest.fixture(autouse=True)
def _nothing_compiled_before() -> None:
    torch.compiler.reset()


def gradients(run: Callable[..., list[Tensor]], arguments: list[Tensor]) -> list[Tensor]:
    arguments = [a.detach().requires_grad_(a.is_floating_point()) for a in arguments]
    outputs = [o for o in run(*arguments) if o.requires_grad]
    inputs = [a for a in arguments if a.requires_grad]
    found = torch.autograd.grad(outputs, inputs, [torch.ones_like(o) for o in outputs], allow_unused=True)
    return [torch.zeros_like(a) if g is None else g for g, a in zip(found, inputs, strict=True)]


def rows_of(call: Call) -> int:
    return len(call.rows(1))


def test_no_op_is_left_out() -> None:
    _backend.load_all()
    torch_ops = {name for name, info in _backend.OPS.items() if not info.host}
    assert {name.removeprefix("rng.") for name in CALLS} == torch_ops


def test_every_op_names_its_triton_module() -> None:
    _backend.load_all()
    modules = {info.triton for info in _backend.OPS.values() if not info.host}
    folder = Path(_backend.__file__).parent / "_triton"
    assert modules <= {file.stem for file in folder.glob("[!_]*.py")}


@every_op
def test_compiled(name: str) -> None:
    """Whole, for any number of rows, with the backward pass."""
    call = CALLS[name]
    compiled = torch.compile(call.outputs, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (B, OTHER):
        arguments = call.arguments(n)
        torch.testing.assert_close(compiled(*arguments), call.outputs(*arguments))
        if call.differentiable:
            torch.testing.assert_close(gradients(compiled, arguments), gradients(call.outputs, arguments))


@every_op
def test_exported_for_any_batch(name: str) -> None:
    call = CALLS[name]

    class Module(torch.nn.Module):
        def forward(self, *arguments: Tensor) -> list[Tensor]:
            return call.outputs(*arguments)

    arguments, rows = call.arguments(B), rows_of(call)
    batch = torch.export.Dim("batch", min=0)
    shapes = tuple({0: batch} if i < rows else None for i in range(len(arguments)))
    exported = torch.export.export(Module(), tuple(arguments), dynamic_shapes={"arguments": shapes}).module()
    for n in (B, 0, 1, OTHER):
        torch.testing.assert_close(exported(*call.arguments(n)), call.outputs(*call.arguments(n)))
    torch.testing.assert_close(call.outputs(*arguments), exported(*arguments))  # and nothing of the export stays in eager mode


@every_op
@pytest.mark.parametrize("mode", ["real", "symbolic"])
def test_traced_by_make_fx(name: str, mode: str) -> None:
    call, n = CALLS[name], B if mode == "real" else OTHER
    graph = make_fx(call.outputs, tracing_mode=mode, _allow_non_fake_inputs=True)(*call.arguments(B))
    torch.testing.assert_close(graph(*call.arguments(n)), call.outputs(*call.arguments(n)))


@pytest.mark.parametrize("name", [name for name in CALLS if name not in OF_MODULES])
def test_symbolically_traced_by_fx(name: str) -> None:
    call = CALLS[name]
    graph = torch.fx.symbolic_trace(call.run)
    assert any(getattr(node.target, "__name__", "") == name.removeprefix("rng.") for node in graph.graph.nodes)
    torch.testing.assert_close(graph(*call.arguments(OTHER)), call.run(*call.arguments(OTHER)))


def test_every_public_op_is_a_node_of_fx() -> None:
    public = {name for name in ops.__all__ if inspect.isfunction(getattr(ops, name)) and name in CALLS}
    assert public == {name for module, name in torch.fx._symbolic_trace._wrapped_fns_to_patch if module == id(vars(ops))}


@every_op
@pytest.mark.filterwarnings("error:There is a performance drop")  # of the loop where no rule is registered
def test_vmap(name: str) -> None:
    if name == "rng.philox" and torch.__version__ < (2, 12):
        pytest.skip("this torch has no batching rule for a view of another dtype")
    call = CALLS[name]
    arguments, rows = call.arguments(B), rows_of(call)
    stacked = [torch.stack((t, t.flip(0), t.roll(2, 0))) if i < rows else t for i, t in enumerate(arguments)]
    dims = tuple(0 if i < rows else None for i in range(len(arguments)))

    def run(*arguments: Tensor) -> tuple[Tensor, ...]:
        return tuple(call.outputs(*arguments))

    together = torch.vmap(run, in_dims=dims)(*stacked)
    for v in range(3):
        each = call.outputs(*(t[v] if i < rows else t for i, t in enumerate(stacked)))
        torch.testing.assert_close([o[v] for o in together], each)


@differentiable
def test_functional_gradients(name: str) -> None:
    call = CALLS[name]
    arguments = call.arguments(B)
    outputs, backward = torch.func.vjp(lambda *a: tuple(call.outputs(*a)), *arguments)
    torch.testing.assert_close(list(backward(tuple(map(torch.ones_like, outputs)))), gradients(call.outputs, arguments))


@every_op
@pytest.mark.parametrize(("narrow", "compiled"), [(0, False), (1, False), (0, True)])
def test_mixed_dtypes_under_autocast(name: str, narrow: int, compiled: bool) -> None:
    """They meet in the widest one; gradients come back in each argument's own."""
    call = CALLS[name]
    mixed = [t.bfloat16() if t.is_floating_point() and i % 2 == narrow else t for i, t in enumerate(call.arguments(B))]

    def run(*arguments: Tensor) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return call.outputs(*arguments)

    under = torch.compile(run, fullgraph=True, backend="aot_eager") if compiled else run
    expected = call.outputs(*(t.float() if t.is_floating_point() else t for t in mixed))
    torch.testing.assert_close(under(*mixed), expected)
    if call.differentiable and not compiled:
        assert [g.dtype for g in gradients(run, mixed)] == [t.dtype for t in mixed if t.is_floating_point()]


def test_log_determinants_stay_fp32_under_autocast() -> None:
    for name in ("planar_flow", "planar_flow_inverse", "conditional_planar_flow"):
        call = CALLS[name]
        with torch.autocast("cpu", torch.bfloat16):
            assert [o.dtype for o in call.outputs(*call.arguments(B, torch.bfloat16))] == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("name", ["denoise_chain", "fusion_chain"])
def test_the_reference_of_a_chain_reads_its_plan_on_the_host(name, monkeypatch):
    """On a GPU a number read from a tensor would wait for the device, and break the capture of a graph."""
    arguments = CALLS[name].arguments(3)
    with use_backend("reference"):
        expected = CALLS[name].outputs(*arguments)
        monkeypatch.setattr(torch.Tensor, "tolist", None)
        monkeypatch.setattr(torch.Tensor, "item", None)
        assert all(map(torch.equal, CALLS[name].outputs(*arguments), expected))
