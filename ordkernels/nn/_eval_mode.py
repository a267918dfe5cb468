"""A model in eval mode for as long as somebody samples from it, and results that training may use."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor, nn

__all__ = ["eval_mode", "inference"]

P = ParamSpec("P")

_LOCK = threading.Lock()
_USERS: weakref.WeakKeyDictionary[Any, list[Any]] = weakref.WeakKeyDictionary()  # model -> [users, modes before]


@contextmanager
def eval_mode(model: Any) -> Iterator[None]:
    """Eval mode inside. Of several threads, or nested calls, the first switches to it and the last restores each module's mode before."""
    if torch.compiler.is_compiling():  # a lock cannot be traced; what a graph keeps of the mode is what it decided
        before = _switch(model)
        try:
            yield
        finally:
            _restore(model, before)
        return
    with _LOCK:
        state = _USERS.setdefault(model, [0, []])
        before = _switch(model)
        if not state[0]:
            state[1] = before
        state[0] += 1
    try:
        yield
    finally:
        with _LOCK:
            state[0] -= 1
            if not state[0]:
                _restore(model, state[1])
                state[1] = []  # holds the model, which would never be freed


def _switch(model: Any) -> list[tuple[Any, bool]]:
    """Into eval mode: all modules and their modes before, if any was training."""
    before = [(m, m.training) for m in (model.modules() if isinstance(model, nn.Module) else (model,))]
    if not any(mode for _, mode in before):
        return []
    model.train(False)
    return before


def _restore(model: Any, before: list[tuple[Any, bool]]) -> None:
    if before and before[0][1]:
        model.train(True)
    for module, mode in before:
        if module.training != mode:
            module.training = mode


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
