"""A model in eval mode for as long as somebody samples from it."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["eval_mode"]

_LOCK = threading.Lock()
_USERS: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()  # model -> [users, was it training]


@contextmanager
def eval_mode(model: Any) -> Iterator[None]:
    """Eval mode inside. Of several threads, or nested calls, the first switches to it and the last restores the mode before."""
    with _LOCK:
        state = _USERS.setdefault(model, [0, False])
        if not state[0]:
            state[1] = model.training
        state[0] += 1
        model.train(False)
    try:
        yield
    finally:
        with _LOCK:
            state[0] -= 1
            if not state[0]:
                model.train(state[1])
