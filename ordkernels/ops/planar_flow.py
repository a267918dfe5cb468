"""Planar flows: forward, inverse, and forward with the hypernetwork that makes the parameters fused in."""

from typing import Any, Literal

import torch
from torch import Tensor

from .._validation import tensors as _checks
from ..reference import planar_flow as reference
from ._autograd import DifferentiableOp, Kernel, _front

__all__ = ["conditional_planar_flow", "planar_flow", "planar_flow_inverse"]


def planar_flow(z: Tensor, u: Tensor, w: Tensor, b: Tensor, *, constrained: bool | Literal["smooth"] = True) -> tuple[Tensor, Tensor]:
    r"""K planar layers with per-row or shared parameters, and the log-determinant of their Jacobian.

    .. math:: a_k = w_k \cdot z + b_k, \quad z \leftarrow z + \hat u_k \tanh a_k, \quad
              \log|\det| = \sum_k \log |1 + (1 - \tanh^2 a_k)\, w_k \cdot \hat u_k|

    Constrained layers are bijections: :math:`\hat u = u + (m(w \cdot u) - w \cdot u)\, w / \|w\|^2` with
    :math:`m(x) = \mathrm{softplus}(x) - 1`. For ``w = 0`` the layer shifts by ``u tanh b``.

    Args:
        z: ``[B, D]`` or ``[B, N, D]``.
        u, w: ``[B, K, D]`` per row (the N samples of a row share them), or ``[K, D]`` for all rows.
        b: ``[B, K]`` or ``[K]``.
        constrained: True; ``"smooth"`` for ``m(x) = softplus(x + ln(e - 1)) - 1``, which leaves ``w.u = 0`` as it is; False for
            ``uhat = u``, which may fold space.

    Returns:
        z_out like z, and log_det ``[B]`` or ``[B, N]`` in nats: fp32, or fp64 for fp64 inputs.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came. fp32, fp64, bf16, fp16; one dtype and device.

    Source: Rezende and Mohamed, Variational Inference with Normalizing Flows, eq. 10-12 and appendix A.1; FlowTime, eq. 16-17.

    Example:
        >>> import torch
        >>> from ordkernels.ops import planar_flow
        >>> z, log_det = planar_flow(torch.randn(8, 64), torch.randn(8, 4, 64), torch.randn(8, 4, 64), torch.randn(8, 4))
        >>> z.shape, log_det.shape
        (torch.Size([8, 64]), torch.Size([8]))
    """
    mode = _mode(constrained)
    _check("z", z, u, w, b)
    return _FORWARD(z, u, w, b, mode)


def planar_flow_inverse(
    z_out: Tensor, u: Tensor, w: Tensor, b: Tensor, *, constrained: bool | Literal["smooth"] = True
) -> tuple[Tensor, Tensor]:
    r"""The ``z_in`` that :func:`planar_flow` maps to ``z_out``, and the log-determinant of the forward map there.

    Per layer one equation in one unknown, :math:`a + (w \cdot \hat u) \tanh a = w \cdot z + b`, whose left side rises in a when
    the layer is constrained; then :math:`z_{in} = z - \hat u \tanh a`. Differentiable by the implicit function theorem.
    The attainable error of a layer is about ``eps (|z| + |uhat|) / min(1, det)``.

    Args:
        z_out: ``[B, D]`` or ``[B, N, D]``; u, w, b as in :func:`planar_flow`.
        constrained: True or ``"smooth"``.

    Returns:
        z_in like z_out; log_det ``[B]`` or ``[B, N]`` of the forward map, fp32, or fp64 for fp64 inputs.

    Raises:
        ValueError: also for ``constrained=False``, where no unique inverse need exist.

    Example:
        >>> import torch
        >>> from ordkernels.ops import planar_flow, planar_flow_inverse
        >>> z, u, w, b = (torch.randn(*s, dtype=torch.float64) for s in ((8, 16), (4, 16), (4, 16), (4,)))
        >>> back, _ = planar_flow_inverse(planar_flow(z, u, w, b)[0], u, w, b)
        >>> torch.allclose(back, z)
        True
    """
    mode = _mode(constrained)
    if mode == reference.UNCONSTRAINED:
        raise ValueError("constrained: expected True or 'smooth' (an unconstrained layer need not have an inverse), got False")
    _check("z_out", z_out, u, w, b)
    return _INVERSE(z_out, u, w, b, mode)


