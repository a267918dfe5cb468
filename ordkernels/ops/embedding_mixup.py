"""A distribution over value tokens as one embedding."""

from torch import Tensor

from .._validation import tensors as checks
from .._validation.numbers import integer
from ..reference import embedding_mixup as reference
from ._register import DifferentiableOp, empty_if
from ._tokens import check_table, flat_logits, fold_logits, window_width

__all__ = ["embedding_mixup"]


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
    if checks.autocast_is_active():
        logits, embedding = checks.promoted(logits, embedding)
    flat = flat_logits(logits)
    check_table("embedding", embedding, logits, "[V, E]")
    if embedding.shape[1] == 0:
        raise ValueError(f"embedding: expected [V, E] with E at least 1, got {list(embedding.shape)}")
    first = integer("first_value_token", first_value_token, least=0)
    out = _OP(flat, embedding, window_width(window), min(first, flat.shape[1]))
    return out.view(*logits.shape[:-1], embedding.shape[1])


def _fake(logits: Tensor, embedding: Tensor) -> Tensor:
    return embedding.new_empty((logits.shape[0], embedding.shape[1]))


def _fake_backward(logits: Tensor, embedding: Tensor, grad_mask: int) -> tuple[Tensor, Tensor]:
    return empty_if(grad_mask & 1, logits), empty_if(grad_mask & 2, embedding)


_OP: DifferentiableOp[Tensor] = DifferentiableOp(
    "embedding_mixup",
    tensors=2,
    public=1,
    reference=reference.embedding_mixup,
    reference_backward=reference.embedding_mixup_backward,
    fake=_fake,
    fake_backward=_fake_backward,
    saved=lambda inputs, out: inputs[:2],
    vmap=fold_logits,
)
