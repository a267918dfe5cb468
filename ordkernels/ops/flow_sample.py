"""Noising of flow matching: the kernel of `q_sample`, with the time in place of alpha_bar."""

from torch import Tensor

from ._register import register_alias
from .q_sample import sample

__all__ = ["flow_sample"]


def flow_sample(x0: Tensor, noise: Tensor, t: float | Tensor) -> Tensor:
    r"""Noise x0 to the time t of flow matching: :math:`x_t = (1 - t)\, x_0 + t\, \epsilon`.

    Args:
        x0, noise: as in :func:`q_sample`.
        t: in [0, 1]; shapes as alpha_bar's there.

    Returns:
        x_t like noise.

    Raises:
        TypeError, ValueError: as :func:`q_sample`.

    Source: Lipman et al., Flow Matching for Generative Modeling, section 4.1; DiffoR, table 6(b).

    Example:
        >>> import torch
        >>> from ordkernels.ops import flow_sample
        >>> flow_sample(torch.ones(1, 2), torch.zeros(1, 2), 0.25)
        tensor([[0.7500, 0.7500]])
    """
    return sample(x0, noise, "t", t, time=True)


register_alias("flow_sample", serves="q_sample")
