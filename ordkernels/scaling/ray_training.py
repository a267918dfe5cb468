"""Training by Ray Train: the processes of a torch.distributed group, on this machine or in a cluster. Needs ``ordkernels[ray]``.

In a cluster (RAY_ADDRESS) the table and the model's folder must be on storage that all machines share.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .ray_engine import ray_session

__all__ = ["run"]


def run(work: Callable[[Any], str], arguments: Any, shared: Path, workers: int | None = None) -> str:
    """What ``work(arguments)`` returns in the first of some processes, all of which call it as members of one process group.

    Args:
        work: a module's function.
        arguments: that can be pickled.
        shared: a folder on storage that all machines share, for the time of the training.
        workers: processes; None: as many as the CPUs allow.

    Raises:
        ImportError: Ray Train is not installed.
        TypeError, ValueError, OSError: of a worker.
        ChildProcessError: a worker has died, or failed otherwise.
    """
    with ray_session(workers, 1) as (_, most), tempfile.TemporaryDirectory(prefix=".ray-", dir=shared) as folder:
        try:
            train, train_torch = importlib.import_module("ray.train"), importlib.import_module("ray.train.torch")
        except ImportError as error:
            raise ImportError(f"--engine ray: expected Ray Train, got {error}: pip install 'ordkernels[ray]'") from error
        logging.getLogger("ray.train").setLevel(logging.ERROR)
        said = Path(folder, "said.txt")
        trainer = train_torch.TorchTrainer(
            _worker,
            train_loop_config={"work": work, "arguments": arguments, "said": str(said)},
            scaling_config=train.ScalingConfig(num_workers=most, resources_per_worker={"CPU": 1}),
            torch_config=train_torch.TorchConfig(backend="gloo"),
            run_config=train.RunConfig(storage_path=folder),
        )
        try:
            trainer.fit()
        except Exception as error:
            failures = getattr(error, "worker_failures", {})
            first = failures[min(failures)] if failures else error
            if isinstance(first, TypeError | ValueError | OSError):
                raise first from None
            raise ChildProcessError(f"--engine ray: a worker has failed: {type(first).__name__}: {first}") from error
        return said.read_text()


def _worker(config: dict[str, Any]) -> None:
    import torch

    text = config["work"](config["arguments"])
    if not torch.distributed.get_rank():
        Path(config["said"]).write_text(text)
