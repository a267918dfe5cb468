"""A Transformer layer on packed sequences, forward and backward in one call each."""

from typing import Any, Literal

import torch
from torch import Tensor

from .._validation import tensors as checks
from .._validation.numbers import boolean, integer, one_of, real
from ..reference import sequence_layer as reference
from ..reference._common import compute_dtype
from ._dropout import dropout_arguments
from ._register import DifferentiableOp, empty_if, loop_batches
from ._weights import SequenceWeights, weights_of

__all__ = ["sequence_layer"]


def sequence_layer(
    x: Tensor,
    offsets: Tensor,
    weights: Any,
    *,
    heads: int,
    norm: Literal["pre", "post"] = "pre",
    activation: Literal["silu", "relu", "gelu"] = "silu",
    causal: bool = False,
    memory: Tensor | None = None,
    eps: float = 1e-5,
    dropout: float = 0.0,
    seed: int | Tensor | None = None,
    row_ids: Tensor | None = None,
    layer: int = 0,
    padded: bool = False,
) -> Tensor:
    r"""A Transformer layer on S sequences of any lengths, their tokens packed one after the other: nothing is padded.

    .. math:: x \leftarrow x + \mathrm{drop}(W_o\, \mathrm{attention}(W_{qkv} N_1(x))), \quad x \leftarrow x + \mathrm{drop}(m_s), \quad
              x \leftarrow x + \mathrm{drop}(W_2\, \phi(W_1 N_2(x)))

    for ``norm="pre"``; for ``"post"`` each sum is normalised instead: :math:`x \leftarrow N_1(x + ...)`,
    :math:`x \leftarrow N_3(x + ...)`, :math:`x \leftarrow N_2(x + ...)`. :math:`m_s` is one vector a sequence, what attention to a single
    memory vector adds: its value and output projections, whatever the queries. Without ``memory`` there is no such part.

    Dropout is keyed by row, as :mod:`ordkernels.rng`: an element's fate depends on seed, the sequence's row id, layer, token and feature
    alone, and has 16 bits, so ``dropout`` holds to :math:`2^{-17}`; a memory is dropped as a whole, for all tokens alike. A NaN stays in
    its sequence. The gradients of the weights do not depend on the number of threads.

    Args:
        x: tokens ``[N, W]``.
        offsets: ``[S + 1]`` int64, on the device of x: sequence s has the tokens ``offsets[s] .. offsets[s + 1]``, also none.
        weights: ``SequenceWeights``, or an object whose ``weights()`` are that.
        heads: of the attention, a divisor of W.
        norm: ``"pre"`` or ``"post"``.
        activation: :math:`\phi`, ``"silu"``, ``"relu"`` or ``"gelu"`` (with erf).
        causal: a token attends to itself and those before it alone.
        memory: ``[S, W]``, what each sequence's memory adds to its tokens.
        eps: added to the variances.
        dropout: of what each part adds, in [0, 1); what stays is divided by ``1 - dropout``.
        seed: of the dropout, an int or an int64 tensor ``[]`` on the CPU; None: one of torch's own stream.
        row_ids: ``[S]`` integers, of the sequences; None: ``0 .. S - 1``.
        layer: its place among the layers that share a seed: their dropouts are independent.
        padded: tokens may follow the last sequence; what they hold does not matter, and zeros come out for them. So shapes can stay the
            same from batch to batch.

    Returns:
        ``[N, W]``, in the dtype of x; computed in fp32, or fp64.

    Raises:
        TypeError, ValueError: naming the argument, what was expected and what came. Offsets are checked on the CPU in eager mode only.

    Source: Vaswani et al., "Attention Is All You Need", section 3; pre-norm as in Xiong et al., ICML 2020.

    Example:
        >>> import torch
        >>> from ordkernels.nn.transformer import TransformerLayer
        >>> from ordkernels.ops import sequence_layer
        >>> sequence_layer(torch.randn(9, 16), torch.tensor([0, 4, 4, 9]), TransformerLayer(16, heads=2, dropout=0.0), heads=2).shape
        torch.Size([9, 16])
    """
    weights = weights_of(weights, SequenceWeights, "weights", "the weights of a Transformer layer")
    if checks.autocast_is_active():
        x, memory, *promoted = checks.promoted(x, memory, *weights)
        weights = SequenceWeights(*promoted)
    pre = one_of("norm", norm, ("pre", "post")) == "pre"
    which = reference.ACTIVATIONS.index(one_of("activation", activation, reference.ACTIVATIONS))
    _check_tokens(x, offsets, heads, padded=boolean("padded", padded))
    _check_weights(x, offsets, weights, memory, pre)
    causal = boolean("causal", causal)
    key, ids, p = dropout_arguments(dropout, seed, row_ids, offsets[1:])
    step = 3 * integer("layer", layer, least=0, most=2**30)
    used = torch.arange(len(x), device=x.device)[:, None] < offsets[-1] if padded else None
    if used is not None:  # a GPU's kernels run on all tokens: those that are not used must not bring a NaN into a gradient
        x = torch.where(used, x, 0.0)
    out: Tensor = _OP(x, memory, *weights, offsets, key, ids, heads, which, pre, causal, real("eps", eps, least=0), p, step)
    return out if used is None else torch.where(used, out, 0.0)


