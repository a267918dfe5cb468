"""CONTRIBUTING.md's worked example runs as it stands, on its definition: its Python files, put into a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
FILES = dict(re.findall(r"^\*\*`([^`]+)`\*\*[^\n]*\n\n```\w+\n(.*?)^```", PAGE, re.S | re.M))
LIBRARY, EXPORTS = "ordkernels/_schemas.py", "ordkernels/ops/__init__.py"
CREATED = [name for name in FILES if name not in (LIBRARY, EXPORTS)]


def test_a_file_for_every_layer():
    (op,) = {Path(name).stem.removeprefix("test_") for name in CREATED}
    assert len(CREATED) == 7
    for name in CREATED:
        like = ROOT / name.replace(op, "crps")
        assert like.exists(), like


@pytest.mark.slow
@pytest.mark.registration
def test_the_worked_example_runs(tmp_path):
    shutil.copytree(ROOT / "ordkernels", tmp_path / "ordkernels", ignore=shutil.ignore_patterns("*.so", "__pycache__", "demo"))
    for name in ("tests/conftest.py", "pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in CREATED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(FILES[name])
    library = tmp_path / LIBRARY
    text, opening = library.read_text(), "SCHEMAS: dict[str, tuple[str, str | None]] = {\n"
    assert text.count(opening) == 1
    library.write_text(text.replace(opening, opening + FILES[LIBRARY]))
    exports = tmp_path / EXPORTS
    exports.write_text(exports.read_text() + FILES[EXPORTS])
    command = [sys.executable, "-m", "pytest", "-q", "tests", "--doctest-modules", "ordkernels/ops/expectile_loss.py"]
    env = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    command += ["-p", "no:cacheprovider", "-k", "reference or vmap or wrong or ordkernels"]
    run = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:]
    assert re.search(r"^2[0-9] passed", run.stdout.splitlines()[-1]), run.stdout[-500:]
