"""Training and scoring on the reference backend and on the kernels, taken in turns on the same rows."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .. import use_backend
from ..models import FlowTime
from ..testing.timing import interleaved
from .evaluation import Split, inputs

__all__ = ["Speed", "measure"]


@dataclass
class Speed:
    name: str
    reference_ms: float  # per 1,000 rows
    ours_ms: float

    @property
    def ratio(self) -> float:
        return self.reference_ms / self.ours_ms


def measure(model: FlowTime, train: Split, test: Split, *, rows: int = 1024, seconds: float = 5.0) -> list[Speed]:
    """Medians, milliseconds per 1,000 rows: a training step, scoring with 32 draws a row, and the flow itself."""
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    batch = {name: v[:rows] for name, v in train.items()}
    x = inputs({name: v[:rows] for name, v in test.items()})

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model.loss(batch)["loss"].backward()
        optimizer.step()

    def score() -> None:
        model.predict(x, n=32, row_ids=x["row"])

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        flow: Any = model.prior.flow
        B, N = len(batch["y"]), 1 + model.quantiles
        z = torch.randn(B, N, flow.width, requires_grad=True)
        h = torch.randn(B, flow.cond_width, requires_grad=True)

        def flow_alone() -> None:
            out, log_det = flow(z, h)
            torch.autograd.grad((out.sum(), log_det.sum()), (z, h, flow.weight, flow.bias))

        return [
            _compare("training step, forward to optimizer", step, B, seconds),
            _compare("scoring, 32 draws per row", score, len(x["user"]), seconds),
            _compare(f"the flow alone, {N} draws, forward + backward", flow_alone, B, seconds),
        ]


def _compare(name: str, run: Callable[[], Any], rows: int, seconds: float) -> Speed:
    def on_reference() -> None:
        with use_backend("reference"):
            run()

    times = interleaved({"reference": on_reference, "ours": run}, seconds=seconds, rounds=(3, 40), warm=1)
    return Speed(name, *(times[key].median * 1e6 / rows for key in ("reference", "ours")))
