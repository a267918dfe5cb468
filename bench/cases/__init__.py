"""What is measured: for each op, cases with inputs, our call, the baselines' calls, expected results, bytes and operations needed.

A case lists its baselines at their best: the same work, the same outputs, inputs already in the form that suits them.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from op_names import NAMES as NAMES
from op_names import check

Size = Literal["tiny", "quick", "full"]
Run = Callable[[], Any]
OURS = "ordkernels"
COMPILER = "inductor"  # tests of the cases take "eager", which traces and does not compile


@dataclass
class Target:
    """`factor` times as fast as `against`, "best baseline" or a run's name; against "limit" and "memory": that share of it."""

    text: str
    against: str
    factor: float


@dataclass
class Case:
    op: str
    name: str
    runs: dict[str, Run]  # OURS, and the others
    expected: Callable[[], tuple[Any, ...]]  # in fp64, or exact
    tolerance: float  # largest error over the largest expected value, for each output
    bytes: int  # each input read once, each output written once
    flops: float = 0.0
    targets: list[Target] = field(default_factory=list)
    context: tuple[str, ...] = ()  # runs that are shown and not counted as baselines
    missing: dict[str, str] = field(default_factory=dict)  # baseline -> why it is not here
    outputs: dict[str, Callable[[Any], tuple[Any, ...]]] = field(default_factory=dict)  # run -> its result as `expected` gives it
    tolerances: dict[str, float] = field(default_factory=dict)  # of a run that is less exact by what it is, in place of `tolerance`
    device: str = "cpu"
    ties: Callable[[tuple[Any, ...], tuple[torch.Tensor, ...]], torch.Tensor] | None = None  # (outputs, expected) -> rows [B], see `error`
    tied: dict[str, int] = field(default_factory=dict)  # run -> how many rows that were

    def expected_values(self) -> tuple[torch.Tensor, ...]:
        return tuple(_as_double(x) for x in self.expected())

    def error(self, name: str, expected: tuple[torch.Tensor, ...]) -> float:
        """A run's largest error over the outputs; infinite where shapes or the places of NaN differ.

        Rows of `ties`, which differ because rounding chose between two equals, are counted and left out.
        """
        out = self.runs[name]()
        out = self.outputs.get(name, lambda x: x if isinstance(x, tuple) else (x,))(out)
        if [np.shape(a) for a in out] != [b.shape for b in expected]:
            return float("inf")
        if self.ties is not None and bool((tied := self.ties(out, expected)).any()):
            self.tied[name] = int(tied.sum())
            out, expected = (tuple(t[~tied] for t in ts) for ts in (out, expected))
        return max(map(_difference, out, expected), default=float("inf"))


@dataclass
class Scaling:
    """Time per row as one size grows; `make(n)` gives a run over n rows, or of n layers, columns..."""

    op: str
    name: str
    axis: str
    sizes: tuple[int, ...]
    make: Callable[[int], Run]
    per: Callable[[int], float]  # what the time is divided by


def _as_double(x: Any) -> torch.Tensor:
    return (x.detach() if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x))).double()


def _difference(got: Any, b: torch.Tensor) -> float:
    a = _as_double(got).to(b.device)
    if a.shape != b.shape or not torch.equal(a.isnan(), b.isnan()):
        return float("inf")
    if not a.numel():
        return 0.0
    return float((a - b).abs().nan_to_num(0).max() / b.nan_to_num(0).abs().max().clamp(min=1e-30))


def load(name: str) -> ModuleType:
    check(name)
    return importlib.import_module(f"cases.{name}")


def cases(name: str, device: str = "cpu", size: Size = "full") -> Iterator[Case]:
    """One at a time, so that one case's inputs are in memory at once."""
    yield from load(name).cases(device, size)


def scalings(name: str, device: str = "cpu", size: Size = "full") -> Iterator[Scaling]:
    yield from load(name).scalings(device, size)


def optional(name: str, missing: dict[str, str], baseline: str) -> Any:
    """A peer's module, or None and the reason noted."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a peer may fail at import in any way
        missing[baseline] = f"{type(error).__name__}: {error}".splitlines()[0]
        return None


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    import torch._dynamo

    torch._dynamo.config.recompile_limit = 256
    return torch.compile(function, dynamic=False, fullgraph=True, backend=COMPILER)


def randn(*shape: int, device: str, seed: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(device, seed), device=device) * scale


def generator(device: str, seed: int) -> torch.Generator:
    """Of the device: a host would take longer to draw the inputs of a large case than a GPU takes for all of its runs."""
    return torch.Generator(device).manual_seed(seed)


def with_backward(function: Callable[..., Any], leaves: list[torch.Tensor], grads: list[torch.Tensor]) -> Run:
    """Forward and backward: the outputs, then the gradients of the leaves."""
    tracked = [t.detach().clone().requires_grad_() for t in leaves]

    def run() -> tuple[torch.Tensor, ...]:
        out = function(*tracked)
        out = out if isinstance(out, tuple) else (out,)
        return (*(t.detach() for t in out), *torch.autograd.grad(out, tracked, grads))

    return run


def without_grad(function: Callable[..., Any], args: list[torch.Tensor]) -> Run:
    def run() -> Any:
        with torch.no_grad():
            return function(*args)

    return run
