"""Too little memory is an error, in whatever thread of a kernel it shows, and leaves nothing behind: in a process that may take no more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ops", "data"])
def test_an_error_or_the_right_result(kind: str, native: None) -> None:
    paths = os.pathsep.join((str(HERE), str(HERE.parents[1])))
    # One arena: the others have address space in reserve, which no limit can take from them.
    environment = {**os.environ, "PYTHONPATH": paths, "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-W", "ignore", str(HERE / "out_of_memory.py"), kind]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-300:]}\n{done.stderr[-3000:]}"
    lines = done.stdout.splitlines()
    assert len(lines) > 20
    assert all(line.endswith(", right") for line in lines), done.stdout
    assert sum(": 0 errors" not in line for line in lines) > 8, done.stdout  # the limit was one
