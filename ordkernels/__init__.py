"""Fused operators and samplers for generative ordinal regression.

- `ops`: the operators, with gradients; `rng`: row-keyed noise; `use_backend`, `available_backends`: where they run
- `quantiles`, `vocabulary`, `scores`: the data side, on NumPy arrays without torch
- `nn`, `schedules`, `samplers`: building blocks; `models`: FlowTime, DiffoR, GR, iFusion and baselines, `models.fit`
- `metrics`: torchmetrics classes of all scores; `diagnostics`: the theory behind DiffoR and GR as measurements
- `Predictor`: predictions for many rows, arrays in and arrays out
- `data`: loaders of public data sets
- `swap_in`, `swap_out`: layers, schedulers and functions of other packages, replaced in place; `swap`: rules for more of them
- `adapters`: parts of this package as classes of Pyro and diffusers

Kernels compute in fp32 (fp64 stays fp64) and round once. NaN stays in its own row. The same seed and row id give the same draw on every
backend, in any batch. Errors name the argument, what was expected and what came. Submodules load on first use.
"""

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
        swap,
        testing,
        vocabulary,
    )
    from .scaling import Predictor  # noqa: F401
    from .swap import swap_in, swap_out  # noqa: F401

__version__ = "0.1.0"
__all__ = [
    "__version__", "available_backends", "data", "diagnostics", "models", "nn", "ops", "quantiles", "rng", "samplers",
    "schedules", "scores", "scores_grid", "scores_stream", "scoring_file", "swap", "testing", "use_backend", "vocabulary",
]  # fmt: skip

_FROM = {"Predictor": "scaling", "swap_in": "swap", "swap_out": "swap"}


def __getattr__(name: str) -> Any:
    if name in _FROM:
        return getattr(importlib.import_module(f"{__name__}.{_FROM[name]}"), name)
    if name in __all__ or name == "metrics":  # needs an optional extra, so `import *` leaves it out
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "metrics", *_FROM])
