"""Decoding numbers with the built-in decoder of value tokens: the whole cached loop in one call."""

import functools
import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .._validation import tensors as _checks
from ..reference import value_decode as reference
from ._inference import InferenceOp
from .denoise_chain import _check_ids, _int, _signed

__all__ = ["DecodeResult", "value_decode"]

MIXUP = {None: reference.NONE, "window": reference.WINDOW, "full": reference.FULL}


class DecodeResult(NamedTuple):
    """What ``value_decode`` returns: value ``[B]``, tokens ``[B, T]`` int64, lengths ``[B]`` int64."""

    value: Tensor
    tokens: Tensor
    lengths: Tensor


def value_decode(
    memory: Tensor,
    decoder: Any,
    values: Tensor | np.ndarray,
    *,
    max_tokens: int = 20,
    window: int = 20,
    mixup: Literal["window", "full"] | None = None,
    readout: Literal["tokens", "windowed"] = "tokens",
    temperature: float = 0.0,
    monotone: bool = False,
    capacity: float | Tensor | None = None,
    seed: int = 0,
    row_ids: Tensor | None = None,
    draw_ids: Tensor | None = None,
) -> DecodeResult:
    r"""Generate each row's value tokens, from SOS to EOS, and read its value off them.

    .. math:: \ell_i = f(x_0 \dots x_{i-1}; m), \quad s_i = \arg\max_j \ell_{ij} / \tau + G_{ij}, \quad
              \hat y = \sum_i g(s_i) \;\text{ or }\; \sum_i \sum_{|j - s_i| \le w / 2} \mathrm{softmax}(\ell_i)_j\, g(j)

    with g a token's value, ``x_0 = E[SOS]``, ``x_i = E[s_i]`` and without G if the temperature is 0. Keys and values of earlier
    positions are kept, what the memory adds is computed once, the weights are laid out once per call, and on a CPU a finished row
    makes room for the next one. Inference only: no gradients, the decoder taken in eval mode. A row's result does not depend on
    the batch around it, bit for bit on a CPU.

    Args:
        memory: ``[B, M]``.
        decoder: an :class:`ordkernels.nn.ValueDecoder` of memory_width M and of V tokens.
        values: ``[V]``, what each token adds, 0 for the specials PAD 0, SOS 1, EOS 2 (a vocabulary's ``token_values``).
        max_tokens: longest sequence with its SOS: there are ``T = max_tokens - 1`` steps.
        window: width of the windows below, ``window // 2`` tokens on each side of the step's token (20: 21 tokens).
        mixup: what is fed back: None, the embedding of the step's token; ``"window"``, the mixture of the embeddings of the value
            tokens in the window by a softmax over these alone (a special's own embedding); ``"full"``, the mixture of all
            embeddings by the whole softmax.
        readout: ``"tokens"``, the sum of the tokens' values; ``"windowed"``, the sum over the steps, that of EOS included, of the
            window's part of the expected value, by the softmax over all of V.
        temperature: 0 takes the largest logit, the first of equals. Above 0 tokens are sampled, by Gumbel noise from the
            uniforms ``rng.uniform(seed, row_ids, i, V, draw_ids)`` of the i-th step, from 1 up.
        monotone: no token of a larger value than the one before it; like ``capacity``, also never PAD or SOS, which are else
            possible, with value 0.
        capacity: a number of 0 or more, or ``[B]``: the largest sum of a row's token values. What would exceed it is masked before
            the softmax, and the windowed value is clipped to it.
        seed, row_ids, draw_ids: of the noise; int64 ``[B]``; None means rows 0, ..., B - 1 and draw 0.

    Returns:
        ``DecodeResult(value, tokens, lengths)``: value ``[B]`` in fp32, fp64 for fp64 memory; tokens ``[B, T]`` int64, with EOS
        where a row ends and PAD behind; lengths ``[B]`` int64, without EOS. fp16 and bf16 are computed in fp32. A row whose logits
        hold a NaN ends there, and its value is NaN. On a CPU a call takes, next to its results, the packed weights and per thread
        the keys and values of the rows in flight: 0.5 MB for d = 64, 2 layers and T = 19.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came.

    Source: GR (arXiv:2412.20211), section 3.5.3; the windowed value and ``mixup="full"`` as in its authors' code; sampling and
    constraints are ours.

    Example:
        >>> import torch
        >>> from ordkernels.nn import ValueDecoder
        >>> from ordkernels.ops import value_decode
        >>> values = torch.cat((torch.zeros(3), torch.arange(61.0, 0, -1)))
        >>> result = value_decode(torch.randn(5, 64), ValueDecoder(64), values, monotone=True, capacity=100.0)
        >>> result.tokens.shape, bool((result.value <= 100).all())
        (torch.Size([5, 19]), True)
    """
    if not isinstance(decoder, _value_decoder()):
        raise TypeError(f"decoder: expected a ValueDecoder, got {type(decoder).__name__}")
    weights, position = decoder.weights()
    _checks.floating("memory", memory)
    _checks.shape("memory", memory, (memory.shape[0] if memory.dim() else 0, decoder.memory_width), "[B, M]")
    _checks.same("decoder", weights[0], "memory", memory)
    steps = _int("max_tokens", max_tokens) - 1
    if steps < 1:
        raise ValueError(f"max_tokens: expected at least 2 (SOS and one more), got {max_tokens}")
    if position is not None and steps > len(position):
        raise ValueError(f"max_tokens: expected at most {len(position) + 1}, the decoder's positions and one more, got {max_tokens}")
    window = _int("window", window)
    if window < 0:
        raise ValueError(f"window: expected 0 or more, got {window}")
    if mixup not in MIXUP:
        raise ValueError(f"mixup: expected 'window', 'full' or None, got {mixup!r}")
    if readout not in ("tokens", "windowed"):
        raise ValueError(f"readout: expected 'tokens' or 'windowed', got {readout!r}")
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        raise TypeError(f"temperature: expected a number, got {type(temperature).__name__}")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature: expected a finite number of 0 or more, got {temperature}")
    if not isinstance(monotone, bool):
        raise TypeError(f"monotone: expected a bool, got {type(monotone).__name__}")
    seed = _signed(seed)
    _check_ids("row_ids", row_ids, memory)
    _check_ids("draw_ids", draw_ids, memory)
    if temperature == 0:
        row_ids = draw_ids = None
    elif row_ids is None:
        row_ids = torch.arange(memory.shape[0], device=memory.device)
    with torch.no_grad():
        wide = torch.float64 if memory.dtype == torch.float64 else torch.float32
        values = _values(values, len(weights[0]), memory).to(wide)
        limits, cap = _capacity(capacity, memory, wide)
        if memory.dtype != wide:
            memory, weights = memory.to(wide), [w.to(wide) for w in weights]
            position = None if position is None else position.to(wide)
        return DecodeResult(
            *_OP(
                memory, values, weights, position, limits, row_ids, draw_ids, decoder.heads, decoder.norm is not None,
                decoder.activation == "gelu", decoder.norm_eps, steps, window, MIXUP[mixup], readout == "windowed", float(temperature),
                monotone, cap, seed,
            )
        )  # fmt: skip


