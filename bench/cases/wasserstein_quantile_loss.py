"""The Wasserstein quantile loss against torch, eager and compiled."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ordkernels import ops

from . import OURS, Case, Run, Scaling, Size, compiled, randn, with_backward, without_grad

L = 20


def cases(device: str, size: Size) -> Iterator[Case]:
    rows = {"tiny": (5,), "quick": (65_536,), "full": (1024, 65_536)}[size]
    for B in (1024, 1 << 20) if device == "cuda" and size == "full" else rows:
        yield _wasserstein(B, device, backward=False)
        yield _wasserstein(B, device, backward=True)


def eager_loss(samples: Tensor, q_user: Tensor, q_item: Tensor) -> Tensor:
    s = samples.sort(dim=1).values
    return (0.8 * (s - q_user).abs() + 0.2 * (s - q_item).abs()).mean(1)


def our_loss(samples: Tensor, q_user: Tensor, q_item: Tensor) -> Tensor:
    return ops.wasserstein_quantile_loss(samples, q_user, q_item, lam=0.8)


def inputs(B: int, device: str) -> list[Tensor]:
    """Samples, and sorted quantiles of the user and of the item."""
    return [randn(B, L, device=device, seed=1), *(randn(B, L, device=device, seed=s).sort(dim=1).values for s in (2, 3))]


def _wasserstein(B: int, device: str, backward: bool) -> Case:
    """FlowTime trains the samples alone; the quantiles are data."""
    samples, q_user, q_item = inputs(B, device)
    grads = [randn(B, device=device, seed=4)]

    def wrap(f: Any) -> Run:
        if not backward:
            return without_grad(f, [samples, q_user, q_item])
        return with_backward(lambda s: f(s, q_user, q_item), [samples], grads)

    def expected() -> tuple[Any, ...]:
        doubles = [t.double() for t in (samples, q_user, q_item)]
        if not backward:
            return (eager_loss(*doubles),)
        return with_backward(lambda s: eager_loss(s, *doubles[1:]), doubles[:1], [grads[0].double()])()

    return Case(
        "wasserstein_quantile_loss", f"forward{' + backward' if backward else ''} B={B} L={L}",
        {OURS: wrap(our_loss), "eager": wrap(eager_loss), "compile": wrap(compiled(eager_loss))}, expected, 1e-4,
        bytes=4 * B * (3 * L + 1) + (4 * B * (4 * L + 1) if backward else 0), device=device,
    )  # fmt: skip


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    top = {"tiny": 2, "quick": 5, "full": 6}[size]
    rows = tuple(10**e for e in range(2 if size == "tiny" else 3, top + 1))

    def run(B: int) -> Run:
        return without_grad(our_loss, inputs(B, device))

    yield Scaling("wasserstein_quantile_loss", f"forward, L={L}", "B", rows, run, float)
