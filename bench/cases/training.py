"""Whole training steps of the four models on random rows of KuaiRand, as `models.fit` takes them, and scoring with 32 draws a row.

A step is loss, backward, clipping, AdamW and the average of the weights. Baselines are the same models in plain torch: eager, and with
the loss compiled. The limit is that of the matrix products alone, of rows that are not padded, at the measured rate.
"""

import contextlib
import copy
import functools
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ordkernels import use_backend
from ordkernels._backend import forced_backend
from ordkernels.data import kuairand_sessions, n_ids
from ordkernels.models import DiffoR, FlowTime, GenerativeRegression, IFusion, fit
from ordkernels.models._adamw import AdamW

from . import OURS, Case, Run, Scaling, Size, Target, compiled

Rows = dict[str, Tensor]
BATCHES: dict[Size, tuple[int, ...]] = {"tiny": (6,), "quick": (256,), "full": (256, 1024)}
TRAINED_ROWS: dict[Size, int] = {"tiny": 64, "quick": 2048, "full": 16384}  # before scoring: how many tokens GR writes depends on it
SECONDS_TO_COMPILE = 300
COUNTED_ROWS = 32  # whose matrix products are counted
DRAWS = 32
SMALL_RATE = 1e-12  # of learning


@dataclass
class Subject:
    """A model: how it is made of (users, items, columns), and how many times as fast as plain torch a step and scoring should be."""

    make: Callable[..., Any]
    step: dict[int, float]  # rows of a batch -> factor
    score: float
    sequences: bool = False


SUBJECTS = {
    "FlowTime": Subject(FlowTime, {256: 3.0, 1024: 3.0}, 1.0),
    "DiffoR": Subject(DiffoR, {256: 2.4, 1024: 2.4}, 5.0),
    "DiffoR, Transformer": Subject(functools.partial(DiffoR, denoiser="transformer"), {256: 3.0, 1024: 3.0}, 1.0),
    "GR": Subject(functools.partial(GenerativeRegression, omega=60.0), {256: 3.0, 1024: 4.0}, 1.0),
    "iFusion": Subject(functools.partial(IFusion, long=20, **IFusion.chain_loss()), {256: 4.0, 1024: 4.0}, 4.0, sequences=True),
}


def cases(device: str, size: Size) -> Iterator[Case]:
    for name in SUBJECTS:
        model, train, test = _prepared(name, device, size)
        for B in BATCHES[size]:
            yield _training(name, model, _some(train, B), size)
        fit(model, {k: v for k, v in _some(train, TRAINED_ROWS[size]).items() if k != "row_ids"}, epochs=1, batch_size=256, progress=False)
        for B in BATCHES[size]:
            yield _scoring(name, model, _some(test, B))
    yield _many_users(device, size)


def scalings(device: str, size: Size) -> Iterator[Scaling]:
    for name in SUBJECTS:
        model, train, _ = _prepared(name, device, size)
        sizes = tuple(2**n for n in range(2 if size == "tiny" else 6, {"tiny": 4, "quick": 10, "full": 12}[size]))
        yield Scaling("training", f"{name}, training step", "B", sizes, lambda B, m=model, t=train: _step(m, _some(t, B)), float)  # type: ignore[misc]


@functools.cache
def _data() -> tuple[Rows, Rows]:
    return kuairand_sessions(None)


def _prepared(name: str, device: str, size: Size) -> tuple[Any, Rows, Rows]:
    """The model before training, and both splits as it reads them."""
    subject, (train, test) = SUBJECTS[name], _data()
    users, items = n_ids(train, test) if subject.sequences else n_ids(*({k: part[k] for k in ("user", "item")} for part in (train, test)))
    torch.manual_seed(0)
    model = subject.make(users, items, train["dense"].shape[1]).to(device)
    train, test = ({k: v[:4000] if size == "tiny" else v for k, v in part.items() if k in model.batch_keys} for part in (train, test))
    model.prepare(train)
    return model, *({k: v.to(device) for k, v in part.items()} for part in (model.precompute(train), test))


def _some(rows: Rows, B: int) -> Rows:
    """B random rows; the first ones of the log are cold."""
    at = torch.randperm(len(rows["y"]), generator=torch.Generator().manual_seed(1))[:B]
    return {k: v[at.to(v.device)] for k, v in rows.items()}


