"""The engine of Ray Data: a pool of actors, each with the model, that Ray restarts when they die. Needs ``ordkernels[ray]``.

In a cluster (RAY_ADDRESS) the folders of model, table and parts must be on storage that all machines share.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from ._workers import PartWorker, located, raise_first, spans
from .parts import PartFolder, PartScorer

__all__ = ["ray_session", "run"]


class _Actor:
    """Columns of part numbers to a column of what went wrong."""

    def __init__(self, *arguments: Any) -> None:
        self._worker = PartWorker(*arguments)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        errors = [self._worker.make(int(begin), int(end)) for begin, end in zip(batch["begin"], batch["end"], strict=True)]
        return {"error": np.array(errors)}


def run(folder: PartFolder, scorer: PartScorer, workers: int | None = None) -> None:
    """Fills in the parts that are not there.

    Args:
        folder: opened with its job.
        scorer: of the same job; its threads are each worker's.
        workers: actors; None: as many as the CPUs allow.

    Raises:
        ImportError: Ray is not installed.
        TypeError, ValueError: what a worker has found wrong with the table.
    """
    threads = scorer.predictor.threads
    with ray_session(workers, threads) as (ray, most):
        tasks = spans(folder.missing(), most)
        if not tasks:
            return
        rows = ray.data.from_items([{"begin": begin, "end": end} for begin, end in tasks], override_num_blocks=len(tasks))
        pool = ray.data.ActorPoolStrategy(size=min(most, len(tasks)))
        # Ray Data restarts actors that die and gives their tasks to others, without end
        results = rows.map_batches(_Actor, fn_constructor_args=(*located(folder), threads), batch_size=1, compute=pool, num_cpus=threads)
        raise_first([row["error"] for row in results.take_all()])  # all: Ray ends badly while tasks are under way


@contextlib.contextmanager
def ray_session(workers: int | None, threads: int) -> Iterator[tuple[Any, int]]:
    """Ray and how many workers it has room for: a running one, that of RAY_ADDRESS, or one of this machine, which ends with the block.

    Args:
        workers: None: as many as there is room for.
        threads: CPUs of a worker.
    """
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise ImportError(f"--engine ray: expected Ray, got {error}. It is an optional extra: pip install 'ordkernels[ray]'") from error
    started = not ray.is_initialized()
    if started and os.environ.get("RAY_ADDRESS"):
        ray.init(log_to_driver=False)
    elif started:  # logical CPUs: besides the workers Ray has tasks of its own, which must not wait for them for ever
        workers = workers or max(1, (os.cpu_count() or 1) // threads)
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        ray.init(num_cpus=workers * threads + 2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        room = int(ray.cluster_resources().get("CPU", 1) - 1) // threads
        if room < 1:
            raise ValueError(f"--threads: expected at most {int(ray.cluster_resources().get('CPU', 1)) - 1} CPUs of Ray, got {threads}")
        yield ray, min(workers or room, room)
    finally:
        if started:
            ray.shutdown()
