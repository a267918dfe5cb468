"""What the commands' options share: their types, and how their help is laid out."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

__all__ = ["Help", "described", "number"]


class Help(argparse.RawDescriptionHelpFormatter):
    """Descriptions as they are written, options in one column."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=100)


def described(commands: Any, name: str, usage: str, line: str, description: str, example: str) -> argparse.ArgumentParser:
    """The parser of one command, with an example below its options."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, usage=f"python -m ordkernels {name} {usage}", help=line, description=description, formatter_class=Help, allow_abbrev=False,
        epilog="example:\n" + "\n".join(f"  python -m ordkernels {line}" for line in example.strip().splitlines()),
    )  # fmt: skip
    return parser


def number(kind: type, *, least: float | None = None, above: float | None = None, below: float | None = None) -> Callable[[str], Any]:
    """A number of an option, within its bounds."""
    bounds = [f"{word} {bound:g}" for word, bound in (("at least", least), ("above", above), ("below", below)) if bound is not None]
    expected = f"expected a {'whole ' if kind is int else ''}number " + " and ".join(bounds)

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = float("nan")
        inside = (least is None or value >= least) and (above is None or value > above) and (below is None or value < below)
        if not inside or value != value:
            raise argparse.ArgumentTypeError(f"{expected}, got {text!r}")
        return value

    return parse
