"""Tensors that no kernel reads: on meta, quantised, nested, sparse. Every op refuses them by an argument's name."""

import inspect

import pytest
import torch
from op_calls import op_calls
from torch import Tensor

from ordkernels import rng

CALLS = {call.name: call for call in op_calls(3, 0)}
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
        assert said.partition(":")[0] in inspect.signature(call.op).parameters
        assert "meta" in said
    else:
        assert said.startswith(f"{argument}: ")
