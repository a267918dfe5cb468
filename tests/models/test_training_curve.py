"""A hundred steps of training by kernels follow those of plain torch: the losses stay together, in fp64 and without dropout."""

from typing import Any

import pytest
import torch
from test_compiled_loss import FUSION, NO_DROPOUT, rows
from torch import Tensor, nn

from ordkernels import use_backend
from ordkernels.models import DiffoR, FlowTime, GenerativeRegression, IFusion

pytestmark = pytest.mark.native
STEPS = 100
SMALL, FUSION = {**NO_DROPOUT, "trunk_width": 16}, {**FUSION, "trunk_width": 16}
MODELS: dict[str, Any] = {
    "FlowTime": lambda: FlowTime(**SMALL, latent=8),
    "FlowTime, transformer": lambda: FlowTime(**SMALL, latent=8, encoder="transformer", pattern_width=8),
    "DiffoR": lambda: DiffoR(**SMALL, latent=8, heads=4, T=10, denoiser_hidden=16, eta=0.5, steps=2),
    "DiffoR, transformer": lambda: DiffoR(**SMALL, latent=16, heads=2, T=10, denoiser="transformer", crps_weight=0.0),
    "GR": lambda: GenerativeRegression(**SMALL, attention_heads=2, ffn=16, unit=1.0, omega=20.0),
    "iFusion": lambda: IFusion(**FUSION, T=10, denoiser_hidden=16),
}


def doubles(seed: int) -> dict[str, Tensor]:
    return {key: v.double() if v.is_floating_point() else v for key, v in rows(seed).items()}


def curve(name: str, backend: str) -> Tensor:
    torch.manual_seed(0)
    model, batches, losses = MODELS[name]().double(), [doubles(seed) for seed in range(4)], []
    model.prepare({key: torch.cat([batch[key] for batch in batches]) for key in batches[0]})
    for module in model.modules():
        if isinstance(module, nn.Dropout):  # the core filter has one of its own
            module.p = 0.0
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)
    model.train()
    with use_backend(backend):
        for step in range(STEPS):
            optimizer.zero_grad()
            loss = model.loss(batches[step % len(batches)])["loss"]
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            losses.append(loss.detach())
    return torch.stack(losses)


@pytest.mark.parametrize("name", MODELS)
def test_losses_of_a_hundred_steps_are_those_of_plain_torch(name: str) -> None:
    by_kernels, plain = curve(name, "cpu"), curve(name, "reference")
    assert not torch.equal(by_kernels, plain)  # something ran on kernels
    assert float(plain[-10:].mean()) < float(plain[:10].mean())
    torch.testing.assert_close(by_kernels, plain, rtol=1e-6, atol=1e-6)
