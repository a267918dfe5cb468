"""Planar flows."""

from torch import Tensor

from .._validation import tensors as checks
from ..reference import planar_flow as reference
from ._planar_flow import Constrained, check_flow, constraint_mode, fake_flow, fake_flow_backward, fold_groups
from ._register import DifferentiableOp

__all__ = ["planar_flow"]


def planar_flow(z: Tensor, u: Tensor, w: Tensor, b: Tensor, *, constrained: Constrained = True) -> tuple[Tensor, Tensor]:
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
    mode = constraint_mode(constrained)
    if checks.autocast_is_active():
        z, u, w, b = checks.promoted(z, u, w, b)
    check_flow("z", z, u, w, b)
    return _OP(z, u, w, b, mode)


_OP: DifferentiableOp[tuple[Tensor, Tensor]] = DifferentiableOp(
    "planar_flow",
    tensors=4,
    public=2,
    reference=reference.planar_flow,
    reference_backward=reference.planar_flow_backward,
    fake=fake_flow,
    fake_backward=fake_flow_backward,
    saved=lambda inputs, out: (inputs[0], out[2], inputs[1], inputs[2]),  # z, act, u, w
    vmap=fold_groups,
    cuda=True,
)
