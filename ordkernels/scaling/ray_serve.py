"""The service of `ordkernels.scaling.serve` as a Ray Serve deployment. Needs ``ordkernels[serve]`` and ``ray[serve]``.

>>> from ray import serve  # doctest: +SKIP
>>> from ordkernels.scaling.ray_serve import deployment  # doctest: +SKIP
>>> serve.run(deployment("model/", num_replicas=2))  # doctest: +SKIP

Then POST /predict, GET /health, /metrics and /docs as with ``python -m ordkernels serve``, and the same bytes.
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

__all__ = ["deployment"]


def deployment(directory: str | os.PathLike[str], *, limits: Any = None, batch_size: int = 128, threads: int = 1, **options: Any) -> Any:
    """An application for ``ray.serve.run``, each of whose replicas is a `ordkernels.scaling.serve.Service`.

    Each replica batches its own requests; limits on connections and on the time that headers take are those of Ray's proxy.

    Args:
        directory: of the saved model, on every machine with a replica.
        limits: `ordkernels.scaling.serve.Limits` of a replica.
        batch_size: of its `Predictor`.
        threads: of its `Predictor`.
        options: of ``ray.serve.deployment``, as ``num_replicas`` and ``max_ongoing_requests``.

    Raises:
        ImportError: Ray Serve is not installed.
        ValueError: no such directory here.
    """
    try:
        ray_serve = importlib.import_module("ray.serve")
    except ImportError as error:
        raise ImportError(f"deployment: expected Ray Serve, got {error}: pip install 'ordkernels[serve]' 'ray[serve]'") from error
    path = Path(directory).absolute()
    if not path.is_dir():
        raise ValueError(f"directory: expected the folder of a saved model, got {path}")

    def app() -> Any:  # made by each replica
        from .serve import Service

        return Service(path, limits=limits, batch_size=batch_size, threads=threads).app()

    defaults = {"name": "ordkernels", "max_ongoing_requests": 256, "ray_actor_options": {"num_cpus": threads}}
    return ray_serve.deployment(ray_serve.ingress(app)(), **{**defaults, **options}).bind()
