"""The ops on DTensors: importing this module registers how each op may be sharded.

Rows, ``[B, ...]``, may be sharded over any dimension of the mesh; parameters that all rows share are replicated, and their gradients
are partial sums until they are needed. Any other placement is redistributed first.

    >>> import ordkernels.distributed
    >>> from torch.distributed.tensor import Shard
    >>> z = DTensor.from_local(local_rows, mesh, [Shard(0)])  # doctest: +SKIP
    >>> ordkernels.ops.planar_flow(z, u, w, b)  # u, w and b replicated: the result is sharded as z is  # doctest: +SKIP

Noise keyed by rows needs ``row_ids``, a DTensor too, to be sharded: without them the rows are brought together, for their ids are
their places in the whole batch. Plain tensors among the arguments need ``torch.distributed.tensor.experimental.implicit_replication``.

DDP and FSDP call ops with plain tensors, and need nothing of this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch._ops import OpOverload
from torch.distributed.tensor import Partial, Placement, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

from ._library import op
from ._schemas import SCHEMAS

__all__ = ["register"]

Placements = list[Placement | None]

# Arguments without rows, per op: the dimensions that they have then, or None where they never have rows.
_PLANAR: dict[str, int | None] = {"u": 2, "w": 2, "b": 1}
_CHAIN: dict[str, int | None] = dict.fromkeys(("w_in", "b_in", "w_cond", "w_out", "b_out", "empty", "embedding", "step_coefficients"), None)
_SHARED: dict[str, dict[str, int | None]] = {
    "planar_flow": _PLANAR,
    "planar_flow_inverse": _PLANAR,
    "conditional_planar_flow": {"weight": None, "bias": None},
    "encode_increments": {"widths": 1},
    "nested_min": {"widths": 1},
    "fusion_chain": _CHAIN,
    "denoise_chain": _CHAIN,
    "embedding_mixup": {"embedding": None},
    "windowed_value": {"values": None},
    "value_decode": {"values": None, "weights": None, "position": None},
}
_NOISE_OF_STEPS = ("fusion_chain", "denoise_chain")  # its rows are dimension 1
_UNSHARDED = ("isa", "_vmath")


def register() -> None:
    """Registers the rules of all ops; importing the module has done it."""
    for name, (_, backward) in SCHEMAS.items():
        if name in _UNSHARDED:
            continue
        shared = _SHARED.get(name, {})
        register_sharding([op(name)] if backward is None else [op(name), op(f"_{name}")])(_forward_rule(op(name), name, shared))
        if backward is not None:
            kernels = [op(f"{name}_backward"), op(f"_{name}_backward")]
            register_sharding(kernels)(_backward_rule(op(name), kernels[0], shared))


Rule = Callable[..., list[tuple[Placements, Placements]]]


def _forward_rule(kernel: OpOverload, name: str, shared: dict[str, int | None]) -> Rule:
    names, outputs = _names(kernel), len(kernel._schema.returns)

    def rule(*args: Any) -> list[tuple[Placements, Placements]]:
        whole: tuple[Placements, Placements] = [Replicate()] * outputs, _inputs(names, args, shared, by_rows=False)
        if _keyed_by_place(names, args):
            return [whole]
        inputs = _inputs(names, args, shared, by_rows=True, rows={"noise": 1} if name in _NOISE_OF_STEPS else {})
        return [([Shard(0)] * outputs, inputs), whole]

    return rule


def _backward_rule(forward: OpOverload, backward: OpOverload, shared: dict[str, int | None]) -> Rule:
    """The gradients are those of the forward op's first tensors; one not asked for is an empty tensor, which any placement suits."""
    names, outputs = _names(backward), _names(forward)[: len(backward._schema.returns)]

    def rule(*args: Any) -> list[tuple[Placements, Placements]]:
        whole: tuple[Placements, Placements] = [Replicate()] * len(outputs), _inputs(names, args, shared, by_rows=False)
        if _keyed_by_place(names, args):
            return [whole]
        given = dict(zip(names, args, strict=False))
        is_shared = {name: _is_shared(name, given[name], shared) for name in shared if name in given}
        for name in shared:  # one that the backward op does not take goes with the others
            is_shared.setdefault(name, any(is_shared.values()))
        gradients: Placements = [Partial() if is_shared.get(name) else Shard(0) for name in outputs]
        return [(gradients, _inputs(names, args, shared, by_rows=True)), whole]

    return rule


def _names(kernel: OpOverload) -> list[str]:
    return [a.name for a in kernel._schema.arguments]


def _is_shared(name: str, spec: Any, shared: dict[str, int | None]) -> bool:
    if name not in shared:
        return False
    dims = shared[name]
    return dims is None or (spec is not None and spec.ndim == dims)


def _inputs(
    names: list[str], args: Sequence[Any], shared: dict[str, int | None], *, by_rows: bool, rows: dict[str, int] | None = None
) -> Placements:
    """A placement for each tensor, those of lists one by one, and None for each other argument."""
    found: Placements = []
    for name, arg in zip(names, args, strict=False):
        for part in arg if isinstance(arg, list | tuple) else (arg,):
            if not hasattr(part, "placements"):
                found.append(None)
            elif by_rows and not _is_shared(name, part, shared):
                found.append(Shard((rows or {}).get(name, 0)))
            else:
                found.append(Replicate())
    return found


def _keyed_by_place(names: list[str], args: Sequence[Any]) -> bool:
    """Whether noise is keyed by a row's place in the batch, which a shard does not know."""
    given = dict(zip(names, args, strict=False))
    return bool(given.get("random")) and given.get("row_ids") is None


register()
