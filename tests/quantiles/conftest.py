"""What the tests of the quantiles share: both backends, and memory that is never zero by accident."""

import numpy as np
import pytest
from quantile_cases import BACKENDS

from ordkernels import use_backend


@pytest.fixture(params=BACKENDS)
def backend(request):
    with use_backend(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def nan_memory(monkeypatch):
    """What NumPy leaves uninitialised is NaN, for the reference; the compiled kernels: test_every_instruction_set."""
    empty = np.empty

    def filled(*args, **kwargs):
        out = empty(*args, **kwargs)
        if out.dtype.kind == "f":
            out.fill(np.nan)
        return out

    monkeypatch.setattr(np, "empty", filled)
