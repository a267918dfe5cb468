"""Rules: which objects and functions of other packages are replaced, and by what.

A rule for a class is a class whose methods take the place of the methods of the same name::

    @rule("theirs.flows.Planar", op="planar_flow", unless=lambda flow: None if flow.act == "tanh" else f"act={flow.act!r}")
    class _Planar:
        def forward(self, z):  # self is their object, with their parameters
            return ops.planar_flow(z, self.u[None], self.w[None], self.b[None])

A rule for a function gets the original first::

    @function("theirs.metrics.crps", op="crps")
    def _crps(original, samples, y, axis=-1):
        return Fallback("axis is not the last") if axis != -1 else ops.crps(samples, y)

Either may return `Fallback(reason)`, before it draws random numbers: then the original serves that call.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from .._backend import OPS, load_all

__all__ = [
    "FUNCTIONS",
    "RULES",
    "Fallback",
    "FunctionRule",
    "Rule",
    "disabled_ops",
    "function",
    "functions_of",
    "makes_swapped",
    "match",
    "rule",
]

Target = type | str | Callable[[Any], bool]
C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])


class Fallback:
    """What a replacement returns to leave this call to the original, with the reason that the report counts.

    Args:
        reason: why, for the report.
        result: the original's result, where the replacement of a function has it already, which has called the original inside.

    Example:
        >>> Fallback("complex input").reason
        'complex input'
    """

    def __init__(self, reason: str, *result: Any) -> None:
        self.reason = reason
        self.result = result


@dataclass(frozen=True, eq=False)
class Rule:
    """How the objects of one class are swapped; made by `rule`."""

    target: Target
    op: str
    replacement: type
    methods: dict[str, Callable[..., Any]]
    unless: Callable[[Any], str | None]
    relies_on: tuple[str, ...]  # their methods that the replacements call, or that a subclass must not have changed
    outputs: Callable[[Any, Any], Any]  # (object, result) -> what is compared
    copy: Callable[[Any, Callable[[Any], Any]], Any] | None  # (object, convert) -> an original object of converted tensors
    attributes: Mapping[str, Callable[[Any], Any]]  # of the instance, while it is swapped
    kinks: bool
    beyond: Callable[[dict[str, Any]], bool]  # keyword arguments -> a call that the original has not, so that none can be compared

    @property
    def checked_methods(self) -> set[str]:
        """Those that are counted and verified."""
        return {name for name, method in self.methods.items() if not getattr(method, "_makes_swapped", False)}

    def matched_class(self, obj: Any) -> type | None:
        """The class of the object, or the base of it, that this rule is for."""
        if isinstance(self.target, str):
            return next((c for c in type(obj).__mro__ if f"{c.__module__}.{c.__qualname__}" == self.target), None)
        if isinstance(self.target, type):
            return self.target if isinstance(obj, self.target) else None
        return type(obj) if self.target(obj) else None


@dataclass(frozen=True, eq=False)
class FunctionRule:
    """How one function, or one method for all objects, of a package is replaced when the package is named; made by `function`."""

    path: str
    op: str
    replacement: Callable[..., Any]
    unless: Callable[[Any], str | None]
    ulps: float
    tolerance: float
    smaller: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]] | None  # arguments -> fewer of them, to verify with

    def belongs_to(self, package: str) -> bool:
        return self.path.startswith(f"{package}.")


def functions_of(package: str) -> list[FunctionRule]:
    """The rules for functions of a package, and those for a function of any module where this one has it; imports it."""
    own = [found for found in FUNCTIONS if found.belongs_to(package)]
    try:
        module: Any = importlib.import_module(package)
    except ModuleNotFoundError:
        if own:
            raise
        return []
    anywhere = [found for found in FUNCTIONS if found.path.startswith("*.") and hasattr(module, found.path[2:])]
    return own + [replace(found, path=f"{package}{found.path[1:]}") for found in anywhere]


RULES: list[Rule] = []
FUNCTIONS: list[FunctionRule] = []


def rule(
    target: Target, *, op: str, unless: Callable[[Any], str | None] | None = None, relies_on: Iterable[str] = (),
    outputs: Callable[[Any, Any], Any] | None = None, copy: Callable[[Any, Callable[[Any], Any]], Any] | None = None,
    attributes: Mapping[str, Callable[[Any], Any]] | None = None, kinks: bool = False,
    beyond: Callable[[dict[str, Any]], bool] | None = None,
) -> Callable[[C], C]:  # fmt: skip
    """Decorator of a class whose methods replace those of ``target`` in each object that `swap_in` finds.

    Methods of a name that the target has are counted and verified; others are helpers. ``swap.original(self).forward(z)`` calls the
    original. Of several rules for an object the newest counts.

    Args:
        target: a class; its dotted name, so that its package need not be imported; or a function that recognizes an object.
        op: the name of the op that serves it, for the report and ``ORDKERNELS_DISABLE``.
        unless: the reason why an object cannot be swapped, or None.
        relies_on: more methods of theirs that a subclass must not override.
        outputs: ``(object, result)`` -> tensors to compare, where the result does not hold them all.
        copy: ``(object, convert)`` -> an object of the original class with every tensor converted, where ``copy.deepcopy`` fails.
        attributes: name -> function of the object that makes an attribute, which the object has while it is swapped.
        beyond: of a call's arguments by name: does it ask for more than the original can? Such calls are not verified.
        kinks: the function has kinks (a clip, a ReLU), where rounding changes a gradient by a jump: gradients are compared in fp64.

    Returns:
        The decorator; it returns its class.

    Raises:
        ValueError: a class without methods.

    Example:
        >>> import torch
        >>> from ordkernels import ops, swap, swap_in
        >>> class Clip(torch.nn.Module):
        ...     def forward(self, increments, widths):
        ...         return torch.minimum(increments.clamp(min=0), widths).sum(1)
        >>> @swap.rule(Clip, op="nested_min", kinks=True)
        ... class FusedClip:
        ...     def forward(self, increments, widths):
        ...         return ops.nested_min(increments, widths)[0]
        >>> model = Clip()
        >>> report = swap_in(model)
        >>> model(torch.tensor([[1.0, 5.0]]), torch.tensor([2.0, 2.0])), report.swapped[0].calls
        (tensor([3.]), 1)
    """

    def register(replacement: C) -> C:
        methods: dict[str, Callable[..., Any]] = dict(inspect.getmembers(replacement, inspect.isfunction))
        if not methods:
            raise ValueError(f"{replacement.__name__}: expected methods to replace, got none")
        why, read = unless or (lambda obj: None), outputs or (lambda obj, result: result)
        RULES.append(
            Rule(
                target,
                op,
                replacement,
                methods,
                why,
                tuple(relies_on),
                read,
                copy,
                attributes or {},
                kinks,
                beyond or (lambda arguments: False),
            )
        )
        return replacement

    return register


def makes_swapped(method: F) -> F:
    """Decorator of a replacement that returns another object, swapped in turn by `adopt`: itself neither counted nor verified."""
    method._makes_swapped = True  # type: ignore[attr-defined]
    return method


def function(
    path: str, *, op: str, unless: Callable[[Any], str | None] | None = None, ulps: float = 64.0, tolerance: float = 0.0,
    smaller: Callable[..., tuple[tuple[Any, ...], dict[str, Any]]] | None = None,
) -> Callable[[F], F]:  # fmt: skip
    """Decorator of a function that replaces another package's when `swap_in` is called with that package's name.

    The replacement is called as ``replacement(original, *args, **kwargs)``. Where it raises TypeError or ValueError the original
    serves the call, or raises its own error.

    Args:
        path: ``package.module.function``, or ``package.module.Class.method``; ``*.function`` in any module that `swap_in` is called
            with, where ``unless`` recognizes it.
        op: the name of the op that serves it.
        unless: the reason why the function that was found cannot be replaced, or None.
        ulps: roundings by which a result may differ from the original's, next to twice the original's own error.
        tolerance: an absolute difference that is allowed on top, for results that the original rounds.
        smaller: ``(*args, **kwargs)`` -> arguments for the comparison, a tuple and a dict, where the original takes too long on those of
            the call.

    Returns:
        The decorator; it returns its function.

    Example:
        >>> import statistics
        >>> from ordkernels import swap, swap_in
        >>> @swap.function("statistics.fmean", op="mae")
        ... def fmean(original, data, weights=None):
        ...     return swap.Fallback("weights") if weights is not None else sum(data) / len(data)
        >>> with swap_in("statistics") as report:
        ...     statistics.fmean([1.0, 2.0])
        1.5
    """

    def register(replacement: F) -> F:
        FUNCTIONS.append(FunctionRule(path, op, replacement, unless or (lambda original: None), ulps, tolerance, smaller))
        return replacement

    return register


def match(obj: Any) -> tuple[Rule, type] | None:
    """The newest rule for the object, and the class that it is for."""
    for found in reversed(RULES):
        matched = found.matched_class(obj)
        if matched is not None:
            return found, matched
    return None


def disabled_ops() -> set[str]:
    """The ops that ORDKERNELS_DISABLE names."""
    names = {name.strip() for name in os.environ.get("ORDKERNELS_DISABLE", "").split(",")} - {""}
    if names:
        load_all()
    known = set(OPS) | {r.op for r in RULES} | {r.op for r in FUNCTIONS}
    if names - known:
        raise ValueError(
            f"ORDKERNELS_DISABLE: expected names of ops, got {', '.join(sorted(names - known))}; known: {', '.join(sorted(known))}"
        )
    return names
