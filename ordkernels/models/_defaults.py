"""What a constructor's arguments are that are left out: saved with a model, so that a later default changes none."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from ._encoders import EncoderConfig

__all__ = ["as_saved", "defaults"]

_FIRST = {"trunk_blocks": 2, "history_dropout": 0.2}  # of models in folders that do not say


def defaults(cls: type) -> dict[str, Any]:
    """Of the arguments of a model's class, and of the flags that its configurations' fields are."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    found = {p.name: p.default for p in parameters if p.default is not p.empty}
    for config in _configs(cls).values():
        found |= vars(config())
    return found


def as_saved(cls: type, arguments: Mapping[str, Any], saved: Mapping[str, Any] | None) -> dict[str, Any]:
    """The arguments of a saved model, with those among the defaults of its day (None: not known) that have changed since."""
    fixed = {f.name for name, config in _configs(cls).items() if name in arguments for f in dataclasses.fields(config)}
    now = defaults(cls)
    changed = {name: value for name, value in (_FIRST if saved is None else saved).items() if name in now and value != now[name]}
    return {name: value for name, value in changed.items() if name not in fixed} | dict(arguments)


def _configs(cls: type) -> dict[str, Any]:
    """The configurations' classes by the arguments that take them; of a class that takes flags alone, the encoder's."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    found = dict(_annotated(cls, parameters))
    takes_flags = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return found if found or not takes_flags else {"encoder_config": EncoderConfig}


def _annotated(cls: type, parameters: Any) -> Iterator[tuple[str, Any]]:
    names = vars(inspect.getmodule(cls))
    for p in parameters:
        config = names.get(str(p.annotation).split(" | ")[0].split(".")[-1])
        if p.name.endswith("_config") and dataclasses.is_dataclass(config):
            yield p.name, config
