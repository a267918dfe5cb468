"""Labels as tokens of a vocabulary, in training."""

from __future__ import annotations

import torch
from torch import Tensor

from ..vocabulary import ValueVocabulary

__all__ = ["encode_labels", "label_tokens"]


def encode_labels(y: Tensor, vocabulary: ValueVocabulary, max_tokens: int, tolerance: float) -> tuple[Tensor, int]:
    """``(tokens [B, T], longest)`` of labels ``[B]``: values, EOS, PAD, on the host; the longest row's length, EOS counted."""
    tokens, lengths, _ = vocabulary.encode(y.detach().double().cpu().numpy(), max_tokens, tolerance)
    return torch.from_numpy(tokens), int(lengths.max(initial=0)) + 1


@torch.library.custom_op("ordkernels::label_tokens", mutates_args=())
def label_tokens(y: Tensor, values: Tensor, unit: float, max_tokens: int, tolerance: float) -> Tensor:
    """`encode_labels` as one node of a compiled graph: ``[B, max_tokens - 1]`` int64, for any batch of that many rows."""
    vocabulary = ValueVocabulary(values.cpu().numpy(), unit=unit)
    return encode_labels(y, vocabulary, max_tokens, tolerance)[0].to(y.device, torch.int64)


@label_tokens.register_fake
def _(y: Tensor, values: Tensor, unit: float, max_tokens: int, tolerance: float) -> Tensor:
    return torch.empty(y.shape[0], max_tokens - 1, dtype=torch.int64, device=y.device)
