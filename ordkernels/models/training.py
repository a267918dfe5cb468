"""One training loop for the models: Adam, shuffled batches, averaged weights."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import AveragedModel

from .. import ops
from .._validation.numbers import integer
from . import _checkpoint, _processes
from ._adamw import AdamW

__all__ = ["fit"]

Parameters = tuple[Tensor, ...] | list[Tensor]
_LARGEST_NORM = 5.0  # of the gradients


def fit(
    model: Any,
    train: dict[str, Tensor],
    *,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 1024,
    lr: float = 2e-3,
    weight_decay: float = 0.1,
    average: float = 0.99,
    seed: int = 0,
    progress: bool = True,
    time_budget: float | None = None,
    on_step: Callable[[int, dict[str, Tensor]], None] | None = None,
    checkpoint: str | PathLike[str] | None = None,
    checkpoint_steps: int | None = None,
    valid: dict[str, Tensor] | None = None,
    patience: int | None = None,
) -> list[dict[str, float]]:
    """Trains an ``nn.Module`` with ``.loss(batch) -> {"loss": ..., ...}`` in place; returns the mean losses of each epoch.

    Adam with decoupled weight decay, a cosine learning rate from ``lr`` to zero, gradients clipped at norm 5, rows
    reshuffled every epoch; at the end the weights become their exponential average.
    The same seed gives the same numbers on one machine. Ends in eval mode, on the device the model is on.

    On a CPU, where the parameters are fp32 or fp64, a step updates all of them in one pass, and of tables of ids that have at least 32
    times the rows of a step those rows alone that it reads: first they make the steps that they have missed, to rounding as if in time. So
    a step's time hardly depends on the number of users. Every row is up to date after 4,096 steps, at the end, in checkpoints, where
    ``valid`` is scored, and whenever ``on_step`` is called, which makes a step as dear as the tables are large.

    Where torch.distributed has a process group (``torchrun``, Ray Train), all of its processes call this with the same arguments and
    train together by DDP: each takes its share of the rows of a step, and all end with the same weights and history, to rounding those
    of one process without dropout. The loss's noise is then keyed by ``row_ids``, which `train` may also bring (else the rows' places);
    the first process alone shows the bar and writes the checkpoint.

    Args:
        model: has ``loss``; ``prepare(train)`` is called first and ``batch_keys`` read, where it has them.
        train: dict of tensors ``[N, ...]``; only the keys that the model's ``loss`` reads matter.
        epochs: passes over the rows; 4, unless `steps` is given.
        steps: how many steps to train instead, whatever the number of rows; the last pass may end before its end.
        batch_size: rows of a step, of all processes together; the last one of an epoch may have fewer. Of n processes, a multiple of n
            below it, and an epoch leaves out up to n - 1 rows, others each time.
        lr: initial learning rate.
        weight_decay: decoupled.
        average: decay of the weights' average per step, shorter at the start; 0: no average.
        seed: of the shuffling and of all noise in the loss; the caller's random state is left as it was.
        progress: a tqdm bar, where tqdm is installed.
        time_budget: seconds; training stops after the step that reaches it (then results depend on the machine).
        on_step: called after each step with its number, from 1, and the loss's parts.
        checkpoint: a file that the whole state of the training is written to, after each epoch and where the time budget ends it. If
            it exists, training goes on from there: weights, losses and history are those of an uninterrupted run, bit for bit, or to
            rounding where tables are trained by rows.
        checkpoint_steps: write it after so many steps too.
        valid: rows to score after each epoch and at the end, by the averaged weights: their fair CRPS with 16 draws a row, or the
            mean absolute error of a model without draws. The history then has ``valid``, and the weights at the end are those of
            its least value.
        patience: epochs without a new least value after which training stops; None: never.

    Raises:
        ValueError: no rows, or fewer than processes, or not the same ones in all of them; counts below 1, both ``epochs`` and ``steps``,
            patience without ``valid``, labels that are not finite, and, with the step, such a loss; a checkpoint of another model, of other
            rows or settings, or a damaged one.

    Example:
        >>> from ordkernels.models import DiffoR
        >>> train = {"dense": torch.randn(64, 2), "y": torch.rand(64)}
        >>> history = fit(DiffoR(dense_width=2), train, epochs=2, progress=False)
        >>> len(history), sorted(history[-1])
        (2, ['crps', 'increment', 'loss', 'noise'])
    """
    batch_size = integer("batch_size", batch_size, least=1)
    if epochs is not None and steps is not None:
        raise ValueError(f"steps: expected None with epochs, got {steps!r}")
    if not 0 <= average < 1:
        raise ValueError(f"average: expected a number in [0, 1), got {average}")
    if checkpoint_steps is not None:
        checkpoint_steps = integer("checkpoint_steps", checkpoint_steps, least=1)
    if patience is not None and valid is None:
        raise ValueError(f"patience: expected None without valid, got {patience!r}")
    _check_tensors("train", train)
    _check_tensors("valid", valid or {})
    train = _prepared(model, train)
    N, processes = len(train["y"]), _processes.count()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    _processes.check_same_rows(train["y"], device)
    if processes > N:
        raise ValueError(f"train: expected a row for each of the {processes} processes, got {N}")
    batch_size = max(batch_size // processes, 1) * processes
    if steps is None:
        steps = integer("epochs", 4 if epochs is None else epochs, least=1) * math.ceil((N - N % processes) / batch_size)
    steps = integer("steps", steps, least=1)
    settings = {"rows": N, "steps": steps, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay, "average": average}
    with (
        _progress_bar(steps, progress and not _processes.rank()) as bar,
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        torch.manual_seed(seed)
        run = _Run(model, {**settings, "seed": seed}, device, None if checkpoint is None else Path(checkpoint), valid, patience)
        model.train()
        with _joint_means(model), run.optimizer if isinstance(run.optimizer, AdamW) else nullcontext():
            _train(run, train, batch_size, math.inf if time_budget is None else time_budget, checkpoint_steps, bar, on_step)
        run.finish()
    model.eval()
    return run.history


def _train(
    run: _Run,
    train: dict[str, Tensor],
    batch_size: int,
    seconds: float,
    checkpoint_steps: int | None,
    bar: Any,
    on_step: Callable[[int, dict[str, Tensor]], None] | None,
) -> None:
    run.deadline = time.monotonic() + seconds
    if bar is not None:
        bar.update(run.step)
    steps = run.settings["steps"]
    while run.step < steps and not run.is_stale() and not (run.step and run.is_over()):
        for rows in run.batches(len(train["y"]), batch_size):
            own = rows[_processes.rank() :: _processes.count()]
            parts = run.loss({name: v[own].to(run.device) for name, v in train.items()})
            run.descend(parts, len(rows))
            if bar is not None:
                bar.update()
            if on_step is not None:
                run.catch_up()
                on_step(run.step, parts)
            if run.step == steps or run.is_over():
                break
            if checkpoint_steps is not None and run.step % checkpoint_steps == 0:
                run.save()
        losses = run.end_epoch()
        if bar is not None:
            bar.set_postfix({"loss": f"{losses['loss']:.4f}"})


class _Run:
    """The state of a training, which its checkpoint holds: the model's, the optimizer's, that of the random numbers, and what is left of
    the epoch."""

    def __init__(
        self, model: Any, settings: dict[str, Any], device: torch.device, path: Path | None,
        valid: dict[str, Tensor] | None, patience: int | None,
    ) -> None:  # fmt: skip
        self.model, self.settings, self.device, self.path, self.valid, self.patience = model, settings, device, path, valid, patience
        self.best: list[Tensor] = []  # the parameters of the least score on `valid`, that of epoch `best_epoch`
        self.best_score, self.best_epoch = math.inf, 0
        self.averaged = _averaged(model, settings["average"]) if settings["average"] else None
        self.optimizer = _optimizer(model, self.averaged, settings)
        self.schedule = CosineAnnealingLR(self.optimizer, settings["steps"])
        self.loss = _processes.parallel_loss(model)
        self.deadline = math.inf
        self.step = self.epoch = 0
        self.order = torch.empty(0, dtype=torch.int64)  # the epoch's rows that are still to come
        self.means = _Means()
        self.history: list[dict[str, float]] = []
        if path is not None and path.exists():
            self._load(_checkpoint.load(path, settings))

    def batches(self, N: int, batch_size: int) -> Iterator[Tensor]:
        """The row numbers of each step that is left of the epoch, or of a new one."""
        if not len(self.order):
            order = _processes.from_first(torch.randperm(N).to(self.device)).cpu()
            self.order, self.means = order[: N - N % _processes.count()], _Means()
        for rows in torch.split(self.order, batch_size):
            self.order = self.order[len(rows) :]
            yield rows

    def descend(self, parts: dict[str, Tensor], rows: int) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()
        if isinstance(self.optimizer, AdamW):
            self._step_at_once(self.optimizer)
        else:
            nn.utils.clip_grad_norm_(self.model.parameters(), _LARGEST_NORM)
            self.optimizer.step()
            if self.averaged is not None:
                self.averaged.update_parameters(self.model)
        self.schedule.step()
        self.step += 1
        self.means.add(parts, rows)

    def _step_at_once(self, optimizer: AdamW) -> None:
        if self.averaged is not None:
            optimizer.share = _share(self.averaged, self.settings["average"])
            self.averaged.n_averaged += 1
        optimizer.step()

    def catch_up(self) -> None:
        """Brings up to date what a step leaves behind: rows of tables that it does not read, and the average's buffers."""
        if isinstance(self.optimizer, AdamW):
            self.optimizer.catch_up()
            for mean, value in zip(self.averaged.module.buffers(), self.model.buffers(), strict=True) if self.averaged is not None else ():
                mean.copy_(value)

    def end_epoch(self) -> dict[str, float]:
        """The means of the epoch, which may have been cut short: then they come into the history without ending it."""
        losses = self.means.values()
        if not math.isfinite(losses["loss"]):
            raise ValueError(f"loss: expected a finite value, got {losses['loss']} by step {self.step} (lr = {self.settings['lr']})")
        if self.valid is not None:
            losses["valid"] = self._score()
        self.history = [*self.history[: self.epoch], losses]
        self.epoch += not len(self.order)
        self.save()
        return losses

    def is_over(self) -> bool:
        """Whether the time is up, by the first process's clock."""
        if self.deadline == math.inf:
            return False
        return bool(_processes.from_first(torch.tensor(time.monotonic() >= self.deadline, device=self.device)))

    def is_stale(self) -> bool:
        return self.patience is not None and len(self.history) - self.best_epoch >= self.patience

    def _score(self) -> float:
        assert self.valid is not None
        self.catch_up()
        model = self.model if self.averaged is None else self.averaged.module
        score = math.nan
        if not _processes.rank():
            score = _validation_score(model, {name: v.to(self.device) for name, v in self.valid.items()})
        score = float(_processes.from_first(torch.tensor(score, dtype=torch.float64, device=self.device)))
        if score < self.best_score:
            self.best_score, self.best_epoch = score, self.epoch + 1
            self.best = [p.detach().clone() for p in model.parameters()]
        return score

    def finish(self) -> None:
        source = self.best or ([] if self.averaged is None else list(self.averaged.module.parameters()))
        with torch.no_grad():
            for p, value in zip(self.model.parameters(), source, strict=False):
                p.copy_(value)

    def save(self) -> None:
        if self.path is None:
            return
        state = self._state()
        if not _processes.rank():
            _checkpoint.save(self.path, state)

    def _state(self) -> dict[str, Any]:
        self.catch_up()
        return {
            "settings": self.settings,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "averaged": None if self.averaged is None else self.averaged.state_dict(),
            "random": torch.get_rng_state(),
            "random_of_device": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "step": self.step,
            "epoch": self.epoch,
            "order": self.order.clone(),
            "sums": self.means.over_processes(),
            "rows": self.means.rows,
            "history": self.history,
            "best": self.best,
            "best_score": self.best_score,
            "best_epoch": self.best_epoch,
        }

    def _load(self, state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.averaged is not None:
                self.averaged.load_state_dict(state["averaged"])
        except (RuntimeError, ValueError) as e:
            raise ValueError(f"checkpoint: expected the state of this model in {self.path}: {str(e).splitlines()[0]}") from e
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and state["random_of_device"] is not None:
            torch.cuda.set_rng_state(state["random_of_device"], self.device)
        self.step, self.epoch, self.order, self.history = state["step"], state["epoch"], state["order"], state["history"]
        self.best, self.best_score, self.best_epoch = state["best"], state["best_score"], state["best_epoch"]
        self.means.sums, self.means.rows = {name: v.to(self.device) for name, v in state["sums"].items()}, state["rows"]


def _check_tensors(name: str, rows: dict[str, Tensor]) -> None:
    for key, v in rows.items():
        if not isinstance(v, Tensor):
            raise TypeError(f"{name}[{key!r}]: expected a tensor (torch.from_numpy makes one of an array), got {type(v).__name__}")


def _prepared(model: Any, train: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the model reads of the rows, which it has seen, and whose labels are finite: losses do not read those on a GPU."""
    y = train["y"]
    if not len(y):
        raise ValueError("y: expected at least one training row, got none")
    bad = torch.nonzero(~torch.isfinite(y))[:1].flatten().tolist()
    if bad:
        raise ValueError(f"y: expected finite values, got {float(y[bad[0]])} at row {bad[0]}")
    keys = (*getattr(model, "batch_keys", train), "row_ids")
    train = {name: v for name, v in train.items() if name in keys}
    if _processes.are_grouped():
        train.setdefault("row_ids", torch.arange(len(y)))
    if hasattr(model, "prepare"):
        model.prepare(train)
    return model.precompute(train) if hasattr(model, "precompute") else train


@contextmanager
def _joint_means(model: Any) -> Iterator[None]:
    """Means over some of a batch's rows or tokens are those of all processes meanwhile."""
    if _processes.count() == 1:
        yield
        return
    before, model.means_over_processes = getattr(model, "means_over_processes", False), True
    try:
        yield
    finally:
        model.means_over_processes = before


def _optimizer(model: nn.Module, averaged: AveragedModel | None, settings: dict[str, Any]) -> torch.optim.Optimizer:
    """AdamW, with clipping and average in one pass where our kernels can, else in one pass over a parameter where torch can."""
    lr, weight_decay = settings["lr"], settings["weight_decay"]
    if AdamW.serves(model):
        means = [] if averaged is None else list(averaged.module.parameters())
        # DDP averages the gradients of whole tables.
        return AdamW(model, means, lr, weight_decay, _LARGEST_NORM, settings["batch_size"] if _processes.count() == 1 else None)
    fused = all(type(p) is nn.Parameter and p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in model.parameters())
    return torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay, fused=fused or None)


def _averaged(model: nn.Module, average: float) -> AveragedModel:
    """An exponential average of the parameters that starts with them, with a short memory: ``s / (s + 10)`` at step s."""

    def update(means: Parameters, parameters: Parameters, _: Tensor | int) -> None:
        torch._foreach_lerp_(list(means), list(parameters), _share(averaged, average))

    averaged = AveragedModel(model, multi_avg_fn=update)
    averaged.update_parameters(model)  # the first update copies the parameters and counts as one
    return averaged


def _share(averaged: AveragedModel, average: float) -> float:
    """Of the parameters in the next average."""
    step = int(averaged.n_averaged)  # on the host: no step waits for the device
    return 1 - min(average, step / (step + 10.0))


def _validation_score(model: Any, rows: dict[str, Tensor]) -> float:
    """The mean fair CRPS of 16 draws, or the mean absolute error of a model without draws."""
    y = rows["y"].double()
    if hasattr(model, "sample"):
        draws = model.sample({name: v for name, v in rows.items() if name != "y"}, 16).double()
        return float(ops.crps(draws, y, fair=True).mean())
    return float((model.predict(rows).double() - y).abs().mean())


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
        return {name: float(total) / self.rows for name, total in self.over_processes().items()}

    def over_processes(self) -> dict[str, Tensor]:
        """The sums, if each process had the same rows; called by all of them."""
        return {name: _processes.mean(total.clone()) for name, total in self.sums.items()}


def _progress_bar(steps: int, enabled: bool) -> AbstractContextManager[Any]:
    """A tqdm bar; None where tqdm is not installed."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return nullcontext()
    bar: AbstractContextManager[Any] = tqdm(total=steps, unit="step", leave=False, disable=not enabled)
    return bar
