"""Constructor arguments that are grouped in dataclasses and may also be given as plain keywords ("flags")."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVarTuple

__all__ = ["reject_renamed", "reject_unknown", "with_flags"]

Configs = TypeVarTuple("Configs")


def with_flags(flags: Mapping[str, Any], *configs: *Configs, renamed: Mapping[str, str] | None = None) -> tuple[*Configs]:
    """The configs, each flag put in place of the field of its name: ``f(dropout=0.2)`` for ``f(Config(dropout=0.2))``.

    Args:
        flags: keywords; a field's name belongs to one config alone.
        configs: dataclass instances, left as they are.
        renamed: old spellings and the new ones.

    Raises:
        TypeError: a flag that no config has, with the names that they have, and an old spelling, with the new one.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Config:
        ...     width: int = 64
        >>> with_flags({"width": 8}, Config())
        (Config(width=8),)
        >>> with_flags({"depth": 8}, Config())
        Traceback (most recent call last):
        TypeError: depth: expected an argument or one of the flags width, got an unknown name
    """
    reject_renamed(flags, renamed or {})
    groups: tuple[Any, ...] = configs
    names = [{field.name for field in dataclasses.fields(config)} for config in groups]
    known: set[str] = set().union(*names)
    for flag in flags:
        if flag not in known:
            raise TypeError(f"{flag}: expected an argument or one of the flags {', '.join(sorted(known))}, got an unknown name")
    filled = [
        dataclasses.replace(config, **{flag: value for flag, value in flags.items() if flag in own})
        for config, own in zip(groups, names, strict=True)
    ]
    return tuple(filled)


def reject_renamed(flags: Mapping[str, Any], renamed: Mapping[str, str]) -> None:
    """``TypeError`` for a keyword by its old name, with the new one."""
    for old, new in renamed.items():
        if old in flags:
            raise TypeError(f"{old}: this argument is now called {new!r}")


def reject_unknown(flags: Mapping[str, Any], renamed: Mapping[str, str]) -> None:
    """``TypeError`` for every keyword: of a function that takes ``**renamed`` only to name the new spelling of old ones."""
    reject_renamed(flags, renamed)
    for flag in flags:
        raise TypeError(f"{flag}: got an unexpected keyword argument")
