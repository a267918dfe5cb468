"""A function of another package as it is, but for a name that it looks up: ours in place of its inner loop."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

__all__ = ["with_globals"]


def with_globals(original: Callable[..., Any], **names: Any) -> Callable[..., Any]:
    """The function's own code, seeing ``names``; its module is not touched, so other threads see nothing."""
    theirs: Any = original
    ours = types.FunctionType(theirs.__code__, {**theirs.__globals__, **names}, theirs.__name__, theirs.__defaults__, theirs.__closure__)
    ours.__kwdefaults__ = theirs.__kwdefaults__
    return ours
