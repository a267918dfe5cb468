"""The objects below a model that a rule may be for."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributions import Distribution, Transform

__all__ = ["Selection", "selection", "walk"]

Selection = str | type | list[Any] | tuple[Any, ...] | None

_TORCH_STATE = {name for name, value in vars(nn.Module()).items() if isinstance(value, dict)}  # parameters, buffers, hooks


def walk(root: Any, visit: Callable[[str, Any], bool]) -> None:
    """Call ``visit(path, object)`` for the root (path "") and what is below; descend where it returns True."""
    seen: set[int] = set()

    def go(path: str, obj: Any) -> None:
        if id(obj) in seen:
            return
        seen.add(id(obj))
        if visit(path, obj):
            for name, child in list(_children(obj, obj is root)):
                go(f"{path}.{name}" if path else name, child)

    go("", root)


def _children(obj: Any, is_root: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(obj, nn.Module):
        yield from ((name, child) for name, child in obj._modules.items() if child is not None)
    if isinstance(obj, Mapping):
        items: Iterator[tuple[Any, Any]] = iter(obj.items())
    elif isinstance(obj, (list, tuple)):
        items = iter(enumerate(obj))
    elif is_root or isinstance(obj, (nn.Module, Transform, Distribution)):
        items = ((name, value) for name, value in getattr(obj, "__dict__", {}).items() if name not in _TORCH_STATE)
    else:
        return
    for key, value in items:
        plain = type(value).__module__ == "builtins" and not isinstance(value, (list, tuple, dict))
        if not plain and not isinstance(value, Tensor):
            yield str(key), value


def selection(name: str, value: Selection) -> Callable[[str, Any], bool] | None:
    """A test of (path, object) from patterns (``flows.*``) and classes; None for None."""
    if value is None:
        return None
    chosen = list(value) if isinstance(value, (list, tuple)) else [value]
    for one in chosen:
        if not isinstance(one, (str, type)):
            raise TypeError(f"{name}: expected a pattern of paths, a class, or a list of them, got {one!r}")
    return lambda path, obj: any(fnmatch.fnmatchcase(path, c) if isinstance(c, str) else isinstance(obj, c) for c in chosen)
