"""The README's Python blocks run as they stand, its op table is complete, and the generated documents agree with the results."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ordkernels

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.fixture(scope="module")
def table():
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        import table
    finally:
        sys.path.remove(str(ROOT / "bench"))
    return table


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.strip().splitlines()[0])
def test_python_blocks_run(block):
    if "kuairand()" in block and not (ROOT / "bench/data/kuairand_pure").is_dir():
        pytest.skip("the data is not part of this copy")
    exec(compile(block, "README.md", "exec"), {})


def test_commands_on_a_table_run(tmp_path):
    for package in ("narwhals", "safetensors", "sklearn", "pyarrow"):
        pytest.importorskip(package)
    import pyarrow as pa
    from pyarrow import parquet

    section = README.split("\n## From a table to calibrated predictions\n")[1].split("\n## ")[0]
    (block,) = re.findall(r"```bash\n(.*?)```", section, re.S)
    rng = np.random.default_rng(0)
    for month, start in (("may", 0), ("june", 31)):
        ids = {name: rng.integers(0, 9, 300) for name in ("user", "video")}
        when = np.datetime64("2024-05-01", "s") + (start + rng.integers(0, 30, 300)) * 86400
        parquet.write_table(pa.table({**ids, "when": when, "seconds": rng.gamma(2, 1 + ids["video"])}), tmp_path / f"{month}.parquet")
    for line in block.strip().splitlines():
        argv = [sys.executable, *shlex.split(line, comments=True)[1:]]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "predictions.csv").read_text().startswith("row,seconds,prediction,q0.05,q0.5,q0.95\n")
    assert "Calibration" in (tmp_path / "predictions.html").read_text()


def test_there_are_blocks():
    assert len(BLOCKS) == 4


def test_every_op_in_the_table_exists_and_every_op_is_there():
    section = README.split("\n## Ops\n")[1].split("\n## ")[0]
    named = set()
    for row in (line for line in section.splitlines() if line.startswith("| `")):
        names = re.findall(r"`([\w.]+)`", row.split("|")[1])
        module = names[0].split(".")[0]
        for name in names:
            full = name if "." in name else f"{module}.{name}"
            owner, attribute = full.split(".")
            assert hasattr(getattr(ordkernels, owner), attribute), full
            named.add(attribute)
    assert set(ordkernels.ops.__all__) - {"XAUCResult"} <= named


def test_every_class_in_the_table_of_models_exists():
    section = README.split("\n## Models\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 4
    for full in re.findall(r"`(\w+\.\w+)`", "".join(rows)):
        module, attribute = full.split(".")
        assert hasattr(getattr(ordkernels, module), attribute), full


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_it_fits():
    assert len(README.splitlines()) <= 200


def test_generated_documents_are_up_to_date(table):
    for path, text in table.documents().items():
        assert path.read_text() == text, f"{path.name}: run `python bench/table.py`"


def test_headline_commands_name_ops_that_have_cases(table):
    commands = re.findall(
        r"`(python -m ordkernels bench .*?)`", README.split(table.BEGIN.format("headline"))[1].split(table.END.format("headline"))[0]
    )
    assert len(commands) == len(table.HEADLINES) == 5
    for command in commands:
        assert (ROOT / "bench/cases" / f"{shlex.split(command)[-1]}.py").exists(), command


def test_printed_commands_paste(table):
    for document in ("RESULTS.md", "QUALITY.md"):
        commands = re.findall(r"^`(.*)`$", (ROOT / "bench" / document).read_text(), re.M)
        assert commands
        for command in commands:
            assert command == shlex.join(shlex.split(command))
            assert (ROOT / shlex.split(command)[1]).exists()