def _values(values: Any, V: int, memory: Tensor) -> Tensor:
    if isinstance(values, np.ndarray):
        values = torch.as_tensor(values, device=memory.device)
    if not isinstance(values, Tensor):
        raise TypeError(f"values: expected a tensor or an array, got {type(values).__name__}")
    if values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"values: expected numbers, got {values.dtype}")
    _checks.shape("values", values, (V,), "[V]")
    if values.device != memory.device:
        raise ValueError(f"values: expected the device of memory, {memory.device}, got {values.device}")
    return values.detach()


def _capacity(capacity: Any, memory: Tensor, wide: torch.dtype) -> tuple[Tensor | None, float]:
    """[B], or a number, infinite for none."""
    if capacity is None:
        return None, math.inf
    if isinstance(capacity, Tensor):
        _checks.floating("capacity", capacity)
        _checks.shape("capacity", capacity, memory.shape[:1], "a number or [B]")
        if capacity.device != memory.device:
            raise ValueError(f"capacity: expected the device of memory, {memory.device}, got {capacity.device}")
        _checks.at_least_zero("capacity", capacity)
        return capacity.detach().to(wide), math.inf
    if isinstance(capacity, bool) or not isinstance(capacity, int | float):
        raise TypeError(f"capacity: expected a number, a tensor or None, got {type(capacity).__name__}")
    if not capacity >= 0:
        raise ValueError(f"capacity: expected 0 or more, got {capacity}")
    return None, float(capacity)


@functools.cache
def _value_decoder() -> Any:
    from ..nn import ValueDecoder  # which imports the ops

    return ValueDecoder


def _fake(memory: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    B, steps = memory.shape[0], args[10]
    return memory.new_empty(B), memory.new_empty((B, steps), dtype=torch.int64), memory.new_empty(B, dtype=torch.int64)


_OP = InferenceOp("value_decode", definition=reference.value_decode, fake=_fake)
