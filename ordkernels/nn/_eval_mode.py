"""A model in eval mode for as long as somebody samples from it, and results that training may use."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor

__all__ = ["eval_mode", "inference"]

P = ParamSpec("P")

_LOCK = threading.Lock()
_USERS: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()  # model -> [users, was it training]


@contextmanager
def eval_mode(model: Any) -> Iterator[None]:
    """Eval mode inside. Of several threads, or nested calls, the first switches to it and the last restores the mode before."""
    if torch.compiler.is_compiling():  # a lock cannot be traced; what a graph keeps of the mode is what it decided
        before = model.training
        model.train(False)
        try:
            yield
        finally:
            model.train(before)
        return
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


def inference(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """``torch.inference_mode`` for a function whose result may be used in training: an ordinary tensor, unless the caller is in it."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        if torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode():
            out = function(*args, **kwargs)
        return out.clone()  # autograd refuses to save tensors that inference mode has made

    return call
