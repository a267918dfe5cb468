"""One training loop for the models: Adam, shuffled batches, averaged weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["fit"]


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
    reshuffled every epoch; at the end the weights become their exponential average (``average`` per step, 0: none).
    The same seed gives the same numbers on one machine. Ends in eval mode, on the device the model is on.

    Args:
        train: dict of tensors ``[N, ...]``; only the keys that the model's ``loss`` reads matter.
        seed: of the shuffling and of all noise in the loss; the caller's random state is left as it was.
        progress: a tqdm bar, where tqdm is installed.
        on_step: called after each step with its number, from 1, and the loss's parts.
        time_budget: seconds; training stops after the step that reaches it (then results depend on the machine).

    Errors: ``ValueError`` for no rows, for counts below 1, for labels that are not finite, and, with the step, for such a loss.

    Example::

        >>> history = fit(model, train, epochs=2)
        >>> history[-1]["loss"]
    """
    N = len(train["y"])
    for name, value in (("train rows", N), ("epochs", epochs), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name}: expected at least 1, got {value}")
    if not 0 <= average < 1:
        raise ValueError(f"average: expected a number in [0, 1), got {average}")
    bad = torch.nonzero(~torch.isfinite(train["y"]))[:1].flatten().tolist()  # here, as losses do not look at what is on a GPU
    if bad:
        raise ValueError(f"y: expected finite values, got {float(train['y'][bad[0]])} at row {bad[0]}")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    train = {name: v for name, v in train.items() if name in getattr(model, "batch_keys", train)}
    if hasattr(model, "prepare"):
        model.prepare(train)
    steps = epochs * math.ceil(N / batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: 0.5 * (1 + math.cos(math.pi * s / steps)))
    averaged = [p.detach().clone() for p in model.parameters()]
    bar = _bar(steps, progress)
    history: list[dict[str, float]] = []
    started, step = time.monotonic(), 0
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model.train()
        for _ in range(epochs):
            order = torch.randperm(N)
            sums: dict[str, Any] = {}
            seen = 0
            for rows in order.split(batch_size):
                batch = {name: v[rows].to(device) for name, v in train.items()}
                parts = model.loss(batch)
                optimizer.zero_grad(set_to_none=True)
                parts["loss"].backward()
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                optimizer.step()
                schedule.step()
                step += 1
                rate = min(average, step / (step + 10.0)) if average else 0.0  # a short memory at the start
                with torch.no_grad():
                    torch._foreach_lerp_(averaged, list(model.parameters()), 1 - rate)
                for name, value in parts.items():
                    sums[name] = sums.get(name, 0.0) + value.detach().double() * len(rows)
                seen += len(rows)
                bar.update(1)
                if on_step is not None:
                    on_step(step, parts)
                if time_budget is not None and time.monotonic() - started >= time_budget:
                    break
            history.append({name: float(total) / seen for name, total in sums.items()})
            if not math.isfinite(history[-1]["loss"]):
                raise ValueError(f"loss: expected a finite value, got {history[-1]['loss']} by step {step} (lr = {lr})")
            bar.set_postfix({"loss": f"{history[-1]['loss']:.4f}"})
            if time_budget is not None and time.monotonic() - started >= time_budget:
                break
    bar.close()
    with torch.no_grad():
        for p, mean in zip(model.parameters(), averaged, strict=True):
            p.copy_(mean)
    model.eval()
    return history


def _bar(steps: int, progress: bool) -> Any:
    if progress:
        try:
            from tqdm.auto import tqdm

            return tqdm(total=steps, unit="step", leave=False)
        except ImportError:
            pass
    return _NoBar()


class _NoBar:
    def update(self, n: int) -> None: ...
    def set_postfix(self, values: dict[str, str]) -> None: ...
    def close(self) -> None: ...
