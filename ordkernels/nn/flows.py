"""Planar flows as modules and as ``torch.distributions`` transforms."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Transform, constraints

from .. import ops
from .._validation.numbers import one_of, positive_sizes

__all__ = ["ConditionalPlanarFlow", "PlanarFlow", "PlanarTransform"]

Constrained = bool | Literal["smooth"]


class PlanarTransform(Transform):
    """K planar layers as a ``torch.distributions`` transform over the last dimension.

    ``u``, ``w`` ``[K, D]`` and ``b`` ``[K]`` for every row, on inputs ``[..., D]``; or ``[B, K, D]`` and ``[B, K]``,
    one flow per row, on inputs ``[..., B, D]``. Calls ``ops.planar_flow`` and ``ops.planar_flow_inverse``;
    ``cache_size=1`` stores the last pair and its log-determinant, so that ``log_prob`` of a sample, and of an inverted
    value, costs no second pass. An unconstrained flow (``constrained=False``) is not bijective and has no inverse.

    Args:
        u: as above.
        w: as above.
        b: as above.
        constrained: of ``ops.planar_flow``.
        cache_size: 0 or 1.

    Raises:
        ValueError: from the ops, where shapes disagree.
        NotImplementedError: the inverse of an unconstrained flow.

    Source: Rezende and Mohamed, "Variational Inference with Normalizing Flows", eq. 10-13.

    Example:
        >>> import torch
        >>> from torch.distributions import Independent, Normal, TransformedDistribution
        >>> base = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
        >>> flow = PlanarTransform(torch.full((1, 2), 0.5), torch.ones(1, 2), torch.zeros(1))
        >>> TransformedDistribution(base, flow).log_prob(torch.zeros(3, 2)).shape
        torch.Size([3])
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector

    def __init__(self, u: Tensor, w: Tensor, b: Tensor, *, constrained: Constrained = True, cache_size: int = 0) -> None:
        super().__init__(cache_size=cache_size)
        self.u, self.w, self.b, self.constrained = u, w, b, one_of("constrained", constrained, (True, False, "smooth"))
        self._known: tuple[Tensor, Tensor] | None = None  # (x, its log-determinant), with cache_size=1

    @property
    def bijective(self) -> bool:  # type: ignore[override]
        return self.constrained is not False

    def with_cache(self, cache_size: int = 1) -> PlanarTransform:
        if cache_size == self._cache_size:
            return self
        return PlanarTransform(self.u, self.w, self.b, constrained=self.constrained, cache_size=cache_size)

    def call_and_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``y`` and ``log |dy/dx|`` in one pass: shapes ``[..., D]`` and ``[...]``."""
        z, rows = self._rows(x)
        z, log_det = ops.planar_flow(z, self.u, self.w, self.b, constrained=self.constrained)
        return self._back(z, rows, x.shape), self._back(log_det, rows, x.shape[:-1])

    def _call(self, x: Tensor) -> Tensor:
        y, log_det = self.call_and_log_det(x)
        self._remember(x, log_det)
        return y

    def _inverse(self, y: Tensor) -> Tensor:
        if not self.bijective:
            raise NotImplementedError("constrained=False: an unconstrained planar flow may fold space, so has no inverse")
        z, rows = self._rows(y)
        z, log_det = ops.planar_flow_inverse(z, self.u, self.w, self.b, constrained=self.constrained)
        x = self._back(z, rows, y.shape)
        self._remember(x, self._back(log_det, rows, y.shape[:-1]))
        return x

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        if self._known is not None and self._known[0] is x:
            return self._known[1]
        return self.call_and_log_det(x)[1]

    def _remember(self, x: Tensor, log_det: Tensor) -> None:
        if self._cache_size:
            self._known = (x, log_det)

    # The ops take [B, D], or [B, N, D] with the N samples of a row sharing its parameters; torch.distributions puts
    # sample dimensions first: [N..., B, D].
    def _rows(self, x: Tensor) -> tuple[Tensor, int]:
        if self.u.dim() == 2:
            return x.reshape(-1, x.shape[-1]), 0
        B = self.u.shape[0]
        if x.dim() < 2 or x.shape[-2] != B:
            raise ValueError(f"x: expected shape [..., B, D] with B = {B} rows, as in u, got {list(x.shape)}")
        return x.reshape(-1, B, x.shape[-1]).transpose(0, 1), B

    def _back(self, out: Tensor, rows: int, shape: torch.Size) -> Tensor:
        return (out.transpose(0, 1) if rows else out).reshape(shape)


class PlanarFlow(nn.Module):
    """K planar layers with learned parameters shared by all rows.

    ``forward(z [B, D] | [B, N, D]) -> (z_out like z, log_det [B] | [B, N])``; ``.inverse(z_out)`` is its inverse;
    ``.transform()`` is the ``torch.distributions`` transform with these (live) parameters.
    Parameters and ``state_dict`` keys: ``u``, ``w`` ``[K, D]``, ``b`` ``[K]``. The constraint's correction grows as
    ``0.307 / ||w||`` near 0, so each ``w_k`` starts on the unit sphere.

    Args:
        width: D.
        layers: K.
        constrained: of ``ops.planar_flow``.

    Raises:
        ValueError: a width or a number of layers below 1.

    Source: Rezende and Mohamed, "Variational Inference with Normalizing Flows", eq. 10-13.

    Example:
        >>> import torch
        >>> z, log_det = PlanarFlow(8, layers=2)(torch.zeros(5, 8))
        >>> z.shape, log_det.shape
        (torch.Size([5, 8]), torch.Size([5]))
    """

    def __init__(self, width: int, layers: int = 4, constrained: Constrained = True) -> None:
        super().__init__()
        positive_sizes(width=width, layers=layers)
        self.width, self.layers, self.constrained = width, layers, one_of("constrained", constrained, (True, False, "smooth"))
        self.u = nn.Parameter(torch.empty(layers, width))
        self.w = nn.Parameter(torch.empty(layers, width))
        self.b = nn.Parameter(torch.empty(layers))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        with torch.no_grad():
            self.u.normal_(std=0.3 / self.width**0.5)
            self.w.copy_(_unit_rows(self.w))
            self.b.normal_(std=0.5)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return ops.planar_flow(z, self.u, self.w, self.b, constrained=self.constrained)

    def inverse(self, z_out: Tensor) -> tuple[Tensor, Tensor]:
        """``(z_in, log_det of the forward map at z_in)``."""
        return ops.planar_flow_inverse(z_out, self.u, self.w, self.b, constrained=self.constrained)

    def transform(self, cache_size: int = 0) -> PlanarTransform:
        return PlanarTransform(self.u, self.w, self.b, constrained=self.constrained, cache_size=cache_size)

    def extra_repr(self) -> str:
        return f"width={self.width}, layers={self.layers}, constrained={self.constrained!r}"


class ConditionalPlanarFlow(nn.Module):
    """K planar layers whose parameters a linear hypernetwork makes from each row's condition.

    ``forward(z [B, D] | [B, N, D], h [B, H]) -> (z_out like z, log_det [B] | [B, N])`` in one op: the
    ``[B, K, 2D + 1]`` parameters are never materialized (on a CPU without that kernel: a matrix product, then the flow);
    ``.inverse(z_out, h)`` is its inverse; ``.parameters_of(h)`` are the ``u``, ``w`` ``[B, K, D]`` and ``b`` ``[B, K]``
    themselves; ``.transform(h)`` is a ``torch.distributions`` transform on ``[..., B, D]``.
    Parameters and ``state_dict`` keys: ``weight`` ``[K (2D + 1), H]`` and ``bias`` ``[K (2D + 1)]``, each layer
    ``u`` (D), ``w`` (D), ``b`` (1). At the start every row's ``w_k`` lies near one point of the unit sphere, since the
    constraint's correction grows as ``0.307 / ||w||`` near 0. For an MLP as hypernetwork, put its layers before ``h``.

    Args:
        width: D.
        cond_width: H.
        layers: K.
        constrained: of ``ops.planar_flow``.

    Raises:
        ValueError: widths or a number of layers below 1; from the ops, where shapes disagree.

    Source: FlowTime (arXiv:2606.01352), section 4.3.2, eq. 15-17.

    Example:
        >>> import torch
        >>> flow = ConditionalPlanarFlow(8, cond_width=3)
        >>> flow(torch.zeros(5, 20, 8), torch.zeros(5, 3))[0].shape
        torch.Size([5, 20, 8])
    """

    def __init__(self, width: int, cond_width: int, layers: int = 4, constrained: Constrained = True) -> None:
        super().__init__()
        positive_sizes(width=width, cond_width=cond_width, layers=layers)
        self.width, self.cond_width, self.layers = width, cond_width, layers
        self.constrained = one_of("constrained", constrained, (True, False, "smooth"))
        self.weight = nn.Parameter(torch.empty(layers * (2 * width + 1), cond_width))
        self.bias = nn.Parameter(torch.empty(layers * (2 * width + 1)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        K, D, H = self.layers, self.width, self.cond_width
        with torch.no_grad():
            # for h with entries of order one, each row's u and w deviate from the shared ones by about a third
            self.weight.normal_(std=0.3 / (D * H) ** 0.5)
            bias = self.bias.view(K, 2 * D + 1)
            bias[:, :D].normal_(std=0.3 / D**0.5)
            bias[:, D : 2 * D] = _unit_rows(bias[:, D : 2 * D])
            bias[:, 2 * D].normal_(std=0.5)

    def forward(self, z: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return ops.conditional_planar_flow(z, h, self.weight, self.bias, constrained=self.constrained)

    def parameters_of(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        D = self.width
        p = nn.functional.linear(h, self.weight, self.bias).view(*h.shape[:-1], self.layers, 2 * D + 1)
        return p[..., :D], p[..., D : 2 * D], p[..., 2 * D]

    def inverse(self, z_out: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """``(z_in, log_det of the forward map at z_in)``."""
        return ops.planar_flow_inverse(z_out, *self.parameters_of(h), constrained=self.constrained)

    def transform(self, h: Tensor, cache_size: int = 0) -> PlanarTransform:
        return PlanarTransform(*self.parameters_of(h), constrained=self.constrained, cache_size=cache_size)

    def extra_repr(self) -> str:
        return f"width={self.width}, cond_width={self.cond_width}, layers={self.layers}, constrained={self.constrained!r}"


def _unit_rows(like: Tensor) -> Tensor:
    return nn.functional.normalize(torch.randn_like(like), dim=-1)
