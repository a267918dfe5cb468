"""One training loop for the models: Adam, shuffled batches, averaged weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel

from .._validation.numbers import integer

__all__ = ["fit"]

Parameters = tuple[Tensor, ...] | list[Tensor]
_LARGEST_NORM = 5.0  # of the gradients


def fit(
    model: Any,
    train: dict[str, Tensor],
    *,
    epochs: int = 4,
    batch_size: int = 1024,
    lr: float = 2e-3,
    weight_decay: float = 0.1,
    average: float = 0.99,
    seed: int = 0,
    progress: bool = True,
    time_budget: float | None = None,
    on_step: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> list[dict[str, float]]:
    """Trains an ``nn.Module`` with ``.loss(batch) -> {"loss": ..., ...}`` in place; returns the mean losses of each epoch.

    Adam with decoupled weight decay, a cosine learning rate from ``lr`` to zero, gradients clipped at norm 5, rows
    reshuffled every epoch; at the end the weights become their exponential average.
    The same seed gives the same numbers on one machine. Ends in eval mode, on the device the model is on.

    Args:
        model: has ``loss``; ``prepare(train)`` is called first and ``batch_keys`` read, where it has them.
        train: dict of tensors ``[N, ...]``; only the keys that the model's ``loss`` reads matter.
        epochs: passes over the rows.
        batch_size: rows of a step; the last one of an epoch may have fewer.
        lr: initial learning rate.
        weight_decay: decoupled.
        average: decay of the weights' average per step, shorter at the start; 0: no average.
        seed: of the shuffling and of all noise in the loss; the caller's random state is left as it was.
        progress: a tqdm bar, where tqdm is installed.
        time_budget: seconds; training stops after the step that reaches it (then results depend on the machine).
        on_step: called after each step with its number, from 1, and the loss's parts.

    Raises:
        ValueError: no rows, counts below 1, labels that are not finite, and, with the step, such a loss.

    Example:
        >>> from ordkernels.models import DiffoR
        >>> train = {"dense": torch.randn(64, 2), "y": torch.rand(64)}
        >>> history = fit(DiffoR(dense_width=2), train, epochs=2, progress=False)
        >>> len(history), sorted(history[-1])
        (2, ['crps', 'increment', 'loss', 'noise'])
    """
    epochs, batch_size = integer("epochs", epochs, least=1), integer("batch_size", batch_size, least=1)
    if not 0 <= average < 1:
        raise ValueError(f"average: expected a number in [0, 1), got {average}")
    train, N = _prepared(model, train), len(train["y"])
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    steps = epochs * math.ceil(N / batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = CosineAnnealingLR(optimizer, steps)
    averaged = _averaged(model, average) if average else None
    history, step, deadline = [], 0, time.monotonic() + (math.inf if time_budget is None else time_budget)
    with _progress_bar(steps, progress) as bar, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model.train()
        for _ in range(epochs):
            means = _Means()
            for rows in torch.split(torch.randperm(N), batch_size):
                parts = model.loss({name: v[rows].to(device) for name, v in train.items()})
                _descend(model, parts["loss"], optimizer)
                _advance(model, schedule, averaged)
                step += 1
                means.add(parts, len(rows))
                if bar is not None:
                    bar.update()
                if on_step is not None:
                    on_step(step, parts)
                if time.monotonic() >= deadline:
                    break
            history.append(_finite(means.values(), step, lr))
            if bar is not None:
                bar.set_postfix({"loss": f"{history[-1]['loss']:.4f}"})
            if time.monotonic() >= deadline:
                break
    if averaged is not None:
        _copy_parameters(averaged.module, model)
    model.eval()
    return history


def _prepared(model: Any, train: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the model reads of the rows, which it has seen, and whose labels are finite: losses do not read those on a GPU."""
    for name, v in train.items():
        if not isinstance(v, Tensor):
            raise TypeError(f"train[{name!r}]: expected a tensor, got {type(v).__name__}")
    y = train["y"]
    if not len(y):
        raise ValueError("y: expected at least one training row, got none")
    bad = torch.nonzero(~torch.isfinite(y))[:1].flatten().tolist()
    if bad:
        raise ValueError(f"y: expected finite values, got {float(y[bad[0]])} at row {bad[0]}")
    train = {name: v for name, v in train.items() if name in getattr(model, "batch_keys", train)}
    if hasattr(model, "prepare"):
        model.prepare(train)
    return train


def _descend(model: nn.Module, loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), _LARGEST_NORM)
    optimizer.step()


def _advance(model: nn.Module, schedule: CosineAnnealingLR, averaged: AveragedModel | None) -> None:
    schedule.step()
    if averaged is not None:
        averaged.update_parameters(model)


def _finite(losses: dict[str, float], step: int, lr: float) -> dict[str, float]:
    if not math.isfinite(losses["loss"]):
        raise ValueError(f"loss: expected a finite value, got {losses['loss']} by step {step} (lr = {lr})")
    return losses


def _averaged(model: nn.Module, average: float) -> AveragedModel:
    """An exponential average of the parameters that starts with them, with a short memory: ``s / (s + 10)`` at step s."""

    def update(means: Parameters, parameters: Parameters, _: Tensor | int) -> None:
        step = int(averaged.n_averaged)  # on the host, unlike the argument: no step waits for the device
        torch._foreach_lerp_(list(means), list(parameters), 1 - min(average, step / (step + 10.0)))

    averaged = AveragedModel(model, multi_avg_fn=update)
    averaged.update_parameters(model)  # the first update copies the parameters and counts as one
    return averaged


def _copy_parameters(source: nn.Module, target: nn.Module) -> None:
    with torch.no_grad():
        for p, value in zip(target.parameters(), source.parameters(), strict=True):
            p.copy_(value)


class _Means:
    """Means over rows of a loss's parts, in double precision on their device: reading them at each step would synchronise."""

    def __init__(self) -> None:
        self.sums: dict[str, Any] = {}
        self.rows = 0

    def add(self, parts: dict[str, Tensor], rows: int) -> None:
        for name, value in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.detach().double() * rows
        self.rows += rows

    def values(self) -> dict[str, float]:
        return {name: float(total) / self.rows for name, total in self.sums.items()}


def _progress_bar(steps: int, enabled: bool) -> AbstractContextManager[Any]:
    """A tqdm bar; None where tqdm is not installed."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return nullcontext()
    bar: AbstractContextManager[Any] = tqdm(total=steps, unit="step", leave=False, disable=not enabled)
    return bar
