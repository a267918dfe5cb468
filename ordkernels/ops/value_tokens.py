"""Distributions over value tokens as one embedding, and as one number."""

from typing import Any

import torch
from torch import Tensor

from .._validation import tensors as _checks
from ..reference import value_tokens as reference
from ..reference.planar_flow import compute_dtype
from ._autograd import DifferentiableOp, Kernel, _front

__all__ = ["embedding_mixup", "windowed_value"]


def embedding_mixup(logits: Tensor, embedding: Tensor, *, window: int | None, first_value_token: int = 3) -> Tensor:
    r"""Mix the embeddings of the tokens around the likeliest one, by their probabilities.

    .. math:: \sum_{j \in W} \frac{e^{x_j}}{\sum_{i \in W} e^{x_i}} E_j, \qquad
              W = \{j : |j - m| \le \lfloor window / 2 \rfloor,\ j \ge first\}, \quad m = \mathrm{argmax}_j\, x_j

    m is a constant for the gradients; of equal logits the first. If m is a special token (below ``first_value_token``), its own
    embedding is the result. Rows with NaN or +inf, or with nothing above -inf, are NaN.

    Args:
        logits: ``[..., V]``.
        embedding: ``[V, E]``, of the logits' dtype, or the wider one of the computation: fp32 (fp64 for fp64 logits).
        window: width of W; None: all of the vocabulary, specials included.
        first_value_token: tokens below it are specials.

    Returns:
        ``[..., E]`` in the dtype of the embedding.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came. fp32, fp64, bf16, fp16; one device.

    Gradients: logits, embedding.

    Source: GR, embedding mixup; ``window=None`` is what its authors' code does.

    Example:
        >>> import torch
        >>> from ordkernels.ops import embedding_mixup
        >>> logits = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0, -9.0]])
        >>> embedding_mixup(logits, torch.arange(12.0).view(6, 2), window=2)
        tensor([[7., 8.]])
    """
    flat = _rows(logits)
    _table("embedding", embedding, logits, "[V, E]")
    if embedding.shape[1] == 0:
        raise ValueError(f"embedding: expected [V, E] with E at least 1, got {list(embedding.shape)}")
    width = _whole("window", window)
    first = _whole("first_value_token", first_value_token)
    out: Tensor = _MIXUP(flat, embedding, width, min(first, flat.shape[1]))
    return out.view(*logits.shape[:-1], embedding.shape[1])


def windowed_value(logits: Tensor, values: Tensor, *, window: int | None) -> Tensor:
    r"""The expected value, summed over the tokens around the likeliest one alone.

    .. math:: \sum_{|j - m| \le \lfloor window / 2 \rfloor} \mathrm{softmax}(x)_j\, g_j, \qquad m = \mathrm{argmax}_j\, x_j

    The softmax is over the whole vocabulary and not renormalised. m is a constant for the gradients; of equal logits the first.
    Rows with NaN or +inf, or with nothing above -inf, are NaN.

    Args:
        logits: ``[..., V]``.
        values: ``[V]``, the value g of each token, 0 for specials, in the unit of the result; of the logits' dtype, or the wider one
            of the computation: fp32 (fp64 for fp64 logits).
        window: width; None: the whole vocabulary.

    Returns:
        ``[...]`` in the dtype of values.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came. fp32, fp64, bf16, fp16; one device.

    Gradients: logits, values.

    Source: GR, equation of the Huber term; its authors' code takes ``window=20``.

    Example:
        >>> import torch
        >>> from ordkernels.ops import windowed_value
        >>> windowed_value(torch.zeros(1, 4), torch.tensor([0.0, 1.0, 2.0, 4.0]), window=4)
        tensor([0.7500])
    """
    flat = _rows(logits)
    _table("values", values, logits, "[V]")
    out: Tensor = _VALUE(flat, values, _whole("window", window))
    return out.view(logits.shape[:-1])


