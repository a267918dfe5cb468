"""Tensors that no kernel reads: on meta, quantised, nested, sparse. Every op refuses them by an argument's name."""

import inspect

import pytest
import torch
from op_calls import OpCall, op_calls
from torch import Tensor

from ordkernels import ops, rng

CALLS = {call.name: call for call in op_calls(3, 0)}


def sequence_layer(x: Tensor, offsets: Tensor, row_ids: Tensor, **weights: Tensor) -> Tensor:
    return ops.sequence_layer(x, offsets, ops.SequenceWeights(**weights), heads=2, dropout=0.2, seed=0, row_ids=row_ids)


def _sequences() -> OpCall:
    """Its own arguments, not those of `op_calls`, which pads the sequences and counts the weights."""
    call = CALLS["sequence_layer"]
    rows = {"x": call.rows["x"].flatten(0, 1), "offsets": torch.arange(4) * call.rows["x"].shape[1], "row_ids": call.rows["row_ids"]}
    weights = [x for x in call.shared.values() if isinstance(x, Tensor)]
    return OpCall(sequence_layer, rows, dict(zip(ops.SequenceWeights._fields, weights, strict=False)))  # the last ones are optional


CALLS["sequence_layer"] = _sequences()
KINDS = {
    "meta": lambda t: t.to("meta"),
    "quantised": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
    "nested": lambda t: torch.nested.nested_tensor([t.float(), t.float()]),
    "jagged": lambda t: torch.nested.nested_tensor([t.float().reshape(-1)] * 2, layout=torch.jagged),
    "sparse": lambda t: t.to_sparse(),
    "for oneDNN": lambda t: t.float().to_mkldnn(),
}
CASES = [
    (name, argument, kind)
    for name, call in CALLS.items()
    for argument, x in (call.rows | call.shared).items()
    for kind in KINDS
    if isinstance(x, Tensor) and not (kind == "meta" and call.op in (rng.normal, rng.uniform))  # no other tensor says otherwise
]


@pytest.mark.filterwarnings("ignore")  # torch's own, of its prototypes
@pytest.mark.parametrize(("name", "argument", "kind"), CASES)
def test_refused(name: str, argument: str, kind: str) -> None:
    call = CALLS[name]
    arguments = call.rows | call.shared
    with pytest.raises((TypeError, ValueError), match=r"^\w+: expected .* got ") as error:
        call.op(**arguments | {argument: KINDS[kind](arguments[argument])})
    said = str(error.value)
    if kind == "meta":  # or another tensor is not where the first one is
        assert said.partition(":")[0] in {*arguments, *inspect.signature(call.op).parameters}
        assert "meta" in said
    else:
        assert said.startswith(f"{argument}: ")
