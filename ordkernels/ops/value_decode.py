"""Decoding numbers with the built-in decoder of value tokens: the whole cached loop in one call."""

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._validation import arrays
from .._validation import tensors as checks
from .._validation.numbers import boolean, integer, one_of, real
from .._validation.numbers import seed as signed_seed
from ..reference import value_decode as reference
from ._register import Op
from ._tokens import window_width
from ._weights import DecoderWeights, weights_of

__all__ = ["DecodeResult", "value_decode"]

MIXUP = {None: reference.NONE, "window": reference.WINDOW, "full": reference.FULL}


class DecodeResult(NamedTuple):
    """What ``value_decode`` returns: value ``[B]``, tokens ``[B, T]`` int64, lengths ``[B]`` int64."""

    value: Tensor
    tokens: Tensor
    lengths: Tensor


def value_decode(
    memory: Tensor, decoder: Any, values: Tensor | np.ndarray, *, max_tokens: int = 20, window: int = 20,
    mixup: Literal["window", "full"] | None = None, readout: Literal["tokens", "windowed"] = "tokens", temperature: float = 0.0,
    monotone: bool = False, capacity: float | Tensor | None = None, seed: int = 0, row_ids: Any = None, draw_ids: Any = None,
) -> DecodeResult:  # fmt: skip
    r"""Generate each row's value tokens, from SOS to EOS, and read its value off them.

    .. math:: \ell_i = f(x_0 \dots x_{i-1}; m), \quad s_i = \arg\max_j \ell_{ij} / \tau + G_{ij}, \quad
              \hat y = \sum_i g(s_i) \;\text{ or }\; \sum_i \sum_{|j - s_i| \le w / 2} \mathrm{softmax}(\ell_i)_j\, g(j)

    with g a token's value, ``x_0 = E[SOS]``, ``x_i = E[s_i]`` and without G if the temperature is 0. Keys and values are cached,
    what the memory adds is computed once, the weights are packed once per call, and on a CPU finished rows are retired. Inference
    only: no gradients, the decoder in eval mode. A row's result does not depend on the batch around it, bit for bit on a CPU.

    Args:
        memory: ``[B, M]``.
        decoder: an :class:`ordkernels.nn.ValueDecoder` of memory_width M and of V tokens, or its ``weights()``.
        values: ``[V]``, what each token adds, 0 for the specials PAD 0, SOS 1, EOS 2 (a vocabulary's ``token_values``).
        max_tokens: longest sequence with its SOS: there are ``T = max_tokens - 1`` steps.
        window: width of the windows below, ``window // 2`` tokens on each side of the step's token (20: 21 tokens).
        mixup: what is fed back: None, the embedding of the step's token; ``"window"``, the mixture of the embeddings of the value
            tokens in the window by a softmax over these alone (a special's own embedding); ``"full"``, by the whole softmax.
        readout: ``"tokens"``, the sum of the tokens' values; ``"windowed"``, the sum over the steps, that of EOS included, of the
            window's part of the expected value, by the softmax over all of V.
        temperature: 0 takes the largest logit, the first of equals. Above 0 tokens are sampled, by Gumbel noise from the
            uniforms ``rng.uniform(seed, row_ids, i, V, draw_ids)`` of the i-th step, from 1 up.
        monotone: no token of a larger value than the one before it; like ``capacity``, also never PAD or SOS, which are otherwise
            possible, with value 0.
        capacity: a number of 0 or more, or ``[B]``: the largest sum of a row's token values. What would exceed it is masked before
            the softmax, and the windowed value is clipped to it.
        seed, row_ids, draw_ids: row-keyed noise, ids ``[B]`` of any integers; None means rows 0, ..., B - 1 and draw 0.

    Returns:
        ``DecodeResult(value, tokens, lengths)``: value ``[B]`` in fp32, fp64 for fp64 memory; tokens ``[B, T]`` int64, EOS where a
        row ends and PAD after it; lengths ``[B]`` int64, without EOS. fp16 and bf16 are computed in fp32. A row whose logits hold a
        NaN ends there, with value NaN. On a CPU a call takes, next to its results, the packed weights and per thread the keys and
        values of the rows in progress: 0.5 MB for d = 64, 2 layers and T = 19.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: GR (arXiv:2412.20211), section 3.5.3; the windowed value and ``mixup="full"`` as in its authors' code; sampling and
    constraints are additions.

    Example:
        >>> import torch
        >>> from ordkernels.nn import ValueDecoder
        >>> from ordkernels.ops import value_decode
        >>> values = torch.cat((torch.zeros(3), torch.arange(61.0, 0, -1)))
        >>> result = value_decode(torch.randn(5, 64), ValueDecoder(64), values, monotone=True, capacity=100.0)
        >>> result.tokens.shape, bool((result.value <= 100).all())
        (torch.Size([5, 19]), True)
    """
    weights = weights_of(decoder, DecoderWeights, "decoder", "a ValueDecoder")
    if checks.autocast_is_active():
        (memory,) = checks.cast_like(weights.tensors[0], memory)
    steps = _check_inputs(memory, weights, max_tokens)
    mode = MIXUP[one_of("mixup", mixup, (None, "window", "full"))], one_of("readout", readout, ("tokens", "windowed")) == "windowed"
    window, temperature = window_width(integer("window", window)), _temperature(temperature, memory)
    row_ids, draw_ids = checks.row_ids("row_ids", row_ids, memory), checks.row_ids("draw_ids", draw_ids, memory)
    if temperature == 0:
        row_ids = draw_ids = None
    elif row_ids is None:
        row_ids = torch.arange(memory.shape[0], device=memory.device)
    constants = steps, window, *mode, temperature, boolean("monotone", monotone)
    seed = signed_seed(seed)
    with torch.no_grad():
        return _run(memory, weights, values, capacity, row_ids, draw_ids, constants, seed)


