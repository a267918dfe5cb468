"""Planar flows as Pyro transforms: K layers in one call, with an inverse, parameters shared or made from a context."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.distributions import constraints

from ..nn import flows

try:
    from pyro.distributions.conditional import ConditionalTransformModule
    from pyro.distributions.torch_transform import TransformModule
except ImportError as error:
    raise ImportError(f"ordkernels.adapters.pyro: expected pyro, got {error}: pip install pyro-ppl") from error

__all__ = ["ConditionalPlanarFlow", "PlanarFlow"]


class PlanarFlow(TransformModule):
    """K planar layers with learned parameters, as ``ordkernels.nn.PlanarFlow``: a transform that is a module.

    Args:
        width: D.
        layers: K.
        constrained: of ``ops.planar_flow``; False has no inverse.

    Raises:
        ValueError: a width or a number of layers below 1.

    Source: Rezende and Mohamed, "Variational Inference with Normalizing Flows", eq. 10-13.

    Example:
        >>> import torch
        >>> flow = PlanarFlow(3)
        >>> x = torch.randn(5, 3)
        >>> torch.allclose(flow.inv(flow(x)), x, atol=1e-4), flow.log_abs_det_jacobian(x, flow(x)).shape
        (True, torch.Size([5]))
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector

    def __init__(self, width: int, layers: int = 4, constrained: flows.Constrained = True) -> None:
        super().__init__(cache_size=1)
        self.flow = flows.PlanarFlow(width, layers, constrained)
        self._last: tuple[Any, ...] = (None, None, None)  # x, y and their log-determinant

    @property
    def bijective(self) -> bool:  # type: ignore[override]
        return self.flow.constrained is not False

    def _call(self, x: Tensor) -> Tensor:
        y, log_det = self.flow.transform().call_and_log_det(x)
        self._last = x, y, log_det
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        t = self.flow.transform(cache_size=1)
        x: Tensor = t.inv(y)
        self._last = x, y, t.log_abs_det_jacobian(x, y)
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        x_last, y_last, log_det = self._last
        if x_last is not x or y_last is not y:
            log_det = self.flow.transform().call_and_log_det(x)[1]
        return log_det  # type: ignore[no-any-return]

    def clear_cache(self) -> None:
        super().clear_cache()
        self._last = (None, None, None)


class ConditionalPlanarFlow(ConditionalTransformModule):
    """K planar layers whose parameters a linear hypernetwork makes from the context, as ``ordkernels.nn.ConditionalPlanarFlow``.

    Args:
        width: D.
        context_width: H; for an MLP as hypernetwork put its layers before the context.
        layers: K.
        constrained: of ``ops.planar_flow``; False has no inverse.

    Raises:
        ValueError: widths or a number of layers below 1.

    Source: FlowTime (arXiv:2606.01352), section 4.3.2, eq. 15-17.

    Example:
        >>> import torch
        >>> import pyro.distributions as dist
        >>> base = dist.Normal(torch.zeros(3), torch.ones(3)).to_event(1)
        >>> flow = ConditionalPlanarFlow(3, context_width=2)
        >>> density = dist.ConditionalTransformedDistribution(base, [flow]).condition(torch.randn(5, 2))
        >>> density.log_prob(torch.randn(5, 3)).shape
        torch.Size([5])
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector

    def __init__(self, width: int, context_width: int, layers: int = 4, constrained: flows.Constrained = True) -> None:
        super().__init__()
        self.flow = flows.ConditionalPlanarFlow(width, context_width, layers, constrained)

    @property
    def bijective(self) -> bool:
        return self.flow.constrained is not False

    def condition(self, context: Tensor) -> flows.PlanarTransform:
        """The ``torch.distributions`` transform of contexts ``[H]`` or ``[B, H]``."""
        return self.flow.transform(context, cache_size=1)
