"""Under torch's autocast every backend computes as without it, and so do the gradients."""

import pytest
import torch
from every_op import CALLS
from test_extremes import BACKENDS
from torch import Tensor

from ordkernels import use_backend

B = 5
OF_PRODUCTS = ("conditional_planar_flow", "embedding_mixup", "mlp", "sequence_layer")  # what autocast would round in them


@pytest.mark.parametrize("name", OF_PRODUCTS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_product_is_rounded_to_16_bits(backend: str, name: str) -> None:
    arguments = [a.detach().requires_grad_(a.is_floating_point()) for a in CALLS[name].arguments(B)]
    inputs = [a for a in arguments if a.requires_grad]

    def run(under_autocast: bool) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=under_autocast):
            outputs = CALLS[name].outputs(*arguments)
        return [*outputs, *torch.autograd.grad(outputs, inputs, [torch.ones_like(o) for o in outputs])]

    with use_backend(backend):
        got, expected = run(True), run(False)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
