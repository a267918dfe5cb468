"""The decoder of GR's authors, and their evaluation loop: recognized by structure, since their code is no package.

The decoder's attention to the one memory token is its value and output projections (the softmax over one key is 1), the mixture of
embeddings is ``ops.embedding_mixup``. The evaluation, ``swap_in("inference")`` where their ``inference.py`` can be imported, decodes a
batch by one cached call of ``ops.value_decode`` instead of running every position again for each token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import ops
from ..ops import DecoderWeights
from ._rules import Fallback, function, rule

_LAYER = {
    "self_attention": ("w_q", "w_k", "w_v", "w_concat", "n_head"),
    "enc_dec_attention": ("w_q", "w_k", "w_v", "w_concat", "n_head"),
    "ffn": ("linear1", "linear2", "relu", "dropout"),
    "norm1": ("weight", "bias"), "norm2": ("weight", "bias"), "norm3": ("weight", "bias"),
    "dropout1": ("p",), "dropout2": ("p",), "dropout3": ("p",),
}  # fmt: skip


def _is_decoder(obj: Any) -> bool:
    names = "linear", "tok_emb", "drop_out", "weight_forward"
    if not isinstance(obj, nn.Module) or not all(hasattr(obj, name) for name in names):
        return False
    layers: Any = getattr(obj, "layers", None)
    return isinstance(layers, nn.ModuleList) and len(layers) > 0 and all(map(_has_parts, layers))


def _has_parts(layer: Any) -> bool:
    return all(hasattr(getattr(layer, part, None), name) for part, names in _LAYER.items() for name in names)


def _unless(decoder: Any) -> str | None:
    first = decoder.layers[0]
    for layer in decoder.layers:
        if not all(isinstance(norm, nn.LayerNorm) for norm in (layer.norm1, layer.norm2, layer.norm3)):
            return f"norms of class {type(layer.norm1).__name__}"
        if not isinstance(layer.ffn.relu, nn.ReLU):
            return f"activation {type(layer.ffn.relu).__name__}"
        if layer.self_attention.n_head != first.self_attention.n_head:
            return "layers with different numbers of heads"
        if len({norm.eps for norm in (layer.norm1, layer.norm2, layer.norm3)} | {first.norm1.eps}) > 1:
            return "norms with different eps"
        if any(getattr(layer, part)._forward_hooks for part in _LAYER):
            return "forward hooks inside its layers"
    return None


@rule(_is_decoder, op="embedding_mixup", unless=_unless, kinks=True)
class _Decoder:
    layers: Any
    linear: Any
    tok_emb: nn.Embedding
    drop_out: nn.Dropout

    def forward(self, trg: Tensor, enc_src: Tensor, trg_mask: Tensor, src_mask: Tensor | None) -> Any:
        return self._decode(self.drop_out(self.tok_emb(trg)), enc_src, trg_mask, src_mask) if _one_token(enc_src) else _MANY_TOKENS

    def weight_forward(self, trg: Any, enc_src: Tensor, trg_mask: Tensor, src_mask: Tensor | None, use_embedding_mixup: bool) -> Any:
        if not _one_token(enc_src):
            return _MANY_TOKENS
        x = self._mixed(trg) if use_embedding_mixup else self.drop_out(self.tok_emb(trg))
        return self._decode(x, enc_src, trg_mask, src_mask)

    def _mixed(self, inputs: Sequence[Tensor]) -> Tensor:
        """Tokens [B, 1] are embedded, logits [B, V] mix all embeddings; dropout in the order in which they come."""
        V = self.linear.out_features
        mixing = [i for i, item in enumerate(inputs) if item.shape[-1] == V]
        mixed = ops.embedding_mixup(torch.stack([inputs[i] for i in mixing], 1), self.tok_emb.weight, window=None) if mixing else None
        place = {i: j for j, i in enumerate(mixing)}
        parts = []
        for i, item in enumerate(inputs):
            e = mixed[:, place[i]] if mixed is not None and i in place else self.tok_emb(item)
            parts.append(self.drop_out(e.contiguous()).view(len(e), 1, -1))
        return torch.cat(parts, dim=1)

    def _decode(self, x: Tensor, memory: Tensor, mask: Tensor | None, src_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            x = layer.norm1(layer.dropout1(_self_attention(layer.self_attention, x, mask)) + x)
            x = layer.norm2(layer.dropout2(_memory_attention(layer.enc_dec_attention, x, memory, src_mask)) + x)
            x = layer.norm3(layer.dropout3(layer.ffn(x)) + x)
        return self.linear(x), x


_MANY_TOKENS = Fallback("a memory of more than one token")


def _one_token(memory: Any) -> bool:
    return isinstance(memory, Tensor) and memory.dim() == 3 and memory.shape[1] == 1


def _self_attention(attention: Any, x: Tensor, mask: Tensor | None) -> Tensor:
    B, L, d = x.shape
    q, k, v = (w(x).view(B, L, attention.n_head, -1).transpose(1, 2) for w in (attention.w_q, attention.w_k, attention.w_v))
    allowed = None if mask is None else mask != 0
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    if allowed is not None:  # a row that may see nothing is NaN in the original, and 0 here
        out = out.masked_fill(~allowed.any(-1, keepdim=True), torch.nan)
    mixed: Tensor = attention.w_concat(out.transpose(1, 2).reshape(B, L, d))
    return mixed


def _memory_attention(attention: Any, x: Tensor, memory: Tensor, src_mask: Tensor | None) -> Tensor:
    out = attention.w_concat(attention.w_v(memory))  # [B, 1, d], the same for each query
    if src_mask is not None:
        out = out.masked_fill(src_mask.reshape(-1, 1, 1) == 0, torch.nan)
    if torch.is_grad_enabled():
        unused = attention.w_q, attention.w_k
        out = _ZeroGradients.apply(out, *(p for w in unused for p in w.parameters()))
    return out.expand_as(x).contiguous()


class _ZeroGradients(torch.autograd.Function):
    """The first argument; the others, which do not matter, get the gradient 0 that the original gives them, and not None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *unused: Tensor) -> Tensor:
        ctx.save_for_backward(*unused)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *g: Any) -> Any:
        return (g[0], *(torch.zeros_like(p) for p in ctx.saved_tensors))


