"""The noising of flow matching. It is ``q_sample`` with ``kind = 1``: alpha_bar is the time."""

from torch import Tensor

from .q_sample import q_sample


def flow_sample(x0: Tensor, noise: Tensor, t: Tensor | None, number: float = 0.0) -> Tensor:
    """x0 [B,D] or like noise, noise [B,D] | [B,K,D], t per row or the number -> like noise."""
    return q_sample(x0, noise, t, number, 1)