# --------------------------------------------------------------------------------------------------------- training


def _training(name: str, model: Any, batch: Rows, size: Size) -> Case:
    B = len(batch["y"])
    models = {run: copy.deepcopy(model).train() for run in (OURS, "eager")}
    runs = {OURS: _step(models[OURS], batch), "eager": _plain(_step(models["eager"], batch))}
    both: dict[str, Callable[[Run], Run]] = {"compile": _plain, "ordkernels, compiled": lambda step: step}
    for run, wrap in both.items() if size != "tiny" and max(BATCHES[size]) == B else ():  # one batch size: a loss takes a minute
        models[run] = copy.deepcopy(model).train()
        runs[run] = _compiled_in_time(wrap(_step(models[run], batch, compiled(models[run].loss))))
    factor = SUBJECTS[name].step.get(B)
    targets = [Target(f"{factor:g}x plain torch", "eager", factor)] if factor else []
    if "compile" in runs:
        targets.append(Target("1.5x its compiled loss", "compile", 1.5))
    if size == "full":
        targets.append(Target("no more memory than plain torch", "memory", 1.0))
    # Of a copy that no step is made with: GR counts them, and what it mixes up depends on the count.
    untouched = copy.deepcopy(model)
    outputs = {run: _without_dropout(untouched, batch, run in ("eager", "compile")) for run in runs}
    expected = _without_dropout(_double(model), _as_double(batch), plain=True)
    return Case(
        "training", f"{name}, step B={B}", runs, lambda: expected(None), 1e-3, bytes=_parameter_bytes(model),
        flops=_training_flops(model, batch), targets=targets, context=("ordkernels, compiled",), outputs=outputs,
        device=batch["y"].device.type,
    )  # fmt: skip


def _many_users(device: str, size: Size) -> Case:
    """A model whose table of users is far larger than all else; each is read again after 64 steps."""
    users, B = {"tiny": 2**10, "quick": 2**18, "full": 2**22}[size], max(BATCHES[size])
    _, train, _ = _prepared("FlowTime", device, size)
    torch.manual_seed(0)
    model = FlowTime(users, int(train["item"].max()) + 1, train["dense"].shape[1]).to(device)
    model.prepare({k: v.cpu() for k, v in train.items()})
    batch = _some(train, B) | {"user": torch.arange(B, device=device)}
    models = {run: copy.deepcopy(model) for run in (OURS, "eager")}

    def in_turn(run: str) -> Run:
        own = batch | {"user": batch["user"].clone()}
        step = _step(models[run], own)

        def call() -> Any:
            own["user"].add_(B).remainder_(64 * B)
            return step()

        return call

    return Case(
        "training", f"FlowTime, step B={B}, users={users}", {OURS: in_turn(OURS), "eager": _plain(in_turn("eager"))},
        lambda: _without_dropout(_double(model), _as_double(batch), plain=True)(None), 1e-3, bytes=_parameter_bytes(model),
        flops=_training_flops(model, batch), outputs={run: _without_dropout(model, batch, run == "eager") for run in (OURS, "eager")},
        device=device,
    )  # fmt: skip


def _step(model: Any, batch: Rows, loss: Callable[[Rows], Any] | None = None) -> Run:
    """A step that all but leaves the weights as they are. In plain torch each part is the fastest of its kind."""
    model.train()
    parameters = list(model.parameters())
    average = [p.detach().clone() for p in parameters]
    plain = torch.optim.AdamW(parameters, lr=SMALL_RATE, weight_decay=0.1, fused=True)
    ours = AdamW(model, average, SMALL_RATE, 0.1, 5.0, len(batch["y"])) if AdamW.serves(model) else None
    loss = loss or model.loss

    def gradients() -> Tensor:
        plain.zero_grad(set_to_none=True)
        total: Tensor = loss(batch)["loss"]
        total.backward()  # type: ignore[no-untyped-call]
        return total.detach()

    def run() -> Tensor:
        if ours is not None and forced_backend() != "reference":
            ours.__enter__()  # and never out: between steps tables stay behind, as in a training
            total = gradients()
            ours.share = 0.01
            ours.step()
            return total
        total = gradients()
        nn.utils.clip_grad_norm_(parameters, 5.0)
        plain.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 0.01)
        return total

    return run