# --- evaluation


def _unless_theirs(original: Any) -> str | None:
    names = set(getattr(getattr(original, "__code__", None), "co_names", ()))
    if {"get_encoder_result", "weight_forward", "make_trg_mask", "decoder"} <= names:
        return None
    return "a function of another structure than the GR authors' evaluate"


@function("inference.evaluate", op="value_decode", unless=_unless_theirs, tolerance=2e-3)
def _evaluate(
    original: Any, test_loader: Any, model: Any, window_size: int, use_embedding_mixup: bool, durations: Tensor, device: Any,
    max_len: int = 20,
) -> Any:  # fmt: skip
    decoder = getattr(model, "decoder", None)
    reason = _unless(decoder) if _is_decoder(decoder) else "a decoder of another structure"
    if reason is not None:
        return Fallback(reason)
    model.eval()
    weights, predicted, labels = _weights(decoder), [], []
    with torch.no_grad():
        for features, user_mask, item_mask, play_times, tokens, _ in test_loader:
            memory, src_mask = model.get_encoder_result(features.to(device), user_mask.to(device), item_mask.to(device))
            if not _one_token(memory) or not bool((src_mask != 0).all()) or not bool((tokens[:, 0] == 1).all()):
                return Fallback("a memory of more than one token, or sequences that do not begin with SOS")
            out = ops.value_decode(
                memory[:, 0], weights, durations.to(memory.dtype), max_tokens=max_len, window=window_size,
                mixup="full" if use_embedding_mixup else None, readout="windowed",
            )  # fmt: skip
            predicted.append((out.value / 1000).cpu().numpy())
            labels.append(play_times.double().reshape(-1).cpu().numpy())
    y, prediction = np.concatenate(labels), np.concatenate(predicted)
    return round(ops.xauc(y, prediction, ties="reference").value, 4), round(np.mean(np.abs(prediction - y)), 4)


def _weights(decoder: Any) -> DecoderWeights:
    """Their weights, in the order in which ``ops.value_decode`` takes them."""
    tensors = [decoder.tok_emb.weight, decoder.linear.weight, decoder.linear.bias]
    for layer in decoder.layers:
        own, cross = layer.self_attention, layer.enc_dec_attention
        for name in ("weight", "bias"):
            tensors.append(torch.cat([getattr(w, name).detach() for w in (own.w_q, own.w_k, own.w_v)]))
        parts = own.w_concat, cross.w_v, cross.w_concat, layer.ffn.linear1, layer.ffn.linear2, layer.norm1, layer.norm3, layer.norm2
        tensors += [t for part in parts for t in (part.weight, part.bias)]
    width, heads = decoder.tok_emb.weight.shape[1], decoder.layers[0].self_attention.n_head
    return DecoderWeights([t.detach() for t in tensors], None, heads, width, norm_eps=decoder.layers[0].norm1.eps)
