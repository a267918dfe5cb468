"""Forward and backward of an op of logits [R, V] and a table of value tokens, against torch, eager and compiled."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from . import OURS, Case, Run, Size, Target, compiled, randn, with_backward

V, WINDOW = 64, 20
ROWS: dict[tuple[str, Size], tuple[int, ...]] = {
    ("cpu", "tiny"): (5,), ("cpu", "quick"): (20_000,), ("cpu", "full"): (20_000, 200_000),
    ("cuda", "tiny"): (5,), ("cuda", "quick"): (20_000,), ("cuda", "full"): (20_000, 1 << 20),
}  # fmt: skip


def forward_backward_case(
    op: str, name: str, R: int, ours: Any, forms: dict[str, Callable[..., Tensor]], table: Tensor, device: str, factor: float
) -> Case:
    """Forward and backward of logits [R,V] and a table."""
    x = randn(R, V, device=device, seed=1)
    g = randn(R, *table.shape[1:], device=device, seed=3)
    runs: dict[str, Run] = {OURS: with_backward(ours, [x, table], [g])}
    for form, f in forms.items():
        runs[f"eager{form}"] = with_backward(f, [x, table], [g])
        runs[f"compile{form}"] = with_backward(compiled(f), [x, table], [g])
    first = next(iter(forms.values()))
    doubles = [t.double() for t in (x, table)]
    return Case(
        op, f"{name} V={V} forward + backward R={R}", runs, lambda: with_backward(first, doubles, [g.double()])(), 1e-4,
        bytes=4 * (3 * x.numel() + 2 * g.numel() + 2 * table.numel()),
        targets=[Target(f"at least {factor:g}x the best baseline", "best baseline", factor)] if device == "cpu" and R == 20_000 else [],
        device=device,
    )  # fmt: skip