def conditional_planar_flow(
    z: Tensor, h: Tensor, weight: Tensor, bias: Tensor, *, constrained: bool | Literal["smooth"] = True
) -> tuple[Tensor, Tensor]:
    r""":func:`planar_flow` with parameters ``h @ weight.T + bias`` made on the way: ``[B, K, 2D + 1]`` is never held.

    Each layer's ``2D + 1`` outputs are u (D), w (D), b (1).

    Args:
        z: ``[B, D]`` or ``[B, N, D]``.
        h: condition ``[B, H]``.
        weight: ``[K (2D + 1), H]``.
        bias: ``[K (2D + 1)]``.
        constrained: as in :func:`planar_flow`.

    Returns:
        z_out like z, log_det ``[B]`` or ``[B, N]``.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: FlowTime, section 4.3.2.

    Example:
        >>> import torch
        >>> from ordkernels.ops import conditional_planar_flow
        >>> z, log_det = conditional_planar_flow(torch.randn(8, 5, 16), torch.randn(8, 32), torch.randn(4 * 33, 32), torch.randn(4 * 33))
        >>> z.shape, log_det.shape
        (torch.Size([8, 5, 16]), torch.Size([8, 5]))
    """
    mode = _mode(constrained)
    _checks.floating("z", z)
    _checks.dims("z", z, (2, 3), "[B, D] or [B, N, D]")
    for name, t in (("h", h), ("weight", weight), ("bias", bias)):
        _checks.same(name, t, "z", z)
    B, D = z.shape[0], z.shape[-1]
    _checks.dims("h", h, (2,), "[B, H]")
    _checks.shape("h", h, (B, h.shape[1]), "[B, H]")
    _checks.dims("weight", weight, (2,), "[K (2D + 1), H]")
    rows = weight.shape[0]
    if rows == 0 or rows % (2 * D + 1):
        raise ValueError(f"weight: expected a positive multiple of 2D + 1 = {2 * D + 1} rows, got shape {list(weight.shape)}")
    _checks.shape("weight", weight, (rows, h.shape[1]), "[K (2D + 1), H]")
    _checks.shape("bias", bias, (rows,), "[K (2D + 1)]")
    return _CONDITIONAL(z, h, weight, bias, mode)


def _mode(constrained: Any) -> int:
    if constrained is True:
        return reference.CONSTRAINED
    if constrained is False:
        return reference.UNCONSTRAINED
    if isinstance(constrained, str) and constrained == "smooth":
        return reference.SMOOTH
    raise ValueError(f"constrained: expected True, False or 'smooth', got {constrained!r}")


def _check(name: str, z: Tensor, u: Tensor, w: Tensor, b: Tensor) -> None:
    _checks.floating(name, z)
    _checks.dims(name, z, (2, 3), "[B, D] or [B, N, D]")
    _checks.same("u", u, name, z)
    _checks.same("w", w, name, z)
    _checks.same("b", b, name, z)
    _checks.dims("u", u, (2, 3), "[B, K, D] or [K, D]")
    D, K = z.shape[-1], u.shape[-2]
    form, lead = ("[B, K, D]", (z.shape[0],)) if u.dim() == 3 else ("[K, D]", ())
    _checks.shape("u", u, (*lead, K, D), form)
    _checks.shape("w", w, (*lead, K, D), form)
    _checks.shape("b", b, (*lead, K), form[:-4] + "]")
    if K == 0 or D == 0:
        raise ValueError(f"u: expected at least one layer and one column, got shape {list(u.shape)}")


def _acc(t: Tensor) -> torch.dtype:
    return reference.compute_dtype(t)


def _fake(z: Tensor, u: Tensor, w: Tensor, b: Tensor, mode: int) -> tuple[Tensor, Tensor, Tensor]:
    rows = z.shape[:-1]
    return z.new_empty(z.shape), z.new_empty(rows, dtype=_acc(z)), z.new_empty((*rows, u.shape[-2]), dtype=_acc(z))


