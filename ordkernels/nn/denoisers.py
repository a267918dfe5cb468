"""Denoisers: networks ``f(x_t, t, condition)`` that predict noise, signal, v or velocity, for a row or K copies of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._validation.numbers import one_of, positive_sizes
from ..ops._weights import MLPWeights, Prediction
from ..ops.mlp import mlp
from ..ops.sequence_layer import _OP as SEQUENCE_LAYER
from ._mlp import copies_of_rows, kernel_serves
from .transformer import TransformerLayer

__all__ = ["FoldedMLP", "MLPDenoiser", "TimeEmbedding", "TransformerDenoiser"]


class FoldedMLP(NamedTuple):
    """An ``MLPDenoiser`` with everything that a chain computes once: ``f = out @ silu(weight @ x + time[s] + cond[b]) + bias``."""

    weight: Tensor  # [H, D], the latent's columns of the first layer
    time: Tensor  # [S, H], one row per timestep: its embedding through the first layer, with that layer's bias
    cond: Tensor  # [B, H], one row per row of the batch
    out: Tensor  # [D, H]
    bias: Tensor  # [D]


class TimeEmbedding(nn.Module):
    r"""Sinusoids of a timestep: ``[...] -> [..., width]``, ``sin(t f_i)`` then ``cos(t f_i)``, ``f_i = 10000^(-2i / width)``.

    Computed in fp32 or fp64, and rounded once to the module's dtype.

    Args:
        width: even.

    Raises:
        ValueError: a width that is odd or below 2.

    Source: Vaswani et al., "Attention Is All You Need", section 3.5.

    Example:
        >>> import torch
        >>> TimeEmbedding(64)(torch.tensor([1, 50])).shape
        torch.Size([2, 64])
    """

    frequencies: Tensor  # [width / 2], in fp32 or fp64 whatever the module's dtype: in bf16 the timestep 981 is 984
    like: Tensor  # [0], of the module's dtype

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        positive_sizes(width=width)
        if width % 2:
            raise ValueError(f"width: expected an even number (a sine and a cosine per frequency), got {width}")
        self.count = width // 2
        self.register_buffer("like", torch.empty(0), persistent=False)
        self.register_buffer("frequencies", self._exact(), persistent=False)

    def _exact(self) -> Tensor:
        f = torch.exp(torch.arange(self.count, dtype=torch.float64, device="cpu") * (-math.log(10000.0) / self.count))
        return f.to(self.like.device, torch.promote_types(self.like.dtype, torch.float32))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TimeEmbedding:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.frequencies = self._exact()
        return self

    def forward(self, t: Tensor) -> Tensor:
        angle = t.to(self.frequencies.dtype)[..., None] * self.frequencies  # [..., width / 2]
        return torch.cat((angle.sin(), angle.cos()), dim=-1).to(self.like.dtype)


class MLPDenoiser(nn.Module):
    r"""A denoiser of one hidden layer, the one that ``ops.denoise_chain`` runs whole chains of.

    .. math:: f(x, t, c) = W_o\, \mathrm{SiLU}(W_x x + W_t e(t) + b + W_c c) + b_o

    with ``e`` the sinusoids of ``TimeEmbedding``. Parameters and ``state_dict`` keys, in this order:
    ``input.weight`` ``[hidden, D + time_width]`` (the latent's D columns, ``W_x``, then the time's, ``W_t``),
    ``input.bias`` ``[hidden]``, ``condition.weight`` ``[hidden, C]`` (no bias), ``output.weight`` ``[D, hidden]``,
    ``output.bias`` ``[D]``. ``dropout`` acts on the hidden layer, in training alone.

    Args:
        width: D of the latent.
        cond_width: C of the condition.
        hidden: units of the hidden layer.
        time_width: of the sinusoids, even.
        dropout: of the hidden layer.
        prediction: what the output is, for ``ops.denoise_chain``; None: not said here.

    Shapes: ``x [B, D]`` with ``t`` a number, ``[]`` or ``[B]``; or ``x [B, K, D]`` (K copies of a row, which share its
    condition, projected once) with ``t`` a number, ``[]``, ``[K]``, ``[B, 1]`` or ``[B, K]``; ``cond [B, C]`` -> like x.
    Timesteps are the schedule's, ``1..T``.

    Raises:
        ValueError: sizes below 1, an odd time width, and shapes that disagree.

    Source: DiffoR, table 6 (c).

    Example:
        >>> import torch
        >>> MLPDenoiser(64, cond_width=32)(torch.randn(5, 64), 50, torch.randn(5, 32)).shape
        torch.Size([5, 64])
    """

    def __init__(
        self,
        width: int,
        cond_width: int,
        hidden: int = 256,
        time_width: int = 64,
        *,
        dropout: float = 0.0,
        prediction: Prediction | None = None,
    ) -> None:
        super().__init__()
        positive_sizes(width=width, cond_width=cond_width, hidden=hidden, time_width=time_width)
        if prediction is not None:
            one_of("prediction", prediction, ("eps", "x0", "v"))
        self.prediction = prediction
        self.width, self.cond_width, self.hidden, self.time_width, self.dropout = width, cond_width, hidden, time_width, dropout
        self.embedding = TimeEmbedding(time_width)
        self.input = nn.Linear(width + time_width, hidden)
        self.condition = nn.Linear(cond_width, hidden, bias=False)
        self.output = nn.Linear(hidden, width)

    def forward(self, x: Tensor, t: Tensor | float, cond: Tensor) -> Tensor:
        t = _timesteps(x, t, cond, self.width, self.cond_width)
        shift = self.condition(cond)  # [B, H]
        if kernel_serves(x, self.input, self.output):
            return self._by_kernel(x, t, self.input.weight[:, : self.width], shift)
        shift = self.time_bias(t) + (shift[:, None] if x.dim() == 3 else shift)
        h = F.silu(F.linear(x, self.input.weight[:, : self.width]) + shift)
        out: Tensor = self.output(F.dropout(h, self.dropout, self.training))
        return out

    def conditioned(self, cond: Tensor, T: int) -> Callable[[Tensor, Tensor | float], Tensor]:
        """``f(x, t)`` under one condition, for many calls at whole timesteps up to T: both are projected once, their gradients too."""
        if not kernel_serves(cond, self.input, self.output):
            return lambda x, t: self(x, t, cond)
        w, shift, times = self.input.weight[:, : self.width], self.condition(cond), self.time_bias(torch.arange(T + 1, device=cond.device))
        return lambda x, t: self._by_kernel(x, _timesteps(x, t, cond, self.width, self.cond_width), w, shift, times)

    def _by_kernel(self, x: Tensor, t: Tensor, w: Tensor, shift: Tensor, times: Tensor | None = None) -> Tensor:
        """x [B, D] or [B, K, D], w [H, D], shift [B, H], times [T + 1, H]: what each timestep adds, if that is known already."""
        B, K = x.shape[0], x.shape[1] if x.dim() == 3 else 1
        row, copy = copies_of_rows(B, K, x.device)
        at = copy if t.dim() == 1 and x.dim() == 3 else row if t.dim() == 2 and t.shape[1] == 1 else None  # which of t is an entry's
        if times is None:
            times, index = self.time_bias(t).view(-1, self.hidden), at
        else:
            index = t.reshape(-1).to(torch.int64)
            index = index.expand(B * K) if len(index) == 1 else index if at is None else index[at]
        out = mlp(
            x.reshape(-1, self.width), w, None, self.output.weight, self.output.bias, cond=shift,
            cond_index=row, time=times, time_index=index, dropout=self.dropout if self.training else 0.0,
        )  # fmt: skip
        return out.view(x.shape)

    def time_bias(self, t: Tensor) -> Tensor:
        """``W_t e(t) + b``: ``[...] -> [..., H]``, all that a timestep adds to the hidden layer."""
        return F.linear(self.embedding(t), self.input.weight[:, self.width :], self.input.bias)

    def weights(self) -> MLPWeights:
        """All weights, as ``ops.denoise_chain`` takes them."""
        parts: Any = self._modules  # a module's own look-up costs more than a step of a chain
        first, condition, last, embedding = parts["input"], parts["condition"], parts["output"], parts["embedding"]
        a, b, c = first._parameters, condition._parameters, last._parameters
        try:
            tensors = a["weight"], a["bias"], b["weight"], c["weight"], c["bias"], embedding._buffers["frequencies"]
        except KeyError:  # a parametrization
            tensors = first.weight, first.bias, condition.weight, last.weight, last.bias, embedding.frequencies
        return tuple.__new__(MLPWeights, (*tensors, self.prediction))

    def fold(self, steps: Tensor, cond: Tensor) -> FoldedMLP:
        """For a chain over timesteps ``[S]`` with conditions ``[B, C]``: what has to be computed only once."""
        w = self.input.weight[:, : self.width]
        return FoldedMLP(w, self.time_bias(steps), self.condition(cond), self.output.weight, self.output.bias)

    def extra_repr(self) -> str:
        return f"width={self.width}, cond_width={self.cond_width}, hidden={self.hidden}, dropout={self.dropout}"


class TransformerDenoiser(nn.Module):
    """A Transformer over the K parts of a latent and its condition.

    The latent is K tokens of width ``D / K``, each projected to ``d_model`` and given a learned position; the condition
    is one more token; every token carries the projected timestep. Pre-norm layers; the K tokens are projected back.
    ``state_dict`` keys: ``from_latent``, ``from_condition``, ``from_time``, ``position`` ``[K + 1, d_model]``,
    ``blocks.{i}``, ``norm``, ``output``.

    Args:
        width: D of the latent, a multiple of ``tokens``.
        cond_width: C of the condition.
        tokens: K, the number of increments.
        d_model: width of a token, a multiple of ``heads``.
        layers: their number; the paper has 2.
        heads: of the attention; the paper has 8.
        time_width: of the sinusoids, even.
        dropout: of what each part of a layer adds; the paper has 0.1.

    Shapes: as ``MLPDenoiser``.

    Raises:
        ValueError: as ``MLPDenoiser``, and where ``tokens`` does not divide ``width``, or ``heads`` ``d_model``.

    Source: DiffoR, appendix C.1.2. Deviations from the paper: the tokens and the condition as one of them.

    Example:
        >>> import torch
        >>> TransformerDenoiser(64, cond_width=32)(torch.randn(5, 8, 64), torch.arange(8, 0, -1), torch.randn(5, 32)).shape
        torch.Size([5, 8, 64])
    """

    def __init__(
        self,
        width: int,
        cond_width: int,
        tokens: int = 8,
        *,
        d_model: int = 64,
        layers: int = 2,
        heads: int = 8,
        time_width: int = 64,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        positive_sizes(
            width=width, cond_width=cond_width, tokens=tokens, d_model=d_model, layers=layers, heads=heads, time_width=time_width
        )
        if width % tokens:
            raise ValueError(f"width: expected a multiple of tokens = {tokens}, got {width}")
        if d_model % heads:
            raise ValueError(f"d_model: expected a multiple of heads = {heads}, got {d_model}")
        self.width, self.cond_width, self.tokens = width, cond_width, tokens
        self.embedding = TimeEmbedding(time_width)
        self.from_latent = nn.Linear(width // tokens, d_model)
        self.from_condition = nn.Linear(cond_width, d_model)
        self.from_time = nn.Linear(time_width, d_model, bias=False)
        self.position = nn.Parameter(torch.randn(tokens + 1, d_model) * 0.5)
        self.blocks = nn.ModuleList(TransformerLayer(d_model, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(d_model)
        self.output = nn.Linear(d_model, width // tokens)

    def forward(self, x: Tensor, t: Tensor | float, cond: Tensor) -> Tensor:
        t = _timesteps(x, t, cond, self.width, self.cond_width)
        rows, K = x.shape[:-1], self.tokens  # [B] or [B, copies]
        condition = self.from_condition(cond).unsqueeze(-2)  # [B, 1, W]
        condition = condition[:, None] if x.dim() == 3 else condition
        places = self.position + self.from_time(self.embedding(t))[..., None, :]
        if kernel_serves(x, self.from_latent, self.norm, self.output, op=SEQUENCE_LAYER):
            e = self._embedded(x, condition, places)
        else:
            latent = self.from_latent(x.unflatten(-1, (K, -1)))
            e = torch.cat((latent, condition.expand(*rows, 1, -1)), dim=-2) + places
        e = e.view(-1, K + 1, e.shape[-1])
        for block in self.blocks:
            e = block(e)
        # The condition's token is normalised too, though nobody reads it: a slice of the narrow output takes less than one of tokens.
        out: Tensor = self.output(self.norm(e))[:, :K].reshape(x.shape)
        return out

    def _embedded(self, x: Tensor, condition: Tensor, places: Tensor) -> Tensor:
        """The tokens ``[..., K + 1, W]`` in fewer passes: all of them from one product, to which the rest is added in place."""
        K, weight, bias = self.tokens, self.from_latent.weight, self.from_latent.bias
        W, width = weight.shape
        latent = F.pad(x.unflatten(-1, (K, width)), (0, 0, 0, 1)).view(-1, width)
        # The transposed weight, contiguous: the products of backward then are those that a BLAS is fast at.
        e = (latent @ weight.T.contiguous()).view(*x.shape[:-1], K + 1, W)
        places = places + F.pad(bias.expand(K, -1), (0, 0, 0, 1))
        condition = F.pad(condition, (0, 0, K, 0))
        if places.dim() > 2:
            return e.add_(places).add_(condition)
        return e.add_(condition + places)

    def extra_repr(self) -> str:
        return f"width={self.width}, cond_width={self.cond_width}, tokens={self.tokens}"


def conditioned(denoiser: nn.Module, cond: Tensor, T: int) -> Callable[[Tensor, Tensor | float], Tensor]:
    """Any denoiser under one condition, ``f(x, t)`` at whole timesteps up to T; what an ``MLPDenoiser`` can prepare is made once."""
    if isinstance(denoiser, MLPDenoiser):
        return denoiser.conditioned(cond, T)
    return lambda x, t: denoiser(x, t, cond)


def _timesteps(x: Tensor, t: Tensor | float, cond: Tensor, D: int, C: int) -> Tensor:
    """Checks the three inputs; t as a tensor that broadcasts against x's rows."""
    if x.dim() not in (2, 3) or x.shape[-1] != D:
        raise ValueError(f"x: expected [B, D] or [B, K, D] with D = {D}, got {list(x.shape)}")
    if list(cond.shape) != [x.shape[0], C]:
        raise ValueError(f"cond: expected [B, C] = {[x.shape[0], C]}, got {list(cond.shape)}")
    if not isinstance(t, Tensor):
        return torch.full((), t, device=x.device)  # filled on the device: no copy from the host
    rows = list(x.shape[:-1])
    allowed = [[], rows] if x.dim() == 2 else [[], rows[1:], [rows[0], 1], rows]
    if list(t.shape) not in allowed:
        forms = "[] or [B]" if x.dim() == 2 else "[], [K], [B, 1] or [B, K]"
        raise ValueError(f"t: expected {forms} for x {list(x.shape)}, got {list(t.shape)}")
    return t
