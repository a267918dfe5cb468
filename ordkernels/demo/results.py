"""One model's result: computed once, saved under a key of all that it depends on, reused by later runs."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import re
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from .. import __version__, _info
from .evaluation import calibration, click_auc, evaluate, inputs, shares_of_users
from .models import Entry
from .speed import measure
from .tasks import Task

__all__ = ["Result", "file_of", "fingerprint", "make", "settings"]

Result = dict[str, Any]  # status: "done", "skipped" or "failed", the last two with a reason
_PIP = {"sklearn": "scikit-learn"}


def settings(entry: Entry, task: Task, data: str, code: str) -> dict[str, Any]:
    """All that a result depends on; a change of any of it is a new result."""
    budget = entry.quick if task.quick else entry.full
    return {
        "model": entry.key, "data": task.name, "data_sha256": data, "code_sha256": code, "seed": task.seed, "quick": task.quick,
        **budget._asdict(), "draws": task.draws, "threads": torch.get_num_threads(), "isa": _info.isa_in_use(), "torch": torch.__version__,
    }  # fmt: skip


def fingerprint(task: Task) -> tuple[str, str]:
    """Hashes of the data, and of this package's code, compiled parts included."""
    data, code = hashlib.sha256(), hashlib.sha256(__version__.encode())
    for split in (task.train, task.test):
        for name in sorted(split):
            data.update(f"{name} {tuple(split[name].shape)} {split[name].dtype}".encode())
            data.update(split[name].contiguous().numpy().data)
    root = Path(__file__).resolve().parents[1]
    for path in sorted(p for pattern in ("*.py", "*.so") for p in root.rglob(pattern)):
        code.update(str(path.relative_to(root)).encode() + b"\0")
        code.update(path.read_bytes())
    return data.hexdigest()[:16], code.hexdigest()[:16]


def file_of(folder: Path, run_settings: dict[str, Any]) -> Path:
    """Where the result of these settings is saved."""
    key = hashlib.sha256(json.dumps(run_settings, sort_keys=True).encode()).hexdigest()[:12]
    return folder / f"{run_settings['model']}-{key}.json"


def make(entry: Entry, task: Task, folder: Path, run_settings: dict[str, Any], fresh: bool) -> Result:
    """The saved result of the settings ``run_settings``, or a new one, saved at once.

    Never raises because of a model: a failure is a result with its traceback in a file of its own, and the next run tries again.
    """
    file = file_of(folder, run_settings)
    base: Result = {"name": entry.name, "settings": run_settings}
    saved = None if fresh else _saved(file)
    if saved is not None:
        return {**saved, "reused": True}
    if entry.needs and importlib.util.find_spec(entry.needs) is None:
        package = _PIP.get(entry.needs, entry.needs)
        return {**base, "status": "skipped", "reason": f"{package} is not installed (pip install {package})"}
    log = folder / f"{entry.key}-failed.txt"
    try:
        result = {**base, **_train_and_score(entry, task)}
        model = result.pop("model")
        _save(file, result)  # before the timing, which may fail
        result["speed"] = _speed(entry, task, model)
    except Exception as error:
        folder.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc())
        return {**base, "status": "failed", "reason": f"{type(error).__name__}: {_first_line(error)} ({log})"}
    _save(file, result)
    log.unlink(missing_ok=True)
    return result


def _saved(file: Path) -> Result | None:
    """A result that an earlier run saved; None: there is none, or the file holds something else."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):  # none, truncated, nested without end
        return None
    complete = isinstance(found, dict) and found.get("status") == "done" and isinstance(found.get("scores"), dict)
    return found if complete else None


def _train_and_score(entry: Entry, task: Task) -> Result:
    budget = entry.quick if task.quick else entry.full
    subset = task.every(budget.every)
    with torch.random.fork_rng(devices=[]):  # no model's numbers depend on which others ran
        torch.manual_seed(task.seed)
        began = time.perf_counter()
        model = entry.train(subset, budget)
        trained = time.perf_counter()
        if entry.draws:
            scores = evaluate(
                task.train,
                task.test,
                predict=None if entry.point is None else functools.partial(entry.point, model),
                draw=lambda rows: model.sample(inputs(rows), task.draws, task.seed, row_ids=rows["row"]),
            )
        else:
            scores = evaluate(task.train, task.test, predict=model.predict)
    result: Result = {
        "status": "done",
        "scores": scores.numbers,
        "intervals": scores.intervals,
        "train_s": round(trained - began, 3),
        "train_ms_per_1000_rows": round((trained - began) * 1e6 / len(task.train["y"]), 3),
        "score_ms_per_1000_rows": round(scores.seconds * 1e6 / len(task.test["y"]), 3),
        "model": model,
    }
    if entry.clicks is not None:
        result["click_auc"] = click_auc(task.test, functools.partial(entry.clicks, model))
    if scores.draws is not None:
        result["calibration"] = calibration(task.test["y"], scores.draws)
        if task.grouped:
            result["users"] = shares_of_users(task.test, scores.draws)
    return result


def _speed(entry: Entry, task: Task, model: Any) -> list[dict[str, Any]] | str:
    """Times of a generative model; a text says why where it could not be measured."""
    if not entry.draws or not hasattr(model, "loss"):
        return []
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(task.seed)
            return measure(model, task.train, task.test, seconds=1.0 if task.quick else 4.0)
    except Exception as error:
        return f"{type(error).__name__}: {_first_line(error)}"


def _save(file: Path, result: Result) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(file)  # atomic


def _first_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()[:200]
