"""What the planar flows share: checks, fakes and the vmap rule."""

from collections.abc import Sequence
from typing import Any, Literal

from torch import Tensor
from torch._ops import OpOverload

from .._validation import tensors as checks
from .._validation.numbers import one_of
from ..reference._common import compute_dtype
from ..reference._planar_flow import CONSTRAINED, SMOOTH, UNCONSTRAINED
from ._register import VmapRule, argument_names, batch_first, is_backward

Constrained = bool | Literal["smooth"]


def constraint_mode(constrained: Any) -> int:
    choice = one_of("constrained", constrained, (True, False, "smooth"))
    return CONSTRAINED if choice is True else UNCONSTRAINED if choice is False else SMOOTH


def check_flow(name: str, z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> None:
    checks.floating(name, z)
    checks.dims(name, z, (2, 3), "[B, D] or [B, N, D]")
    checks.same("u", u, name, z)
    checks.same("w", w, name, z)
    checks.same("b", b, name, z)
    checks.dims("u", u, (2, 3), "[B, K, D] or [K, D]")
    D, K = z.shape[-1], u.shape[-2]
    form, lead = ("[B, K, D]", (z.shape[0],)) if u.dim() == 3 else ("[K, D]", ())
    checks.shape("u", u, (*lead, K, D), form)
    checks.shape("w", w, (*lead, K, D), form)
    checks.shape("b", b, (*lead, K), form[:-4] + "]")
    if K == 0 or D == 0:
        raise ValueError(f"u: expected at least one layer and one column, got shape {list(u.shape)}")


def fake_flow(**arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    z, u = arguments["z" if "z" in arguments else "z_out"], arguments["u"]
    rows, dtype = z.shape[:-1], compute_dtype(z)
    return z.new_empty(z.shape), z.new_empty(rows, dtype=dtype), z.new_empty((*rows, u.shape[-2]), dtype=dtype)


def fake_flow_backward(act: Tensor, u: Tensor, w: Tensor, gz: Tensor) -> tuple[Tensor, ...]:
    return gz.new_empty(gz.shape), u.new_empty(u.shape), w.new_empty(w.shape), u.new_empty(u.shape[:-1])


def fold_groups(kernel: OpOverload) -> VmapRule:
    """vmap rule: V batches of shared parameters [K, D] are V groups of rows; V batches of per-row parameters V * B groups."""
    names = argument_names(kernel)
    parameters = [names.index(name) for name in ("u", "w", "b") if name in names]

    def rule(info: Any, dims: Sequence[Any], *args: Any) -> Any:
        V = info.batch_size
        ts = [batch_first(a, d, V) for a, d in zip(args[:-1], dims[:-1], strict=True)]
        z, u = ts[0], ts[parameters[0]]
        rows = z.shape[:-1]  # [V, B] or [V, B, N]
        lead = u.shape[: u.dim() - 2]  # [V] or [V, B]
        G, N = lead.numel(), rows[len(lead) :].numel()
        folded = [
            t.reshape(G, *t.shape[len(lead) :]) if i in parameters else t.reshape(G, N, *t.shape[len(rows) :]) for i, t in enumerate(ts)
        ]
        out = kernel(*folded, args[-1])
        if is_backward(kernel):
            out = (out[0].reshape(z.shape), *(g.reshape(*lead, *g.shape[1:]) for g in out[1:]))
        else:
            out = tuple(t.reshape(*rows, *t.shape[2:]) for t in out)
        return out, (0,) * len(out)

    return rule
