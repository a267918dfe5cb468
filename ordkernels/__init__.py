"""Kernels and samplers for generative ordinal regression. Submodules load on first use; `import ordkernels` needs no torch."""

import importlib
from typing import TYPE_CHECKING, Any

from ._backend import available_backends, use_backend

if TYPE_CHECKING:
    from . import (  # noqa: F401
        data,
        diagnostics,
        metrics,
        models,
        nn,
        ops,
        quantiles,
        rng,
        samplers,
        schedules,
        scores,
        scores_grid,
        scores_stream,
        scoring_file,
        testing,
        vocabulary,
    )

__version__ = "0.1.0"
__all__ = [
    "__version__", "available_backends", "data", "diagnostics", "models", "nn", "ops", "quantiles", "rng", "samplers",
    "schedules", "scores", "scores_grid", "scores_stream", "scoring_file", "testing", "use_backend", "vocabulary",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in __all__ or name == "metrics":  # needs an optional extra, so `import *` leaves it out
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "metrics"])
