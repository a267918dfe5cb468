"""Checks of the batches that models read."""

from __future__ import annotations

import torch
from torch import Tensor

from .._validation.tensors import can_read_values, dense

__all__ = [
    "INPUT_KEYS", "check_batch", "check_capacity", "check_dtype", "check_ids",
    "check_nonnegative", "check_target", "check_weights", "require_keys",
]  # fmt: skip

INPUT_KEYS = ("user", "item", "dense", "q_user", "q_item", "has_user", "has_item")


def check_batch(batch: dict[str, Tensor], dense_width: int, quantiles: int, *, target: bool) -> None:
    """``ValueError``, naming the key, for a missing key, a wrong shape, and NaN or negative targets."""
    require_keys(batch, (*INPUT_KEYS, "y") if target else INPUT_KEYS)
    B = batch["user"].shape[0]
    widths = {"dense": dense_width, "q_user": quantiles, "q_item": quantiles}
    for name in INPUT_KEYS:
        shape = [B, widths[name]] if name in widths else [B]
        if list(batch[name].shape) != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {list(batch[name].shape)}")
    if target:
        check_target(batch["y"], B)


def require_keys(batch: dict[str, Tensor], names: tuple[str, ...]) -> None:
    """``ValueError`` for the first of the names that the batch lacks, ``TypeError`` for one that is no dense tensor."""
    for name in names:
        if name not in batch:
            raise ValueError(f"batch: expected the key {name!r}, got {', '.join(sorted(batch)) or 'no keys'}")
        if not isinstance(batch[name], Tensor):
            raise TypeError(f"{name}: expected a torch.Tensor, got {type(batch[name]).__name__}")
        dense(name, batch[name])


def check_dtype(name: str, t: Tensor, dtype: torch.dtype) -> None:
    """``TypeError`` for a floating tensor of another dtype than the model's, but under autocast."""
    if t.dtype != dtype and not torch.is_autocast_enabled(t.device.type):
        raise TypeError(f"{name}: expected the dtype of the model's parameters, {dtype}, got {t.dtype}; convert one or the other")


def check_ids(name: str, ids: Tensor, count: int) -> None:
    """``TypeError`` for ids that are not integers, ``ValueError`` for one outside [0, count), where reading them is free."""
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"{name}: expected integers, got {ids.dtype}")
    if ids.shape[0] and can_read_values(ids):
        low, high = (int(v) for v in torch.aminmax(ids))
        if low < 0 or high >= count:
            row = int(torch.nonzero((ids < 0) | (ids >= count))[0, 0])
            raise ValueError(f"{name}: expected ids in [0, {count - 1}], got {int(ids[row])} at row {row}")


def check_target(y: Tensor, B: int, name: str = "y") -> None:
    """``ValueError`` for a wrong shape, and for values as `check_nonnegative` where reading them needs no synchronisation."""
    if list(y.shape) != [B]:
        raise ValueError(f"{name}: expected shape {[B]}, got {list(y.shape)}")
    if can_read_values(y):
        check_nonnegative(name, y)


def check_nonnegative(name: str, y: Tensor) -> None:
    """``ValueError`` for NaN, infinite or negative values ``[N]``."""
    bad = torch.nonzero(~(y >= 0) | torch.isinf(y))[:1].flatten().tolist()
    if bad:
        raise ValueError(f"{name}: expected finite values of at least 0, got {float(y[bad[0]])} at row {bad[0]}")


def check_capacity(batch: dict[str, Tensor], used: bool) -> None:
    """``ValueError`` for a capacity that is missing or misshapen, where it is used."""
    if not used:
        return
    require_keys(batch, ("capacity",))
    if list(batch["capacity"].shape) != [batch["dense"].shape[0]]:
        raise ValueError(f"capacity: expected shape [{batch['dense'].shape[0]}], got {list(batch['capacity'].shape)}")


def check_weights(**weights: float) -> None:
    """``ValueError`` for a weight below 0, or NaN."""
    for name, weight in weights.items():
        if not weight >= 0:
            raise ValueError(f"{name}: expected at least 0, got {weight}")
