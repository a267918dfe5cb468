"""Training losses under torch.compile: one graph each, without a break, with the losses and gradients of eager mode."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ordkernels import rng, use_backend
from ordkernels.models import DiffoR, FlowTime, GenerativeRegression, IFusion, PooledFusion

B, USERS, ITEMS, F, L = 24, 5, 9, 2, 6
SMALL: dict[str, Any] = {"n_users": USERS, "n_items": ITEMS, "dense_width": F, "hidden": 8, "quantiles": L}
# Packed sequences have lengths that a graph does not know: it pads them, and drops other elements than eager mode does.
NO_DROPOUT: dict[str, Any] = {**SMALL, "dropout": 0.0}
FUSION = {**NO_DROPOUT, "latent": 8, "sessions": 3, "long": 6, "attention_heads": 2, "levels": 4}
MODELS: dict[str, Any] = {
    "FlowTime": lambda: FlowTime(**SMALL, latent=8),
    "DiffoR": lambda: DiffoR(**SMALL, latent=8, heads=4, T=10, denoiser_hidden=16, eta=0.5, steps=4),
    "DiffoR, transformer": lambda: DiffoR(**SMALL, latent=8, heads=2, T=10, denoiser="transformer", steps=2),
    "GR": lambda: GenerativeRegression(**NO_DROPOUT, attention_heads=2, ffn=16, unit=1.0),
    "iFusion": lambda: IFusion(**FUSION, T=10, denoiser_hidden=16, steps=2),
    "pooling": lambda: PooledFusion(**FUSION, pooling="attention"),
}


def rows(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=g)

    q = torch.rand(2, B, L, generator=g).mul(30).sort(dim=2).values
    return {
        "user": integers(USERS, B), "item": integers(ITEMS, B), "dense": torch.randn(B, F, generator=g), "q_user": q[0], "q_item": q[1],
        "has_user": integers(2, B).float(), "has_item": integers(2, B).float(), "y": integers(90, B).float(),
        "long": integers(ITEMS + 1, B, 7).sort(descending=True).values, "click": integers(2, B).float(),
        "sessions": integers(ITEMS + 1, B, 5, 3).sort(descending=True).values, "feedback": torch.rand(B, 5, 3, 3, generator=g),
    }  # fmt: skip


def prepared(name: str) -> Any:
    torch.manual_seed(0)
    model = MODELS[name]()
    model.prepare(rows())
    if hasattr(model, "filters"):  # they have a dropout of their own, of the sessions alone that exist
        model.filters.core[2].p = 0.0
    return model.train()


def loss_and_gradients(model: Any, loss: Any, batch: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[Tensor]]:
    if isinstance(model, GenerativeRegression):
        model.iteration.fill_(9)
    torch.manual_seed(5)
    parts = loss(batch)
    parameters = list(model.parameters())
    found = torch.autograd.grad(parts["loss"], parameters, allow_unused=True)
    return parts, [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]


@pytest.mark.registration
@pytest.mark.parametrize("name", MODELS)
def test_one_graph_with_the_losses_and_gradients_of_eager_mode(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ordkernels.nn._mlp.LEAST_ROWS", 0)  # eager mode would take torch's layers, whose dropout has another stream
    keyed = {"row_ids": torch.arange(B) + 7} if name == "DiffoR" else {}  # they key the noise of all models the same way
    model, batch = prepared(name), rows() | keyed
    torch._dynamo.reset()
    compiled = torch.compile(model.loss, fullgraph=True, backend="aot_eager", dynamic=False)
    for seed in (0, 1):  # another batch of that size runs the same graph
        batch |= {k: v for k, v in rows(seed).items() if k != "y"}
        want, gradients = loss_and_gradients(model, model.loss, batch)
        got, found = loss_and_gradients(model, compiled, batch)
        assert got.keys() == want.keys()
        for part, value in want.items():
            torch.testing.assert_close(got[part], value, msg=part)
        for g, expected in zip(found, gradients, strict=True):
            torch.testing.assert_close(g, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max() + 1))
    assert model.training
    assert all(m.training for m in model.modules())


def test_label_tokens_made_before_training_are_those_of_each_batch() -> None:
    model, batch = prepared("GR"), rows()
    encoded = model.precompute(batch)
    assert "label_tokens" not in batch
    assert encoded["label_tokens"].shape == (B, model.longest_sequence - 1)
    some = {k: v[:5] for k, v in encoded.items()}
    for part, value in loss_and_gradients(model, model.loss, {k: v[:5] for k, v in batch.items()})[0].items():
        assert torch.equal(loss_and_gradients(model, model.loss, some)[0][part], value), part
    with pytest.raises(ValueError, match="label_tokens"):
        model.loss(batch | {"label_tokens": encoded["label_tokens"][:5]})


@pytest.mark.registration
@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("draw", [rng.normal, rng.uniform])
def test_keyed_noise_is_one_node_whatever_its_seed(draw: Any, backend: str | None) -> None:
    """Also of plain torch, which Inductor would inline: each of ten rounds several times into the next."""
    nodes: list[str] = []

    def count(graph: torch.fx.GraphModule, _: Any) -> Any:
        nodes.extend(str(n.target) for n in graph.graph.nodes if n.op == "call_function")
        return graph.forward

    def run(seed: Tensor, ids: Tensor) -> Tensor:
        if backend is None:
            noise: Tensor = draw(seed, ids, 3, 5)
            return noise
        with use_backend(backend):
            return draw(seed, ids, 3, 5)

    ids = torch.arange(4)
    torch._dynamo.reset()
    compiled = torch.compile(run, fullgraph=True, backend=count)
    for seed in (3, -1, 2**62):
        assert torch.equal(compiled(torch.tensor(seed), ids), run(torch.tensor(seed), ids))
    assert {n for n in nodes if "functorch" not in n} == {"ordkernels.keyed_noise.default"}
