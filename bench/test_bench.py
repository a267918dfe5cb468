"""The quick cases under pytest-benchmark: `pytest bench/test_bench.py`. Checked as in bench/run.py; not part of `make test`."""

import itertools
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
pytest.importorskip("pytest_benchmark")

import cases
import run as suite


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("op", cases.NAMES)
def test_case(op, index, benchmark):
    case = next(itertools.islice(cases.cases(op, "cpu", "quick"), index, None), None)
    if case is None:
        pytest.skip("the quick set has fewer cases")
    case.runs = {cases.OURS: case.runs[cases.OURS]}
    right, wrong = suite.check(case)
    assert cases.OURS in right, wrong
    benchmark.extra_info.update(case=case.name, bytes=case.bytes)
    benchmark(case.runs[cases.OURS])
