"""Times of training and scoring on the reference backend and on the kernels, alternating, on the same rows."""

import copy
from collections.abc import Callable
from typing import Any

import torch

from .. import use_backend
from ..testing.timing import interleaved
from .evaluation import Split, inputs

__all__ = ["measure"]


def measure(
    model: Any, train: Split, test: Split, *, step_rows: int = 1024, score_rows: int = 256, seconds: float = 4.0
) -> list[dict[str, Any]]:
    """Time a training step, and scoring with 32 draws a row.

    Returns:
        A dict each: ``what``, ``reference_ms`` and ``ours_ms`` (medians per 1,000 rows), ``ratio``.
    """
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    batch = {name: v[:step_rows] for name, v in train.items()}
    x = inputs({name: v[:score_rows] for name, v in test.items()})

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model.loss(batch)["loss"].backward()
        optimizer.step()

    def score() -> None:
        model.sample(x, 32, row_ids=x["row"])

    return [_compare("training step", step, len(batch["y"]), seconds), _compare("scoring, 32 draws", score, len(x["row"]), seconds)]


def _compare(what: str, run: Callable[[], Any], rows: int, seconds: float) -> dict[str, Any]:
    def on_reference() -> None:
        with use_backend("reference"):
            run()

    times = interleaved({"reference": on_reference, "ours": run}, seconds=seconds, rounds=(3, 40), warm=1)
    reference, ours = (times[key].median * 1e6 / rows for key in ("reference", "ours"))
    return {"what": what, "reference_ms": round(reference, 3), "ours_ms": round(ours, 3), "ratio": round(reference / ours, 3)}
