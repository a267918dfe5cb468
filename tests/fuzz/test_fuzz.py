"""Every public function under hostile arguments: a right value or the documented error, and nothing else.

`make fuzz` runs more examples, new ones each time. A failure prints the call and a line for `reproduce_failure`; with the same
``--hypothesis-seed`` (which `make fuzz` prints) it comes again.
"""

import importlib
import inspect

import pytest
from fuzz_checks import drawn, wrong_argument
from fuzz_table import TABLE
from hypothesis import given
from hypothesis import strategies as st

CASES = [pytest.param(entry, backend, id=f"{entry}-{backend}") for entry in TABLE for backend in entry.backends]
MODULES = (
    "ordkernels", "ordkernels.diagnostics", "ordkernels.metrics", "ordkernels.ops", "ordkernels.quantiles", "ordkernels.rng",
    "ordkernels.samplers", "ordkernels.schedules", "ordkernels.scores", "ordkernels.scores.grid", "ordkernels.scores.streaming",
    "ordkernels.vocabulary",
)  # fmt: skip
WITHOUT_ENTRY = {
    "Accumulator": "a base class, fuzzed through each accumulator",
    "DecoderWeights": "a tuple of weights, fuzzed through the decoder that makes it",
    "MLPWeights": "likewise",
    "SessionWeights": "likewise",
    "PDF": "another name of HistogramJSD",
    "Sampler": "a base class, fuzzed through each sampler",
    "gradient_conflict": "takes an autograd graph: tests/test_diagnostics.py",
    "ScoringModule": "a module to export, tested where it is served",
    "require_rows": "a check that other functions call",
}


@pytest.mark.parametrize(("entry", "backend"), CASES)
@given(data=st.data())
def test_right_value(entry, backend, data):
    call = drawn(entry, data)
    entry.check(entry, call, backend)


@pytest.mark.parametrize(("entry", "backend"), CASES)
@given(data=st.data())
def test_wrong_argument(entry, backend, data):
    wrong_argument(entry, data, backend)


def public_functions():
    for name in MODULES:
        module = importlib.import_module(name)
        for public in module.__all__:
            f = getattr(module, public)
            if inspect.isfunction(f) or (inspect.isclass(f) and not issubclass(f, tuple)):
                yield pytest.param(public, f, id=f"{name}.{public}")


@pytest.mark.parametrize(("public", "function"), list(public_functions()))
def test_every_public_function_has_an_entry(public, function):
    covered = any(entry.function is function or public in (*entry.covers.split("."), entry.function.__name__) for entry in TABLE)
    assert covered != (public in WITHOUT_ENTRY), f"{public}: expected a line in tests/fuzz/table_*.py, or a reason in WITHOUT_ENTRY"
