"""The arguments of dropout inside an op."""

from typing import Any

import torch
from torch import Tensor

from .._validation import tensors as checks
from .._validation.numbers import real
from .._validation.numbers import seed as signed_seed


def dropout_arguments(dropout: float, seed: int | Tensor | None, row_ids: Any, rows: Tensor) -> tuple[Tensor | None, Tensor | None, float]:
    """Seed, row ids of ``rows [B, ...]``, and the probability; without dropout neither of them."""
    p = real("dropout", dropout, least=0)
    if p >= 1:
        raise ValueError(f"dropout: expected a probability in [0, 1), got {dropout}")
    return (_seed(seed), checks.row_ids("row_ids", row_ids, rows), p) if p else (None, None, p)


def _seed(seed: int | Tensor | None) -> Tensor:
    """A tensor, so that a compiled call need not know its value."""
    if seed is None:
        return torch.randint(-(2**63), 2**63 - 1, (1,)).view(())
    if not isinstance(seed, Tensor):
        return torch.tensor(signed_seed(seed))
    if seed.dtype != torch.int64 or seed.dim() or seed.device.type not in ("cpu", "meta"):
        raise TypeError(f"seed: expected an int or an int64 tensor [] on the CPU, got {seed.dtype} {list(seed.shape)} on {seed.device}")
    return seed
