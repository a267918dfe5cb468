"""`use_backend`: nested, overlapping, in threads, compiled; and the backend of a backward pass."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

import ordkernels
from ordkernels import _backend, ops, rng, use_backend

native = pytest.mark.native


def in_thread(f: Callable[[], Any]) -> Any:
    out: list[Any] = []

    def run() -> None:
        try:
            out.append(f())
        except Exception as error:
            out.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return out[0]


def test_contexts_nest_and_overlap() -> None:
    with use_backend("cpu"):
        with use_backend("reference"):
            assert _backend.forced_backend() == "reference"
        assert _backend.forced_backend() == "cpu"
    assert _backend.forced_backend() is None
    a, b, c = use_backend("reference"), use_backend("cpu"), use_backend("reference")
    for context in (a, b, c):
        context.__enter__()
    a.__exit__(None, None, None)
    assert _backend.forced_backend() == "reference"
    c.__exit__(None, None, None)
    assert _backend.forced_backend() == "cpu"
    b.__exit__(None, None, None)
    assert _backend.forced_backend() is None
    assert not _backend.OPEN_CONTEXTS


def test_a_context_ends_where_it_was_entered() -> None:
    context = use_backend("reference")
    context.__enter__()
    in_thread(lambda: context.__exit__(None, None, None))
    assert _backend.forced_backend() is None
    assert not _backend.OPEN_CONTEXTS


def test_force_none_closes_the_contexts_of_a_thread() -> None:
    with use_backend("reference"):
        _backend._force(None)
        assert _backend.forced_backend() is None
    assert not _backend.OPEN_CONTEXTS


def test_threads_with_overlapping_contexts() -> None:
    """Each step waits for the other thread's: both contexts are open at once, and end in the order in which they began."""
    barrier, seen = threading.Barrier(2), {"a": [], "b": []}

    def run(who: str, backend: str) -> None:
        first = who == "a"
        barrier.wait()
        context = use_backend(backend)
        for turn in (True, False):  # a enters, then b
            if first is turn:
                context.__enter__()
            barrier.wait()
        seen[who].append(_backend.forced_backend())
        barrier.wait()
        for turn in (True, False):
            if first is turn:
                context.__exit__(None, None, None)
            barrier.wait()
            seen[who].append(_backend.forced_backend())
            barrier.wait()

    threads = [threading.Thread(target=run, args=args) for args in (("a", "reference"), ("b", "cpu"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"a": ["reference", None, None], "b": ["cpu", "cpu", None]}
    assert not _backend.OPEN_CONTEXTS


def test_another_thread_is_not_forced() -> None:
    q, y, levels = torch.rand(3, 2), torch.rand(3), torch.tensor([0.1, 0.9])
    with use_backend("cuda"):  # pinball has no CUDA C++ kernel
        with pytest.raises(RuntimeError, match="pinball cannot run on the backend 'cuda'"):
            ops.pinball(q, y, levels)
        assert in_thread(lambda: ops.pinball(q, y, levels)).shape == (3, 2)
        assert in_thread(lambda: rng.normal(0, [1], 0, 4)).shape == (1, 4)
        assert isinstance(in_thread(lambda: ordkernels.scores.mae([1.0], [2.0])), float)


@pytest.mark.slow
@native
def test_a_compiled_function_follows_the_context() -> None:
    """The reference is traced into torch's own ops, a kernel stays one call."""
    graphs, runs = [], []  # does it hold the kernel?

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        kernel = any("encode_increments" in str(node.target) for node in graph.graph.nodes)
        graphs.append(kernel)

        def run(*args: Any) -> Any:
            runs.append(kernel)
            return graph.forward(*args)

        return run

    @torch.compile(fullgraph=True, backend=backend)
    def f(y: torch.Tensor, widths: torch.Tensor) -> torch.Tensor:
        return ops.encode_increments(y, widths)

    y, widths = torch.rand(3), torch.ones(2)
    want = ops.encode_increments(y, widths)

    def ran_kernel() -> bool:
        assert torch.equal(f(y, widths), want)
        return runs[-1]

    for turn in range(3):
        assert ran_kernel()
        with use_backend("reference"):
            assert not ran_kernel()
            assert in_thread(ran_kernel) is True  # not forced there
            with use_backend("cpu"):
                assert ran_kernel()
            assert not ran_kernel()
        assert ran_kernel()
        if turn == 0:
            compiled = len(graphs)
    assert len(graphs) == compiled  # each choice was compiled once


@pytest.mark.slow
def test_the_context_inside_a_compiled_function() -> None:
    def f(y: torch.Tensor, widths: torch.Tensor) -> torch.Tensor:
        with use_backend("reference"):
            return ops.encode_increments(y, widths)

    y, widths = torch.rand(3), torch.ones(2)
    assert torch.equal(torch.compile(f, fullgraph=True, backend="eager")(y, widths), f(y, widths))
    assert _backend.forced_backend() is None
    assert not _backend.OPEN_CONTEXTS


@native
@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_backward_runs_on_the_backend_of_its_forward(name: str) -> None:
    """In a thread of its own, which has forced another one."""
    z, u, w, b = torch.randn(4, 3), torch.randn(2, 3), torch.randn(2, 3), torch.randn(2)
    z.requires_grad_()
    with use_backend(name):
        out, log_det = ops.planar_flow(z, u, w, b)

    def backward() -> torch.Tensor:
        with use_backend("cuda"):
            return torch.autograd.grad(out.sum() + log_det.sum(), z, create_graph=True)[0]

    found = in_thread(backward)
    if name == "reference":
        found.sum().backward()  # plain torch
    else:
        with pytest.raises(RuntimeError, match="planar_flow: differentiated twice"):
            found.sum().backward()
    with use_backend("reference"):
        out, log_det = ops.planar_flow(z, u, w, b)
    want = torch.autograd.grad(out.sum() + log_det.sum(), z)[0]
    assert torch.allclose(found, want, atol=1e-6)


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="name: expected one of 'reference', 'cpu', 'triton', 'cuda', got 'gpu'"), use_backend("gpu"):
        pass
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = _backend.nothing
