"""The swap itself: another class for an object, another function in every module that holds it; and back.

An object keeps its identity, its attributes and its parameters. Only its ``__class__`` becomes a subclass of what it was, which
bears the same name. So hooks, ``isinstance``, ``state_dict``, train and eval mode are as before, and torch.compile sees another
type. ``copy.deepcopy`` of a swapped object is swapped; its pickle is the original and loads without this package.
"""

from __future__ import annotations

import copy
import copyreg
import functools
import inspect
import logging
import sys
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Proxy

from ._report import SwapError, Swapped
from ._rules import Fallback, FunctionRule, Rule, match
from ._verify import can_verify, verify_function, verify_method

__all__ = ["PATCHES", "Patch", "adopt", "install", "is_swapped", "original", "patch", "uninstall"]

_LOG = logging.getLogger("ordkernels")
_MISSING = object()


@dataclass
class _Record:
    """What a swapped object carries: its row of the report, and which methods are still to be verified."""

    rule: Rule
    row: Swapped
    pending: set[str]
    verify: bool
    saved: dict[str, Any] = field(default_factory=dict)  # attributes that the swap replaced
    pending_of_made: set[str] | None = None  # the same as pending, of all objects that this one makes; None: it has made none
    made: weakref.WeakValueDictionary[int, Any] = field(default_factory=weakref.WeakValueDictionary)  # those, by id
    maker: weakref.ref[Any] | None = None  # the swapped object that has made this one

    def call(self, obj: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name in self.pending and can_verify(obj, args, kwargs) and not self._beyond(name, args, kwargs):
            self._verify(obj, name, args, kwargs)
        result = self.rule.methods[name](obj, *args, **kwargs)
        if isinstance(result, Fallback):
            self.row.fallbacks[result.reason] = self.row.fallbacks.get(result.reason, 0) + 1
            return getattr(original(obj), name)(*args, **kwargs)
        self.row.calls += 1
        return result

    def _beyond(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        try:
            bound = inspect.signature(self.rule.methods[name]).bind(None, *args, **kwargs)
        except TypeError:  # the call's own error
            return True
        return self.rule.beyond(bound.arguments)

    def _verify(self, obj: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        def swap(clone: Any) -> None:
            clone.__class__ = type(obj)

        self.row.device = next((t.device.type for t in (*args, *kwargs.values()) if isinstance(t, torch.Tensor)), self.row.device)
        verdicts = verify_method(obj, self.rule, name, _original_class(type(obj)), swap, args, kwargs)
        if isinstance(verdicts, str):
            if verdicts:
                self.pending.discard(name)
                self.row.notes.append(verdicts)
            return
        self.pending.discard(name)
        outputs, gradients = verdicts
        self.row.verified.append(name)
        self.row.notes += outputs.notes + gradients.notes
        self.row.max_error = _larger(self.row.max_error, outputs.error)
        self.row.max_gradient_error = _larger(self.row.max_gradient_error, gradients.error)
        failures = outputs.failures + gradients.failures
        if failures:
            maker = self.maker() if self.maker else None
            uninstall(obj if maker is None else maker)
            where = f"{self.row.path or '(model)'}: {self.row.original}.{name}"
            raise SwapError(f"{where} by ops.{self.row.op}: {'; '.join(failures)}. Its swap is undone.")


def _larger(a: float | None, b: float | None) -> float | None:
    return b if a is None else a if b is None else max(a, b)


# --- objects


def is_swapped(obj: Any) -> bool:
    return "_swap_original" in vars(type(obj))


def _original_class(swapped: Any) -> Any:
    """Of a swapped class, or of one that another tool derived from it."""
    return next(vars(c)["_swap_original"] for c in swapped.__mro__ if "_swap_original" in vars(c))


def install(obj: Any, rule: Rule, row: Swapped, verify: bool) -> None:
    """Make the object one of ours."""
    methods = {name for name in rule.checked_methods if hasattr(type(obj), name)}
    _enter(obj, _swapped_class(type(obj), rule), _Record(rule, row, methods if verify else set(), verify))
    _LOG.info("swap_in: %s (%s) -> ops.%s on %s", row.path or "(model)", row.original, row.op, row.backend)


def adopt(parent: Any, child: Any) -> Any:
    """The child that a swapped object has made, swapped, counted in the parent's row."""
    found = match(child)
    record = vars(parent).get("_swap_record")
    if found is None or is_swapped(child):
        return child
    rule = found[0]
    child.__class__ = _swapped_class(type(child), rule)
    if record is not None:
        if record.pending_of_made is None:
            record.pending_of_made = set(rule.checked_methods) if record.verify else set()
        vars(child)["_swap_record"] = _Record(rule, record.row, record.pending_of_made, record.verify, maker=weakref.ref(parent))
        record.made[id(child)] = child
    return child


def _enter(obj: Any, cls: type, record: _Record) -> None:
    obj.__class__ = cls
    vars(obj)["_swap_record"] = record
    for name, make in record.rule.attributes.items():
        record.saved[name] = vars(obj).get(name, _MISSING)
        vars(obj)[name] = make(obj)


def uninstall(obj: Any, row: Swapped | None = None) -> bool:
    """Restore the object; was it swapped (by the swap of that row, if one is given)?"""
    if row is not None and getattr(vars(obj).get("_swap_record"), "row", None) is not row:
        return False
    if not is_swapped(obj):
        if hasattr(type(obj), "_swap_original"):
            raise RuntimeError(f"{type(obj).__name__}: another tool has derived a class from the swapped one; undo that first")
        return False
    record = vars(obj).pop("_swap_record", None)
    obj.__class__ = vars(type(obj))["_swap_original"]
    for child in list(record.made.values()) if record else ():
        uninstall(child)
    for name, value in record.saved.items() if record else ():
        if value is _MISSING:
            vars(obj).pop(name, None)
        else:
            vars(obj)[name] = value
    return True


def original(obj: Any) -> Any:
    """The original's methods of a swapped object: ``original(self).forward(z)`` in a replacement."""
    swapped = next(c for c in type(obj).__mro__ if "_swap_original" in vars(c))
    return super(swapped, obj)


def _swapped_class(original: Any, rule: Rule) -> type:
    """Below the original alone: another base could change the layout, which an object keeps for life."""
    if (original, rule) in _CLASSES:
        return _CLASSES[original, rule]
    space: dict[str, Any] = {}
    for cls in reversed(rule.replacement.__mro__[:-1]):
        space.update({name: value for name, value in vars(cls).items() if not name.startswith("__")})
    space.update({name: _method(rule, name, original) for name in rule.checked_methods if hasattr(original, name)})
    space.update(_swap_original=original, _swap_rule=rule, _swap_record=None, __reduce_ex__=_reduce, __deepcopy__=_deepcopy)
    space.update(__module__=original.__module__, __qualname__=original.__qualname__, __doc__=original.__doc__)
    found = _CLASSES[original, rule] = types.new_class(original.__name__, (original,), {}, lambda namespace: namespace.update(space))
    return found


_CLASSES: dict[tuple[Any, Rule], type] = {}


def _method(rule: Rule, name: str, original: Any) -> Callable[..., Any]:
    ours, theirs = rule.methods[name], getattr(original, name)

    @functools.wraps(ours)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.compiler.is_compiling():
            if any(isinstance(a, Proxy) for a in (*args, *kwargs.values())):
                return theirs(self, *args, **kwargs)  # FX records the original: a proxy has no shape to check
            record = self._swap_record
            if record is not None:
                return record.call(self, name, args, kwargs)
        result = ours(self, *args, **kwargs)
        return theirs(self, *args, **kwargs) if isinstance(result, Fallback) else result

    return method


def _reduce(self: Any, protocol: Any) -> Any:
    """As the original class would be reduced."""
    swapped = type(self)
    original, record = swapped._swap_original, vars(self).get("_swap_record")
    reduced = super(swapped, self).__reduce_ex__(protocol)
    if isinstance(reduced, str):
        return reduced
    call, args, state, *rest = reduced if len(reduced) > 2 else (*reduced, None)
    if isinstance(state, dict):
        state = {k: v for k, v in state.items() if k != "_swap_record"}
        for name, value in record.saved.items() if record else ():
            if state.pop(name, _MISSING) is not _MISSING and value is not _MISSING:
                state[name] = value
    if call is copyreg.__newobj__:  # type: ignore[attr-defined]
        # pickle takes __newobj__ for the object's own class alone
        call, args = (original.__new__, args) if len(args) > 1 else (copyreg._reconstructor, (original, object, None))  # type: ignore[attr-defined]
    return (call, tuple(original if a is swapped else a for a in args), state, *rest)


def _deepcopy(self: Any, memo: dict[int, Any]) -> Any:
    """A swapped copy. It is verified anew only if this one was not, and belongs to no report."""
    swapped = type(self)
    record = vars(self).get("_swap_record")
    inherited = getattr(super(swapped, self), "__deepcopy__", None)
    if inherited is not None:
        new = inherited(memo)
    else:
        call, args, state, *_ = _reduce(self, 4)
        new = call(*args)
        memo[id(self)] = new
        state = copy.deepcopy(state, memo)
        if hasattr(new, "__setstate__"):
            new.__setstate__(state)
        elif state:
            vars(new).update(state)
    if record is not None and not is_swapped(new):
        row = Swapped(record.row.path, record.row.original, record.row.op, record.row.device)
        _enter(new, swapped, _Record(record.rule, row, set(record.pending), record.verify))
    return new


# --- functions


@dataclass
class Patch:
    """One function that is replaced in every loaded module that holds it."""

    rule: FunctionRule
    row: Swapped
    original: Any
    owner: weakref.ref[Any] | None = None
    wrapper: Any = None

    def undo(self) -> None:
        """Also in modules that have taken the wrapper since."""
        if PATCHES.get(self.rule.path) is not self:
            return
        del PATCHES[self.rule.path]
        _replace(self.owner() if self.owner else None, self.rule.path.rsplit(".", 1)[1], self.wrapper, self.original)


PATCHES: dict[str, Patch] = {}


def patch(rule: FunctionRule, owner: Any, row: Swapped, verify: bool) -> Patch:
    """Replace ``owner``'s function, and the same function in all loaded modules."""
    name = rule.path.rsplit(".", 1)[1]
    original = vars(owner)[name]
    called = getattr(owner, name)
    found = Patch(rule, row, original, weakref.ref(owner))
    pending = [verify]

    def serve(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return rule.replacement(called, *args, **kwargs)
        except (TypeError, ValueError) as e:  # most likely the original's own error
            return Fallback(f"{type(e).__name__} in the replacement")

    @functools.wraps(called)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = serve(args, kwargs)
        if isinstance(result, Fallback):
            row.fallbacks[result.reason] = row.fallbacks.get(result.reason, 0) + 1
            return result.result[0] if result.result else called(*args, **kwargs)
        if pending[0]:
            pending[0] = False
            checked = rule.smaller(*args, **kwargs) if rule.smaller else (args, kwargs)
            verdict = verify_function(rule, called, *checked, serve(*checked) if rule.smaller else result)
            row.max_error = _larger(row.max_error, verdict.error)
            row.verified.append(name)
            row.notes += verdict.notes
            if verdict.failures:
                found.undo()
                raise SwapError(f"{rule.path} by ops.{rule.op}: {'; '.join(verdict.failures)}. Its swap is undone.")
        row.calls += 1
        return result

    found.wrapper = wrapper
    PATCHES[rule.path] = found
    _replace(owner, name, original, wrapper)
    _LOG.info("swap_in: %s -> ops.%s on %s", rule.path, row.op, row.backend)
    return found


def _replace(owner: Any, name: str, old: Any, new: Any) -> None:
    if owner is not None and vars(owner).get(name) is old:
        setattr(owner, name, new)
    for module in list(sys.modules.values()):
        if not getattr(module, "__name__", "ordkernels").startswith("ordkernels"):
            for key in [key for key, value in list(vars(module).items()) if value is old]:
                setattr(module, key, new)
