"""A distribution over value tokens as one number."""

from torch import Tensor

from .._validation import tensors as checks
from ..reference import windowed_value as reference
from ._register import DifferentiableOp, empty_if
from ._tokens import check_table, flat_logits, fold_logits, window_width

__all__ = ["windowed_value"]


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
    if checks.autocast_is_active():
        logits, values = checks.promoted(logits, values)
    flat = flat_logits(logits)
    check_table("values", values, logits, "[V]")
    out = _OP(flat, values, window_width(window))
    return out.view(logits.shape[:-1])


def _fake(logits: Tensor, values: Tensor) -> Tensor:
    return values.new_empty(logits.shape[:1])


def _fake_backward(logits: Tensor, values: Tensor, grad_mask: int) -> tuple[Tensor, Tensor]:
    return empty_if(grad_mask & 1, logits), empty_if(grad_mask & 2, values)


_OP: DifferentiableOp[Tensor] = DifferentiableOp(
    "windowed_value",
    tensors=2,
    public=1,
    reference=reference.windowed_value,
    reference_backward=reference.windowed_value_backward,
    fake=_fake,
    fake_backward=_fake_backward,
    saved=lambda inputs, out: inputs[:2],
    vmap=fold_logits,
)
