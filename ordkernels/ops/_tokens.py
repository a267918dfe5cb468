"""What the ops of value tokens share: checks and the vmap rule."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch._ops import OpOverload

from .._validation import tensors as checks
from .._validation.numbers import integer
from ..reference._common import compute_dtype
from ._register import VmapRule, argument_names, fold_rows, is_backward, loop_batches


def flat_logits(logits: Tensor) -> Tensor:
    """[..., V] -> [R, V]"""
    checks.floating("logits", logits)
    if logits.dim() == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits: expected [..., V] with V at least 1, got shape {list(logits.shape)}")
    return logits[None] if logits.dim() == 1 else logits.flatten(0, -2)


def check_table(name: str, t: Any, logits: Tensor, form: str) -> None:
    checks.floating(name, t)
    if t.dtype not in (logits.dtype, compute_dtype(logits)):
        allowed = " or ".join(dict.fromkeys(str(d).removeprefix("torch.") for d in (logits.dtype, compute_dtype(logits))))
        raise TypeError(f"{name}: expected {allowed} with logits of {logits.dtype}, got {t.dtype}")
    if t.device != logits.device:
        raise ValueError(f"{name}: expected the device of logits, {logits.device}, got {t.device}")
    checks.dims(name, t, (form.count(",") + 1,), form)
    if t.shape[0] != logits.shape[-1]:
        raise ValueError(f"{name}: expected {form} with V = {logits.shape[-1]} as logits, got {list(t.shape)}")


def window_width(window: Any) -> int:
    """-1 for None, the whole vocabulary."""
    if window is None:
        return -1
    width = integer("window", window, least=0)
    if width >= 2**63:
        raise ValueError(f"window: expected a number of at most 64 bits, got {width}")
    return min(width, 2**31 - 1)


def fold_logits(kernel: OpOverload) -> VmapRule:
    """vmap rule: batches with one table are one call; batches of tables, or of their gradients, one call each."""
    fold, loop = fold_rows(kernel, shared=argument_names(kernel)[1:2]), loop_batches(kernel)

    def rule(info: Any, dims: Sequence[Any], *args: Any) -> Any:
        return (loop if is_backward(kernel) or dims[1] is not None else fold)(info, dims, *args)

    return rule