def _fake_backward(z: Tensor, act: Tensor, u: Tensor, w: Tensor, gz: Tensor, gl: Tensor, mode: int) -> tuple[Tensor, ...]:
    return z.new_empty(z.shape), u.new_empty(u.shape), w.new_empty(w.shape), u.new_empty(u.shape[:-1])


def _fake_conditional(z: Tensor, h: Tensor, weight: Tensor, bias: Tensor, mode: int) -> tuple[Tensor, Tensor, Tensor]:
    rows, K = z.shape[:-1], weight.shape[0] // (2 * z.shape[-1] + 1)
    return z.new_empty(z.shape), z.new_empty(rows, dtype=_acc(z)), z.new_empty((*rows, K), dtype=_acc(z))


def _fake_conditional_backward(
    z: Tensor, act: Tensor, h: Tensor, weight: Tensor, bias: Tensor, gz: Tensor, gl: Tensor, mode: int
) -> tuple[Tensor, ...]:
    return tuple(t.new_empty(t.shape) for t in (z, h, weight, bias))


def _vmap(params: range, backward: bool) -> Any:
    """vmap rule: V batches of shared parameters [K, D] are V groups of rows, V batches of per-row ones V * B groups."""

    def make(kernel: Kernel) -> Kernel:
        def rule(info: Any, dims: Any, *args: Any) -> Any:
            V = info.batch_size
            ts = [_front(a, d, V) for a, d in zip(args[:-1], dims[:-1], strict=True)]
            z, u = ts[0], ts[params[0]]
            rows = z.shape[:-1]  # [V, B] or [V, B, N]
            lead = u.shape[: u.dim() - 2]  # [V] or [V, B]
            G, N = lead.numel(), rows[len(lead) :].numel()
            folded = [
                t.reshape(G, *t.shape[len(lead) :]) if i in params else t.reshape(G, N, *t.shape[len(rows) :]) for i, t in enumerate(ts)
            ]
            out = kernel(*folded, args[-1])
            if backward:
                out = (out[0].reshape(z.shape), *(g.reshape(*lead, *g.shape[1:]) for g in out[1:]))
            else:
                out = tuple(t.reshape(*rows, *t.shape[2:]) for t in out)
            return out, (0,) * len(out)

        return rule

    return make


def _vmap_loop(kernel: Kernel) -> Kernel:
    """vmap rule, one call per batch: with a shared weight there is nothing to fold its gradient into."""

    def rule(info: Any, dims: Any, *args: Any) -> Any:
        calls = [kernel(*(a.select(d, v) if d is not None else a for a, d in zip(args, dims, strict=True))) for v in range(info.batch_size)]
        return tuple(torch.stack(t) for t in zip(*calls, strict=True)), (0,) * len(calls[0])

    return rule


_FLOW: dict[str, Any] = dict(
    tensors=4, public=2, fake=_fake, fake_backward=_fake_backward,
    vmap=_vmap(range(1, 4), False), vmap_backward=_vmap(range(2, 4), True),
)  # fmt: skip
_FORWARD = DifferentiableOp(
    "planar_flow",
    reference=reference.planar_flow,
    reference_backward=reference.planar_flow_backward,
    triton="planar_flow",
    saved=lambda inputs, out: (inputs[0], out[2], inputs[1], inputs[2]),  # z, act, u, w
    **_FLOW,
)
_INVERSE = DifferentiableOp(
    "planar_flow_inverse",
    reference=reference.planar_flow_inverse,
    reference_backward=reference.planar_flow_inverse_backward,
    triton="planar_flow_inverse",
    saved=lambda inputs, out: (out[0], out[2], inputs[1], inputs[2]),  # z_in, act, u, w
    **_FLOW,
)
_CONDITIONAL = DifferentiableOp(
    "conditional_planar_flow",
    tensors=4,
    public=2,
    reference=reference.conditional_planar_flow,
    reference_backward=reference.conditional_planar_flow_backward,
    fake=_fake_conditional,
    fake_backward=_fake_conditional_backward,
    saved=lambda inputs, out: (inputs[0], out[2], inputs[1], inputs[2], inputs[3]),  # z, act, h, weight, bias
    vmap=_vmap_loop,
    triton="conditional_planar_flow",
)
