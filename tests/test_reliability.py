"""RELIABILITY.md names tests that exist, for every promise."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "RELIABILITY.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def test_named_tests_exist() -> None:
    assert len(NAMED) > 20
    for file, name in NAMED:
        path = ROOT / file
        assert path.is_file(), file
        assert re.search(rf"^def {name}\(", path.read_text(), re.MULTILINE), f"{file}::{name}"


def test_every_promise_names_a_test() -> None:
    section = PAGE.split("\n## Promises\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| **")]
    assert len(rows) > 10
    assert all("`tests/" in row.split("|")[2] for row in rows)


def test_the_commands_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    commands = re.findall(r"^\| `make (\w+)`", PAGE, re.MULTILINE)
    assert commands == ["sanitize", "soak", "fuzz", "mutants"]
    assert all(f"\n{command}: " in makefile for command in commands)
