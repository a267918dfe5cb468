"""Weights of the built-in networks, as the ops that run whole loops of them take them.

Such an op takes one of these tuples, or any object whose method ``weights()`` returns one, as the modules of `ordkernels.nn` do.
"""

from typing import Any, Literal, NamedTuple, TypeVar

from torch import Tensor

from .._validation import tensors as checks

Prediction = Literal["eps", "x0", "v"]


class MLPWeights(NamedTuple):
    """Of ``W_out silu(W_x x + W_t e(t) + b_in + W_cond c) + b_out``, e(t) the sines and cosines of ``t frequencies``."""

    w_in: Tensor  # [H, D + E]: W_x | W_t
    b_in: Tensor  # [H]
    w_cond: Tensor  # [H, C]
    w_out: Tensor  # [D, H]
    b_out: Tensor  # [D]
    frequencies: Tensor  # [E / 2], fp32 or fp64
    prediction: Prediction | None = None  # what the output is, where the network knows


class SessionWeights(NamedTuple):
    """Of an MLP that takes sessions one after the other."""

    network: MLPWeights
    empty: Tensor  # [C], the guidance that stands for none


class DecoderWeights(NamedTuple):
    """Of a decoder of value tokens."""

    tensors: list[Tensor]  # all but the positions, in the order in which `reference/value_decode.py` lists them
    position: Tensor | None  # [positions, d]
    heads: int
    memory_width: int
    norm: Literal["post", "pre"] = "post"
    activation: Literal["relu", "gelu"] = "relu"
    norm_eps: float = 1e-5


class SequenceWeights(NamedTuple):
    """Of one Transformer layer of width W with F hidden units."""

    norm1_weight: Tensor  # [W], of the attention
    norm1_bias: Tensor  # [W]
    qkv_weight: Tensor  # [3 W, W]: queries | keys | values
    qkv_bias: Tensor  # [3 W]
    out_weight: Tensor  # [W, W]
    out_bias: Tensor  # [W]
    norm2_weight: Tensor  # [W], of the feed-forward part
    norm2_bias: Tensor  # [W]
    linear1_weight: Tensor  # [F, W]
    linear1_bias: Tensor  # [F]
    linear2_weight: Tensor  # [W, F]
    linear2_bias: Tensor  # [W]
    norm3_weight: Tensor | None = None  # [W], of what follows a memory; post-norm alone
    norm3_bias: Tensor | None = None  # [W]


W = TypeVar("W", MLPWeights, SessionWeights, DecoderWeights, SequenceWeights)


def weights_of(source: Any, kind: type[W], name: str, expected: str) -> W:
    """``source``, if it is of the kind, else its ``weights()``."""
    if isinstance(source, kind):
        check_weights(name, source)
        return source
    method = getattr(source, "weights", None)
    found = method() if callable(method) else None
    if not isinstance(found, kind):
        raise TypeError(f"{name}: expected {expected}, {kind.__name__} or an object whose weights() are that, got {type(source).__name__}")
    return found


def check_weights(name: str, weights: MLPWeights | SessionWeights | DecoderWeights | SequenceWeights) -> None:
    """Dtypes, devices and shapes of a tuple that no module vouches for; the op checks those of a ``SequenceWeights``."""
    if isinstance(weights, SequenceWeights):
        return
    if isinstance(weights, DecoderWeights):
        for i, t in enumerate(weights.tensors):
            checks.same(f"{name}.tensors[{i}]", t, f"{name}.tensors[0]", weights.tensors[0])
        return
    network = weights.network if isinstance(weights, SessionWeights) else weights
    for field in ("w_in", "b_in", "w_cond", "w_out", "b_out"):
        checks.same(f"{name}.{field}", getattr(network, field), f"{name}.w_in", network.w_in)
    checks.floating(f"{name}.frequencies", network.frequencies)
    checks.dims(f"{name}.w_out", network.w_out, (2,), "[D, H]")
    checks.dims(f"{name}.w_cond", network.w_cond, (2,), "[H, C]")
    (D, H), C, E = network.w_out.shape, network.w_cond.shape[1], 2 * network.frequencies.numel()
    checks.shape(f"{name}.w_in", network.w_in, (H, D + E), "[H, D + E]")
    checks.shape(f"{name}.b_in", network.b_in, (H,), "[H]")
    checks.shape(f"{name}.w_cond", network.w_cond, (H, C), "[H, C]")
    checks.shape(f"{name}.b_out", network.b_out, (D,), "[D]")
    if isinstance(weights, SessionWeights):
        checks.same(f"{name}.empty", weights.empty, f"{name}.w_in", network.w_in)
        checks.shape(f"{name}.empty", weights.empty, (C,), "[C]")
