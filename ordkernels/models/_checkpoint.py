"""Files that an interrupted training goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .._atomic import replacing

__all__ = ["load", "save"]

_FORMAT = 1


def save(path: Path, state: dict[str, Any]) -> None:
    """Whenever the process ends, `path` is the old state or the new one."""
    with replacing(path) as file:
        torch.save({"format": _FORMAT, **state}, file)


def load(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The state in a file of `save`, of a training with the same settings. No pickled code is run.

    Raises:
        ValueError: another file, a damaged one, one of a newer version, or of other settings, which are named.
    """
    with path.open("rb") as file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            known = state["format"]
        except Exception as e:  # what torch's unpickler makes of a damaged file can be anything
            reason = str(e).splitlines()[0] if str(e) else repr(e)
            raise ValueError(f"checkpoint: expected a file that fit wrote, got {path}: {reason}") from e
    if known != _FORMAT:
        raise ValueError(f"checkpoint: expected format {_FORMAT}, got {known} in {path}: it is of another version")
    for name, value in settings.items():
        if state["settings"].get(name) != value:
            raise ValueError(f"checkpoint: expected a training with {name} = {value!r}, got {state['settings'].get(name)!r} in {path}")
    found: dict[str, Any] = state
    return found
