"""The pre-norm Transformer layer that the encoders and denoisers share, and the self-attention of all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..ops._weights import SequenceWeights
from ..ops.sequence_layer import _OP as SEQUENCE_LAYER
from ..ops.sequence_layer import sequence_layer
from ._mlp import has_hooks, kernel_serves

__all__ = ["TransformerLayer", "self_attention"]


def self_attention(x: Tensor, qkv: nn.Linear, out: nn.Linear, heads: int, *, mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
    """Multi-head self-attention: ``x [B, L, D]`` -> ``[B, L, D]``.

    Args:
        x: tokens.
        qkv: queries, keys and values in one product, ``D -> 3 D``.
        out: of the concatenated heads, ``D -> D``.
        heads: a divisor of D.
        mask: bool, broadcast to ``[B, heads, L, L]``: which tokens are attended to; None: all.
        is_causal: token t attends to tokens ``0 .. t``.
    """
    B, L, D = x.shape
    q, k, v = qkv(x).view(B, L, 3, heads, D // heads).permute(2, 0, 3, 1, 4)  # each [B, heads, L, D / heads]
    a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=is_causal)
    y: Tensor = out(a.transpose(1, 2).reshape(B, L, D))
    return y


class TransformerLayer(nn.Module):
    r"""A pre-norm Transformer layer: self-attention, then a feed-forward part of twice the width.

    .. math:: x \leftarrow x + \mathrm{SelfAttention}(N_1(x)), \quad x \leftarrow x + W_2\, \mathrm{SiLU}(W_1 N_2(x) + b_1) + b_2

    ``state_dict`` keys: ``{norm1,norm2,qkv,out,ffn.0,ffn.2}.{weight,bias}``.

    Args:
        width: D, a multiple of ``heads``.
        heads: of the attention.
        dropout: of what each part adds, in training alone.

    Shapes: ``x [B, L, D]``, ``mask`` bool, broadcast to ``[B, heads, L, L]`` (None: every token sees every token) -> ``[B, L, D]``.

    Source: Vaswani et al., "Attention Is All You Need", section 3; pre-norm as in Xiong et al., ICML 2020.

    Example:
        >>> import torch
        >>> TransformerLayer(16, heads=2, dropout=0.1)(torch.randn(5, 7, 16)).shape
        torch.Size([5, 7, 16])
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ffn = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None and self.kernel_serves(x):
            B, L, D = x.shape
            return self.packed(x.reshape(B * L, D), torch.arange(B + 1, device=x.device) * L).view(B, L, D)
        x = x + self._drop(self_attention(self.norm1(x), self.qkv, self.out, self.heads, mask=mask))
        return x + self._drop(self.ffn(self.norm2(x)))

    def kernel_serves(self, x: Tensor) -> bool:
        """Whether ``packed`` runs on a kernel and means what this module's layers do, however they are changed or listened to."""
        if type(self) is not TransformerLayer or has_hooks(self):
            return False
        return kernel_serves(
            x, self.norm1, self.qkv, self.out, self.norm2, *self.ffn, op=SEQUENCE_LAYER
        )  # fmt: skip

    def packed(self, x: Tensor, offsets: Tensor, *, padded: bool = False) -> Tensor:
        """The tokens of sequences of any lengths, one after the other: ``x [N, D]``, ``offsets [S + 1]`` -> ``[N, D]``; ``padded``: tokens
        may follow the last sequence."""
        eps, p = self.norm1.eps, self.dropout if self.training else 0.0
        return sequence_layer(x, offsets, self.weights(), heads=self.heads, eps=eps, dropout=p, padded=padded)

    def weights(self) -> SequenceWeights:
        """All weights, as ``ops.sequence_layer`` takes them."""
        first, _, last = self.ffn
        layers: Any = self.norm1, self.qkv, self.out, self.norm2, first, last
        return SequenceWeights(*(t for layer in layers for t in (layer.weight, layer.bias)))

    def _drop(self, added: Tensor) -> Tensor:
        return F.dropout(added, self.dropout, self.training)
