"""A Transformer decoder of value tokens that attends to one memory vector per row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .._validation.numbers import positive_sizes
from ..ops._weights import DecoderWeights, SequenceWeights
from ..ops.sequence_layer import _OP as SEQUENCE_LAYER
from ..ops.sequence_layer import sequence_layer
from ..reference.value_decode import SOS
from ._mlp import has_hooks, kernel_serves
from .transformer import self_attention

__all__ = ["ValueDecoder"]


class ValueDecoder(nn.Module):
    r"""Logits of the next value token, given the tokens so far and one memory vector per row.

    .. math:: x = E[s] \;(+\, P), \quad
              x \leftarrow N_1(x + \mathrm{SelfAttention}(x)), \quad x \leftarrow N_2(x + W_o (W_v m + b_v) + b_o), \quad
              x \leftarrow N_3(x + W_2\, \phi(W_1 x + b_1) + b_2), \quad \text{logits} = W x + b

    in each layer (``norm="post"``); attention to a single memory token has softmax 1 whatever the queries and keys, so it is
    its value and output projections, and there are no queries and keys. ``norm="pre"``: ``x <- x + f(N(x))`` for self-attention
    (``norm1``) and the feed-forward part (``norm3``), no norm before the memory attention, which does not depend on x, and
    ``norm`` before the logits. A memory of another width than d_model is projected to it first (``memory``). Dropout acts on
    what each of the three parts adds, in training alone. ``ops.value_decode`` generates with it, cached, in one call.

    ``state_dict`` keys: ``tok_emb.weight`` ``[V, d]``, ``position`` ``[positions, d]``, ``memory.{weight,bias}``;
    ``layers.{i}.{qkv,attention_out,cross_value,cross_out,linear1,linear2,norm1,norm2,norm3}.{weight,bias}`` (``qkv`` is
    ``w_q | w_k | w_v``, ``[3 d, d]``), ``norm.{weight,bias}``, ``linear.{weight,bias}``; of these ``position``, ``memory``, ``norm``
    and ``norm2`` only where they are used.

    Args:
        vocab_size: V, with the specials PAD 0, SOS 1, EOS 2.
        d_model: d, a multiple of ``heads``.
        heads: of the self-attention.
        ffn: hidden units of the feed-forward part.
        layers: their number.
        norm: ``"post"`` (the paper's) or ``"pre"``.
        activation: ``"relu"`` (the paper's) or ``"gelu"`` (with erf).
        positions: of a learned positional embedding, at least the number of inputs; None: none (the authors').
        dropout: probability.
        memory_width: M of the memory; None: d_model.
        norm_eps: added to the variances.

    Shapes: ``inputs [B, T]`` integer tokens, SOS first, or ``[B, T, d]`` embeddings (of ``tok_emb``, or mixtures of them, as
    in the second pass of curriculum learning), ``memory [B, M]`` -> ``[B, T, V]``; position t sees inputs 0..t.
    ``lengths [B]`` int64, at most T: inputs behind them do not count, and their logits may be anything finite.

    Raises:
        TypeError: inputs that are neither tokens nor floating.
        ValueError: sizes below 1, unknown names, a ``d_model`` that the heads do not divide, more inputs than positions, and
            shapes that disagree.

    Source: GR (arXiv:2412.20211), section 3.2; Vaswani et al., "Attention Is All You Need", section 3.

    Example:
        >>> import torch
        >>> decoder = ValueDecoder(64)
        >>> decoder(torch.tensor([[1, 5, 9]]), torch.randn(1, 64)).shape
        torch.Size([1, 3, 64])
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int = 64,
        heads: int = 4,
        ffn: int = 256,
        layers: int = 2,
        norm: Literal["post", "pre"] = "post",
        activation: Literal["relu", "gelu"] = "relu",
        positions: int | None = None,
        dropout: float = 0.1,
        *,
        memory_width: int | None = None,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        memory_width = d_model if memory_width is None else memory_width
        positive_sizes(vocab_size=vocab_size, d_model=d_model, heads=heads, ffn=ffn, layers=layers, memory_width=memory_width)
        if vocab_size < 4:
            raise ValueError(f"vocab_size: expected at least 4 (three specials and a value), got {vocab_size}")
        if d_model % heads:
            raise ValueError(f"d_model: expected a multiple of heads = {heads}, got {d_model}")
        if norm not in ("post", "pre"):
            raise ValueError(f"norm: expected 'post' or 'pre', got {norm!r}")
        if activation not in ("relu", "gelu"):
            raise ValueError(f"activation: expected 'relu' or 'gelu', got {activation!r}")
        if positions is not None:
            positive_sizes(positions=positions)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a probability in [0, 1), got {dropout}")
        if not 0 <= norm_eps < math.inf:
            raise ValueError(f"norm_eps: expected a finite number of 0 or more, got {norm_eps}")
        self.vocab_size, self.d_model, self.heads, self.ffn, self.memory_width = vocab_size, d_model, heads, ffn, memory_width
        self.norm_kind, self.activation, self.positions, self.dropout, self.norm_eps = norm, activation, positions, dropout, norm_eps
        self.tok_emb = nn.Embedding(vocab_size, d_model)
        self.position = nn.Parameter(torch.randn(positions, d_model) * 0.1) if positions is not None else None
        self.memory = nn.Linear(memory_width, d_model) if memory_width != d_model else None
        self.layers = nn.ModuleList(_DecoderLayer(d_model, heads, ffn, norm, activation, dropout, norm_eps) for _ in range(layers))
        self.norm = nn.LayerNorm(d_model, norm_eps) if norm == "pre" else None
        self.linear = nn.Linear(d_model, vocab_size)

    def forward(self, inputs: Tensor, memory: Tensor) -> Tensor:
        x = self.embed(inputs)
        if memory.dim() != 2 or list(memory.shape) != [x.shape[0], self.memory_width]:
            raise ValueError(f"memory: expected [B, M] = {[x.shape[0], self.memory_width]}, got {list(memory.shape)}")
        B, T, d = x.shape
        if T and self.kernel_serves(memory):  # later tokens act on no earlier one, so that rows of one length need no mask
            return self._layers_packed(x.reshape(B * T, d), memory, torch.arange(B + 1, device=x.device) * T).view(B, T, -1)
        m = memory if self.memory is None else self.memory(memory)
        for layer in self.layers:
            x = layer(x, m)
        return self._logits(x)

    def kernel_serves(self, memory: Tensor) -> bool:
        """Whether ``packed`` runs on a kernel and means what this module's layers do."""
        layers: Any = self.layers
        return not has_hooks(self) and all(layer.kernel_serves(memory) for layer in layers)

    def packed(self, inputs: Tensor, memory: Tensor, offsets: Tensor, *, padded: bool = False) -> Tensor:
        """Rows of any lengths one after the other: tokens ``[N]`` or embeddings ``[N, d]``, ``offsets [B + 1]`` -> ``[N, V]``; ``padded``:
        tokens may follow the last row, whose logits mean nothing."""
        x = inputs if inputs.is_floating_point() else self.tok_emb(inputs)
        if self.position is not None:
            at = torch.arange(len(x), device=x.device)
            place = at - offsets[torch.searchsorted(offsets, at, right=True) - 1]
            x = x + self.position[place.clamp(max=len(self.position) - 1) if padded else place]
        return self._layers_packed(x, memory, offsets, padded=padded)

    def _layers_packed(self, x: Tensor, memory: Tensor, offsets: Tensor, *, padded: bool = False) -> Tensor:
        m = memory if self.memory is None else self.memory(memory)
        layers: Any = self.layers
        for layer in layers:
            x = layer.packed(x, offsets, m, padded=padded)
        return self._logits(x)

    def _logits(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x if self.norm is None else self.norm(x))
        return logits

    def embed(self, inputs: Tensor) -> Tensor:
        """Tokens ``[B, T]``, or their embeddings ``[B, T, d]`` as they are -> ``[B, T, d]``, with the positions if there are any."""
        if inputs.is_floating_point():
            if inputs.dim() != 3 or inputs.shape[2] != self.d_model:
                raise ValueError(f"inputs: expected embeddings [B, T, {self.d_model}] or tokens [B, T], got {list(inputs.shape)}")
            x = inputs
        elif inputs.dtype in (torch.int64, torch.int32):
            if inputs.dim() != 2:
                raise ValueError(f"inputs: expected tokens [B, T] or embeddings [B, T, {self.d_model}], got {list(inputs.shape)}")
            x = self.tok_emb(inputs)
        else:
            raise TypeError(f"inputs: expected int64 or int32 tokens or floating embeddings, got {inputs.dtype}")
        if self.position is None:
            return x
        if x.shape[1] > len(self.position):
            raise ValueError(f"inputs: expected at most positions = {len(self.position)} inputs, got {x.shape[1]}")
        return x + self.position[: x.shape[1]]

    def weights(self) -> DecoderWeights:
        """All weights, as ``ops.value_decode`` takes them."""
        parts: list[Any] = [self.linear]
        for layer in self.layers:
            inner = layer._modules  # a module's own attribute look-up costs more than a step of decoding
            parts += [inner[name] for name in _PARTS]
            if not layer.pre:
                parts.append(inner["norm2"])
        parts += [part for part in (self.memory, self.norm) if part is not None]
        out = [self.tok_emb.weight]
        for part in parts:
            own = part._parameters
            out += (own["weight"], own["bias"]) if "weight" in own and "bias" in own else (part.weight, part.bias)
        norm: Literal["post", "pre"] = "post" if self.norm is None else "pre"
        return DecoderWeights(out, self.position, self.heads, self.memory_width, norm, self.activation, self.norm_eps)

    def second_pass(self, tokens: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        """Inputs of curriculum learning's second pass: at each position the true token's embedding or the first pass's prediction.

        Shapes: ``tokens [B, T]``, SOS first; ``predicted [B, T, d]``, at t what the first pass predicts to follow input t (the
        embedding of its argmax, or a mixture of embeddings), so it is an input at t + 1; ``true [B, T]`` booleans, SOS
        counted as true -> ``[B, T, d]``. Or packed: ``[N]``, ``[N, d]``, ``[N]`` -> ``[N, d]``. Gradients flow to ``predicted`` and the
        embedding.
        """
        shape = list(tokens.shape)
        for name, t, expected in (("predicted", predicted, [*shape, self.d_model]), ("true", true, shape)):
            if list(t.shape) != expected:
                raise ValueError(f"{name}: expected {expected}, got {list(t.shape)}")
        x = self.tok_emb(tokens)
        if tokens.dim() == 1:
            return torch.where((true | (tokens == SOS))[:, None], x, predicted.roll(1, 0))
        return torch.cat((x[:, :1], torch.where(true[:, 1:, None], x[:, 1:], predicted[:, :-1])), dim=1)

    def load_gr_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Loads decoder weights under the names of the GR authors' code, in place.

        ==============================================================  ===========================================
        the authors' code                                               this class
        ==============================================================  ===========================================
        ``layers.{i}.self_attention.{w_q,w_k,w_v}.{weight,bias}``       thirds of ``layers.{i}.qkv``, in this order
        ``layers.{i}.self_attention.w_concat``                          ``layers.{i}.attention_out``
        ``layers.{i}.enc_dec_attention.w_v``                            ``layers.{i}.cross_value``
        ``layers.{i}.enc_dec_attention.w_concat``                       ``layers.{i}.cross_out``
        ``layers.{i}.enc_dec_attention.{w_q,w_k}``                      nothing: one memory token has softmax 1
        ``layers.{i}.norm{1,2,3}.{weight,bias}`` or ``.{gamma,beta}``   ``layers.{i}.norm{1,2,3}``
        ``layers.{i}.ffn.linear{1,2}``                                  ``layers.{i}.linear{1,2}``
        ``linear``, ``tok_emb.weight``                                  ``linear``, ``tok_emb.weight``
        ==============================================================  ===========================================

        A state dict does not hold a norm's epsilon: pass the authors' as ``norm_eps``.

        Raises:
            ValueError: a decoder that is not post-norm, or has positions or a memory projection, which the authors' has not; keys that are
                missing or unknown, and shapes that differ, by name. Nothing is loaded then.
            TypeError: a value that is no tensor.
        """
        for name, here, wanted in (("norm", self.norm_kind, "post"), ("positions", self.positions, None)):
            if here != wanted:
                raise ValueError(f"{name}: expected {wanted!r}, as the authors' decoder has it, got {here!r}")
        if self.memory is not None:
            raise ValueError(f"memory_width: expected d_model = {self.d_model}, as the authors' decoder has it, got {self.memory_width}")
        targets = self._gr_parameters()
        norms = {f"{k.rpartition('.')[0]}.{new}": k for k in targets if ".norm" in k for new, old in _NORM.items() if k.endswith(old)}
        renamed = {norms.get(k, k): t for k, t in state.items()}
        missing, unknown = sorted(set(targets) - set(renamed)), sorted(k for k in state if norms.get(k, k) not in targets)
        if missing or unknown:
            raise ValueError(f"state: expected the keys of {len(self.layers)} layers, missing {missing}, unknown {unknown}")
        for name, (shape, _) in targets.items():
            if not isinstance(renamed[name], Tensor):
                raise TypeError(f"state[{name!r}]: expected a torch.Tensor, got {type(renamed[name]).__name__}")
            if list(renamed[name].shape) != shape:
                raise ValueError(f"state[{name!r}]: expected {shape}, got {list(renamed[name].shape)}")
        with torch.no_grad():
            for name, (_, target) in targets.items():
                if target is not None:
                    target.copy_(renamed[name])

    def _gr_parameters(self) -> dict[str, tuple[list[int], Tensor | None]]:
        """Key of the authors' code -> its shape, and the parameter that it is copied to."""
        targets: dict[str, tuple[list[int], Tensor | None]] = {"tok_emb.weight": (list(self.tok_emb.weight.shape), self.tok_emb.weight)}

        def put(name: str, w: Tensor, b: Tensor, used: bool = True) -> None:
            for end, t in (("weight", w), ("bias", b)):
                targets[f"{name}.{end}"] = (list(t.shape), t.data if used else None)

        layers: list[Any] = list(self.layers)
        for i, layer in enumerate(layers):
            at, thirds = f"layers.{i}.", zip(layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3), strict=True)
            for which, (w, b) in zip("qkv", thirds, strict=True):
                put(f"{at}self_attention.w_{which}", w, b)
            out, value, cross = layer.attention_out, layer.cross_value, layer.cross_out
            put(f"{at}self_attention.w_concat", out.weight, out.bias)
            for which in "qk":
                put(f"{at}enc_dec_attention.w_{which}", value.weight, value.bias, used=False)
            put(f"{at}enc_dec_attention.w_v", value.weight, value.bias)
            put(f"{at}enc_dec_attention.w_concat", cross.weight, cross.bias)
            for j, norm in enumerate((layer.norm1, layer.norm2, layer.norm3), 1):
                put(f"{at}norm{j}", norm.weight, norm.bias)
            for j, linear in enumerate((layer.linear1, layer.linear2), 1):
                put(f"{at}ffn.linear{j}", linear.weight, linear.bias)
        put("linear", self.linear.weight, self.linear.bias)
        return targets

    def extra_repr(self) -> str:
        return f"norm={self.norm_kind!r}, activation={self.activation!r}, dropout={self.dropout}, memory_width={self.memory_width}"


_PARTS = ("qkv", "attention_out", "cross_value", "cross_out", "linear1", "linear2", "norm1", "norm3")
_NORM = {"gamma": "weight", "beta": "bias"}


class _DecoderLayer(nn.Module):
    def __init__(self, d: int, heads: int, ffn: int, norm: str, activation: str, dropout: float, eps: float) -> None:
        super().__init__()
        self.heads, self.pre, self.dropout = heads, norm == "pre", dropout
        self.activation: Any = activation
        self.qkv, self.attention_out = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.cross_value, self.cross_out = nn.Linear(d, d), nn.Linear(d, d)
        self.linear1, self.linear2 = nn.Linear(d, ffn), nn.Linear(ffn, d)
        self.norm1, self.norm3 = nn.LayerNorm(d, eps), nn.LayerNorm(d, eps)
        self.norm2 = None if self.pre else nn.LayerNorm(d, eps)

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        """x [B, T, d], m [B, d] -> [B, T, d]."""
        m = self.cross_out(self.cross_value(m))[:, None]
        if self.norm2 is None:
            x = x + self._drop(self._attention(self.norm1(x)))
            x = x + self._drop(m)
            return x + self._drop(self._feed_forward(self.norm3(x)))
        x = self.norm1(x + self._drop(self._attention(x)))
        x = self.norm2(x + self._drop(m))
        y: Tensor = self.norm3(x + self._drop(self._feed_forward(x)))
        return y

    def kernel_serves(self, x: Tensor) -> bool:
        """As ``TransformerLayer.kernel_serves``."""
        if has_hooks(self):
            return False
        norms = (self.norm1, self.norm3) if self.norm2 is None else (self.norm1, self.norm2, self.norm3)
        return kernel_serves(x, self.qkv, self.attention_out, self.linear1, self.linear2, *norms, op=SEQUENCE_LAYER)

    def packed(self, x: Tensor, offsets: Tensor, m: Tensor, *, padded: bool = False) -> Tensor:
        """x [N, d], offsets [B + 1], m [B, d] -> [N, d]."""
        parts: Any = self.norm1, self.qkv, self.attention_out, self.norm3, self.linear1, self.linear2, self.norm2
        weights = SequenceWeights(*(t for part in parts if part is not None for t in (part.weight, part.bias)))
        return sequence_layer(
            x, offsets, weights, heads=self.heads, norm="pre" if self.pre else "post", activation=self.activation, causal=True,
            memory=self.cross_out(self.cross_value(m)), eps=self.norm1.eps, dropout=self.dropout if self.training else 0.0,
            padded=padded,
        )  # fmt: skip

    def _attention(self, x: Tensor) -> Tensor:
        return self_attention(x, self.qkv, self.attention_out, self.heads, is_causal=True)

    def _feed_forward(self, x: Tensor) -> Tensor:
        h = self.linear1(x)
        out: Tensor = self.linear2(F.relu(h) if self.activation == "relu" else F.gelu(h))
        return out

    def _drop(self, x: Any) -> Tensor:
        return F.dropout(x, self.dropout, self.training)