def _temperature(temperature: Any, memory: Tensor) -> float:
    """Where logits divided by it would be infinite, or masked ones not, the limit: 0, which is greedy, and almost uniform noise."""
    t = real("temperature", temperature, least=0)
    least: float = torch.finfo(torch.float64 if memory.dtype == torch.float64 else torch.float32).tiny * 2.0**26
    return 0.0 if t < least else min(t, 1 / least)


def _check_inputs(memory: Tensor, weights: DecoderWeights, max_tokens: Any) -> int:
    """The number of steps."""
    checks.floating("memory", memory)
    checks.shape("memory", memory, (memory.shape[0] if memory.dim() else 0, weights.memory_width), "[B, M]")
    checks.same("decoder", weights.tensors[0], "memory", memory)
    steps = integer("max_tokens", max_tokens, most=2**31) - 1
    if steps < 1:
        raise ValueError(f"max_tokens: expected at least 2 (SOS and one more), got {max_tokens}")
    position = weights.position
    if position is not None and steps > len(position):
        raise ValueError(f"max_tokens: expected at most {len(position) + 1}, the decoder's positions and one more, got {max_tokens}")
    return steps


def _run(
    memory: Tensor, weights: DecoderWeights, values: Any, capacity: Any, row_ids: Tensor | None, draw_ids: Tensor | None,
    constants: tuple[Any, ...], seed: int,
) -> DecodeResult:  # fmt: skip
    dtype = torch.float64 if memory.dtype == torch.float64 else torch.float32  # of the computation
    tensors, position = weights.tensors, weights.position
    values = _values(values, len(tensors[0]), memory).to(dtype)
    limits, cap = checks.capacity(capacity, memory)
    if limits is not None:
        limits = limits.detach().to(dtype)
    if memory.dtype != dtype:
        memory, tensors = memory.to(dtype), [w.to(dtype) for w in tensors]
        position = None if position is None else position.to(dtype)
    network = weights.heads, weights.norm == "pre", weights.activation == "gelu", weights.norm_eps
    return DecodeResult(*_OP(memory, values, tensors, position, limits, row_ids, draw_ids, *network, *constants, cap, seed))


def _values(values: Any, V: int, memory: Tensor) -> Tensor:
    if isinstance(values, np.ndarray):
        values = arrays.as_tensor("values", values).to(memory.device)
    if not isinstance(values, Tensor):
        raise TypeError(f"values: expected a tensor or an array, got {type(values).__name__}")
    if values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"values: expected numbers, got {values.dtype}")
    checks.dense("values", values)
    checks.shape("values", values, (V,), "[V]")
    checks.same_device("values", values, "memory", memory)
    return values.detach()


def _fake(memory: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    B = memory.shape[0]
    return memory.new_empty(B), memory.new_empty((B, steps), dtype=torch.int64), memory.new_empty(B, dtype=torch.int64)


_OP: Op[tuple[Tensor, Tensor, Tensor]] = Op("value_decode", reference=reference.value_decode, fake=_fake, cuda=True)