def _check_tokens(x: Tensor, offsets: Tensor, heads: int, *, padded: bool) -> None:
    checks.floating("x", x)
    checks.dims("x", x, (2,), "[N, W]")
    N, W = x.shape
    heads = integer("heads", heads)
    if heads < 1 or W % heads or not W:
        raise ValueError(f"heads: expected a divisor of W = {W}, got {heads}")
    checks.offsets("offsets", offsets, N, padded=padded)
    checks.same_device("offsets", offsets, "x", x)


def _check_weights(x: Tensor, offsets: Tensor, weights: SequenceWeights, memory: Tensor | None, pre: bool) -> None:
    W = x.shape[1]
    checks.same("linear1_weight", weights.linear1_weight, "x", x)
    checks.dims("linear1_weight", weights.linear1_weight, (2,), "[F, W]")
    F = weights.linear1_weight.shape[0]
    if not F:
        raise ValueError("linear1_weight: expected at least one row, got 0")
    shapes = {
        "qkv_weight": ((3 * W, W), "[3 W, W]"), "qkv_bias": ((3 * W,), "[3 W]"), "out_weight": ((W, W), "[W, W]"),
        "linear1_weight": ((F, W), "[F, W]"), "linear1_bias": ((F,), "[F]"), "linear2_weight": ((W, F), "[W, F]"),
    }  # fmt: skip
    for name, t in weights._asdict().items():
        if name in ("norm3_weight", "norm3_bias"):
            expected = memory is not None and not pre
            if (t is not None) != expected:
                raise ValueError(f"{name}: expected {'a tensor, for the memory' if expected else 'None'}, got {type(t).__name__}")
            if t is None:
                continue
        checks.same(name, t, "x", x)
        checks.shape(name, t, *shapes.get(name, ((W,), "[W]")))
    if memory is not None:
        checks.same("memory", memory, "x", x)
        checks.shape("memory", memory, (offsets.shape[0] - 1, W), "[S, W]")


def _fake(x: Tensor, linear1_weight: Tensor, pre_norm: bool, grad_mask: int) -> tuple[Tensor, ...]:
    (N, W), dtype = x.shape, compute_dtype(x)
    kept = N if grad_mask else 0
    columns = ((kept, 3 * W), (kept, W), (kept, linear1_weight.shape[0]), (0 if pre_norm else kept, W))
    return x.new_empty((N, W)), *(x.new_empty(shape, dtype=dtype) for shape in columns)


def _fake_backward(**arguments: Any) -> tuple[Tensor, ...]:
    inputs, mask = tuple(arguments.values())[: 2 + reference.WEIGHTS], arguments["grad_mask"]
    return tuple(inputs[0].new_empty(0) if t is None else empty_if(mask >> i & 1, t) for i, t in enumerate(inputs))


_OP: DifferentiableOp[Tensor] = DifferentiableOp(
    "sequence_layer",
    tensors=19,
    public=1,
    reference=reference.sequence_layer,
    reference_backward=reference.sequence_layer_backward,
    fake=_fake,
    fake_backward=_fake_backward,
    saved=lambda inputs, out: (*inputs[:19], *out[1:]),
    vmap=loop_batches,  # the gradient of a shared weight cannot be folded into rows
)
