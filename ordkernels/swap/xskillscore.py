"""xskillscore's ``crps_ensemble``: its own handling of dimensions, weights and attributes, around our `properscoring.crps_ensemble`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from . import properscoring as ours
from ._borrow import with_globals
from ._rules import Fallback, function


def _unless(original: Any) -> str | None:
    return None if "properscoring" in getattr(original, "__globals__", {}) else "it does not call properscoring"


@function("xskillscore.core.probabilistic.crps_ensemble", op="crps", unless=_unless)
def crps_ensemble(original: Any, *args: Any, **kwargs: Any) -> Any:
    theirs = original.__globals__["properscoring"].crps_ensemble
    reasons: list[str] = []

    def serve(*arrays: Any, **options: Any) -> Any:  # Dask calls it later: it has to have a result
        result = ours.crps_ensemble(getattr(theirs, "__wrapped__", theirs), *arrays, **options)
        if not isinstance(result, Fallback):
            return result
        reasons.append(result.reason)
        return theirs(*arrays, **options)

    result = with_globals(original, properscoring=SimpleNamespace(crps_ensemble=serve))(*args, **kwargs)
    return Fallback(reasons[0], result) if reasons else result
