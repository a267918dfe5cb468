"""Labels as tokens of a vocabulary, in training."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..vocabulary import ValueVocabulary

__all__ = ["DEFAULT_UNIT", "encode_labels", "label_tokens", "suitable_unit"]

DEFAULT_UNIT = 0.001
_MOST_UNITS = 2.0**52  # of a label, half of what a vocabulary takes


def encode_labels(y: Tensor, vocabulary: ValueVocabulary, max_tokens: int, tolerance: float) -> tuple[Tensor, int]:
    """``(tokens [B, T], longest)`` of labels ``[B]``: values, EOS, PAD, on the host; the longest row's length, EOS counted."""
    tokens, lengths, _ = vocabulary.encode(y.detach().double().cpu().numpy(), max_tokens, tolerance)
    return torch.from_numpy(tokens), int(lengths.max(initial=0)) + 1


def suitable_unit(labels: NDArray[np.float64]) -> float:
    """The unit that labels ``[N]`` can be written in: 1 where all are whole numbers; else 0.001, or the power of ten that makes at least
    1,000 units of the median positive label; coarser where the largest label would exceed 2^52 units."""
    largest, positive = float(labels.max()), labels[labels > 0]
    if not len(positive):
        return DEFAULT_UNIT
    if largest <= _MOST_UNITS and np.array_equal(labels, np.rint(labels)):
        return 1.0
    finest = 10.0 ** max(math.floor(math.log10(np.median(positive))) - 3, -300)
    coarsest = 10.0 ** max(math.ceil(math.log10(largest / _MOST_UNITS)), -300)
    return max(min(finest, DEFAULT_UNIT), coarsest)


@torch.library.custom_op("ordkernels::label_tokens", mutates_args=())
def label_tokens(y: Tensor, values: Tensor, unit: float, max_tokens: int, tolerance: float) -> Tensor:
    """`encode_labels` as one node of a compiled graph: ``[B, max_tokens - 1]`` int64, for any batch of that many rows."""
    vocabulary = ValueVocabulary(values.cpu().numpy(), unit=unit)
    return encode_labels(y, vocabulary, max_tokens, tolerance)[0].to(y.device, torch.int64)


@label_tokens.register_fake
def _(y: Tensor, values: Tensor, unit: float, max_tokens: int, tolerance: float) -> Tensor:
    return torch.empty(y.shape[0], max_tokens - 1, dtype=torch.int64, device=y.device)