def _compiled_in_time(step: Run) -> Run:
    """What compiles at its first two calls: they are made when its results are checked, and a step that takes too long is not timed."""
    ready = False

    def run() -> Any:
        nonlocal ready
        if not ready:
            with _time_limit(SECONDS_TO_COMPILE):
                step()
                step()
            ready = True
        return step()

    return run


def _plain(run: Run) -> Run:
    def call() -> Any:
        with use_backend("reference"):
            return run()

    return call


def _without_dropout(model: Any, batch: Rows, plain: bool) -> Callable[[Any], tuple[Tensor, ...]]:
    """Loss and norm of the gradients on the batch, with noise that belongs to the rows: what the backends have to agree in."""

    def values(_: Any) -> tuple[Tensor, ...]:
        training, rows = model.training, batch | {"row_ids": torch.arange(len(batch["y"]), device=batch["y"].device)}
        model.eval()
        torch.manual_seed(3)
        with use_backend("reference") if plain else contextlib.nullcontext():
            loss = model.loss(rows)["loss"]
            gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        model.train(training)
        return loss.detach(), torch.stack([g.double().square().sum() for g in gradients if g is not None]).sum().sqrt()

    return values


def _double(model: Any) -> Any:
    return copy.deepcopy(model).double()


def _as_double(batch: Rows) -> Rows:
    return {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}


def _parameter_bytes(model: Any) -> int:
    """Gradients, moments, weights and their average, each read and written."""
    return sum(10 * p.numel() * p.element_size() for p in model.parameters())


def _training_flops(model: Any, batch: Rows) -> float:
    model = copy.deepcopy(model).train()
    return _useful_flops(batch, lambda row: model.loss(row)["loss"].backward())


def _useful_flops(rows: Rows, run: Callable[[Rows], Any]) -> float:
    """Of the matrix products of a run of plain torch, each row by itself without padding."""
    N = len(next(iter(rows.values())))
    counted = range(min(COUNTED_ROWS, N))
    with FlopCounterMode(display=False) as counter, use_backend("reference"):
        for i in counted:
            run(_unpadded({k: v[i : i + 1] for k, v in rows.items()}))
    return float(counter.get_total_flops()) / len(counted) * N


def _unpadded(row: Rows) -> Rows:
    if "sessions" not in row:
        return row
    items, length = row["sessions"][0] > 0, int((row["long"] > 0).sum())
    P, S = max(int(items.any(1).sum()), 1), max(int(items.sum(1).max()), 1)
    return row | {"long": row["long"][:, : max(length, 1)], **{k: row[k][:, -P:, :S] for k in ("sessions", "feedback")}}


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TimeoutError(f"not compiled in {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)  # again, where the compiler went on without a part
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---------------------------------------------------------------------------------------------------------- scoring


def _scoring(name: str, model: Any, x: Rows) -> Case:
    B, device = len(x["y"]), x["y"].device
    ids = torch.arange(B, device=device)
    x = {k: v for k, v in x.items() if k not in ("y", "click")}

    def score(m: Any, rows: Rows) -> Run:
        return lambda: m.predict(rows, n=DRAWS, row_ids=ids)

    runs = {OURS: score(model, x), "eager": _plain(score(model, x))}
    expected = _plain(score(_double(model), _as_double(x)))
    # GR's plain decoding has no cache: what it multiplies says little.
    flops = 0.0 if name == "GR" else _useful_flops(x, lambda row: model.predict(row, n=DRAWS, row_ids=ids[:1]))
    targets = [Target(f"{SUBJECTS[name].score:g}x plain torch", "eager", SUBJECTS[name].score)] if B in (256, 1024) else []
    outputs = dict.fromkeys(runs, lambda y: (y.double().mean(),))  # of a row a draw may round to another token
    return Case(
        "training", f"{name}, scoring, {DRAWS} draws B={B}", runs, lambda: (expected().mean(),), 1e-3,
        bytes=sum(v.numel() * v.element_size() for v in x.values()), flops=flops, targets=targets, outputs=outputs, device=device.type,
    )  # fmt: skip
