"""The inverse of planar flows."""

from torch import Tensor

from .._validation import tensors as checks
from ..reference import planar_flow_inverse as reference
from ..reference._planar_flow import UNCONSTRAINED
from ._planar_flow import Constrained, check_flow, constraint_mode, fake_flow, fake_flow_backward, fold_groups
from ._register import DifferentiableOp

__all__ = ["planar_flow_inverse"]


def planar_flow_inverse(z_out: Tensor, u: Tensor, w: Tensor, b: Tensor, *, constrained: Constrained = True) -> tuple[Tensor, Tensor]:
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
    mode = constraint_mode(constrained)
    if mode == UNCONSTRAINED:
        raise ValueError("constrained: expected True or 'smooth' (an unconstrained layer need not have an inverse), got False")
    if checks.autocast_is_active():
        z_out, u, w, b = checks.promoted(z_out, u, w, b)
    check_flow("z_out", z_out, u, w, b)
    return _OP(z_out, u, w, b, mode)


_OP: DifferentiableOp[tuple[Tensor, Tensor]] = DifferentiableOp(
    "planar_flow_inverse",
    tensors=4,
    public=2,
    reference=reference.planar_flow_inverse,
    reference_backward=reference.planar_flow_inverse_backward,
    fake=fake_flow,
    fake_backward=fake_flow_backward,
    saved=lambda inputs, out: (out[0], out[2], inputs[1], inputs[2]),  # z_in, act, u, w
    vmap=fold_groups,
)
