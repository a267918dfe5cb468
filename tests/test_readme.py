"""The README's Python blocks run as they stand, and its op table tells the truth."""

import re
from pathlib import Path

import pytest

import ordkernels

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.strip().splitlines()[0])
def test_python_blocks_run(block):
    if "kuairand()" in block and not (ROOT / "bench/data/kuairand_pure").is_dir():
        pytest.skip("the data is not part of this copy")
    exec(compile(block, "README.md", "exec"), {})


def test_there_are_blocks():
    assert len(BLOCKS) == 3


def test_every_op_in_the_table_exists_and_every_op_is_there():
    rows = [line for line in README.splitlines() if line.startswith("| `")]
    named = set()
    for row in rows:
        names = re.findall(r"`([\w.]+)`", row.split("|")[1])
        module = names[0].split(".")[0]
        for name in names:
            full = name if "." in name else f"{module}.{name}"
            owner, attribute = full.split(".")
            assert hasattr(getattr(ordkernels, owner), attribute), full
            named.add(attribute)
    assert set(ordkernels.ops.__all__) - {"XAUCResult"} <= named


def test_bench_markers_for_the_table_maker():
    assert README.count("<!-- bench:begin -->") == README.count("<!-- bench:end -->") == 1
