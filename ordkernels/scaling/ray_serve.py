"""The HTTP service as a Ray Serve deployment. Needs ``ordkernels[serve]`` and ``ray[serve]``.

>>> from ray import serve  # doctest: +SKIP
>>> from ordkernels.scaling.ray_serve import deployment  # doctest: +SKIP
>>> serve.run(deployment("model/", num_replicas=2), route_prefix="/")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

__all__ = ["deployment"]


def deployment(directory: str | os.PathLike[str], *, limits: Any = None, batch_size: int = 64, threads: int = 1, **options: Any) -> Any:
    """An application for ``ray.serve.run``, each of whose replicas is an `ordkernels.scaling.serve.Service`.

    Args:
        directory: of the saved model, on every machine with a replica.
        limits, batch_size, threads: of the service.
        options: of ``ray.serve.deployment``, as ``num_replicas``.

    Raises:
        ImportError: Ray Serve is not installed.
    """
    try:
        ray_serve = importlib.import_module("ray.serve")
    except ImportError as error:
        raise ImportError(f"deployment: expected Ray Serve, got {error}: pip install 'ordkernels[serve]' 'ray[serve]'") from error
    path = str(Path(directory).absolute())

    def app() -> Any:  # made on each replica
        from ordkernels.scaling.serve import Service

        return Service(path, limits=limits, batch_size=batch_size, threads=threads).app()

    return ray_serve.deployment(ray_serve.ingress(app)(), **{"name": "ordkernels", **options}).bind()