def _rows(logits: Any) -> Tensor:
    """[..., V] -> [R, V]"""
    _checks.floating("logits", logits)
    if logits.dim() == 0 or logits.shape[-1] == 0:
        raise ValueError(f"logits: expected [..., V] with V at least 1, got shape {list(logits.shape)}")
    return logits[None] if logits.dim() == 1 else logits.flatten(0, -2)


def _table(name: str, t: Any, logits: Tensor, form: str) -> None:
    _checks.floating(name, t)
    if t.dtype not in (logits.dtype, compute_dtype(logits)):
        allowed = " or ".join(dict.fromkeys(str(d).removeprefix("torch.") for d in (logits.dtype, compute_dtype(logits))))
        raise TypeError(f"{name}: expected {allowed} with logits of {logits.dtype}, got {t.dtype}")
    if t.device != logits.device:
        raise ValueError(f"{name}: expected the device of logits, {logits.device}, got {t.device}")
    _checks.dims(name, t, (form.count(",") + 1,), form)
    if t.shape[0] != logits.shape[-1]:
        raise ValueError(f"{name}: expected {form} with V = {logits.shape[-1]} as logits, got {list(t.shape)}")


def _whole(name: str, n: Any) -> int:
    """A number from 0 up; -1 for None, a window's alone."""
    if n is None and name == "window":
        return -1
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"{name}: expected an integer{' or None' * (name == 'window')}, got {type(n).__name__}")
    if n < 0:
        raise ValueError(f"{name}: expected 0 or more, got {n}")
    return min(n, 2**31 - 1)


def _fake_mixup(logits: Tensor, embedding: Tensor, window: int, first: int) -> Tensor:
    return embedding.new_empty((logits.shape[0], embedding.shape[1]))


def _fake_mixup_backward(
    logits: Tensor, embedding: Tensor, g: Tensor | None, window: int, first: int, wanted: int
) -> tuple[Tensor, Tensor]:
    return logits.new_empty(logits.shape if wanted & 1 else 0), embedding.new_empty(embedding.shape if wanted & 2 else 0)


def _fake_value(logits: Tensor, values: Tensor, window: int) -> Tensor:
    return values.new_empty(logits.shape[:1])


def _fake_value_backward(logits: Tensor, values: Tensor, g: Tensor | None, window: int, wanted: int) -> tuple[Tensor, Tensor]:
    return logits.new_empty(logits.shape if wanted & 1 else 0), values.new_empty(values.shape if wanted & 2 else 0)


def _vmap(kernel: Kernel) -> Kernel:
    """vmap rule: batches of one table are one call; a batch of tables, or of their gradients, is a call each."""

    def rule(info: Any, dims: Any, *args: Any) -> Any:
        V = info.batch_size
        ts = [_front(a, d, V) if isinstance(a, Tensor) else a for a, d in zip(args, dims, strict=True)]
        if dims[1] is None and not kernel._schema.name.endswith("_backward"):  # type: ignore[attr-defined]
            ts[0], ts[1] = ts[0].flatten(0, 1), args[1]
            return kernel(*ts).unflatten(0, (V, -1)), 0
        each = [kernel(*(t[i] if isinstance(t, Tensor) else t for t in ts)) for i in range(V)]
        if isinstance(each[0], Tensor):
            return torch.stack(each), 0
        return tuple(torch.stack(parts) for parts in zip(*each, strict=True)), (0,) * len(each[0])

    return rule


_MIXUP = DifferentiableOp(
    "embedding_mixup",
    tensors=2,
    public=1,
    reference=reference.embedding_mixup,
    reference_backward=reference.embedding_mixup_backward,
    fake=_fake_mixup,
    fake_backward=_fake_mixup_backward,
    saved=lambda inputs, out: inputs[:2],
    vmap=_vmap,
    lazy=True,
    triton="embedding_mixup",
)
_VALUE = DifferentiableOp(
    "windowed_value",
    tensors=2,
    public=1,
    reference=reference.windowed_value,
    reference_backward=reference.windowed_value_backward,
    fake=_fake_value,
    fake_backward=_fake_value_backward,
    saved=lambda inputs, out: inputs[:2],
    vmap=_vmap,
    lazy=True,
    triton="windowed_value",
)
