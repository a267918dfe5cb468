"""Makers of inputs, friendly and hostile, shared by tests and benches."""

import torch
from torch import Tensor

__all__ = ["SIZES", "flow_inputs", "strided"]

SIZES = (0, 1, 127, 128, 129)


def flow_inputs(
    B: int,
    K: int,
    D: int,
    N: int | None = None,
    *,
    shared: bool = False,
    dtype: torch.dtype = torch.float32,
    kind: str = "normal",
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(z, u, w, b) of a planar flow, made in fp64 and rounded to `dtype`.

    Args:
        B, K, D: rows, layers, columns.
        N: samples that share a row's parameters; None for z [B, D].
        shared: one set of parameters for all rows.
        dtype: of all four.
        kind: "normal", |u| and |w| near 1; "dead", every second layer has w = 0; "low" and "high", w.u near -1e4 and 1e4;
            "saturated", |a| up to about 100.
        seed: of the generator.

    Raises:
        ValueError: an unknown kind.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    lead = () if shared else (B,)
    z = normal(B, D) if N is None else normal(B, N, D)
    u, w, b = normal(*lead, K, D) / D**0.5, normal(*lead, K, D) / D**0.5, normal(*lead, K)
    if kind == "dead":
        w[..., ::2, :] = 0
    elif kind in ("low", "high"):
        w = w / w.norm(dim=-1, keepdim=True).clamp(min=1e-3)
        u = u + (-1e4 if kind == "low" else 1e4) * w
    elif kind == "saturated":
        w, b = w * 3, b * 30
    elif kind != "normal":
        raise ValueError(f"kind: expected normal, dead, low, high or saturated, got {kind!r}")
    return tuple(t.to(dtype) for t in (z, u, w, b))  # type: ignore[return-value]


def strided(t: Tensor) -> Tensor:
    """The same values with NaN between them: every second element of the last dimension, the other dimensions reversed in memory."""
    order = list(range(t.dim() - 1))[::-1]
    padded = torch.full([*(t.shape[i] for i in order), 2 * t.shape[-1] + 1], float("nan"), dtype=t.dtype)
    view = padded.permute(*order, t.dim() - 1)[..., 1::2]
    return view.copy_(t)
