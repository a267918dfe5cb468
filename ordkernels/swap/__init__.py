"""Replacing layers, schedulers and functions of other packages by ours, in place and reversibly, proved on the first call.

`swap_in` walks a model for objects that a rule knows; each keeps its identity, parameters, hooks and ``state_dict``, and works as
before but for the time. Rules exist for normflows and Pyro planar flows, diffusers' DDIM and DDPM schedulers, torchmetrics' Kendall
correlation and the decoder of GR's authors; those for functions of a package are in a file of its name. `rule` and `function` add more.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from ._install import PATCHES, install, is_swapped, original, patch, uninstall
from ._report import Report, Skipped, SwapError, Swapped
from ._rules import FUNCTIONS, Fallback, Rule, disabled_ops, function, functions_of, match, rule
from ._walk import Selection, selection, walk

from . import diffusers, gr_decoder, normflows, pandas, properscoring, pyro, scipy, scoringrules  # noqa: F401, isort: skip
from . import torchmetrics, torchrec, xauc_score, xskillscore  # noqa: F401, isort: skip  (they register rules)

__all__ = ["Fallback", "Report", "Skipped", "SwapError", "Swapped", "function", "original", "rule", "swap_in", "swap_out"]


def swap_in(
    *targets: Any, include: Selection = None, exclude: Selection = None, verify: bool = True, example: Any = None, strict: bool = False
) -> Report:
    """Replace what a rule knows in a model, or the functions of the packages named, in place; `swap_out` or the report undoes it.

    The objects stay: ``state_dict`` keys, the same ``nn.Parameter`` objects, hooks, train and eval mode, dtype and device. Nothing
    global changes, unless packages are named: ``swap_in("scipy")`` replaces their functions in every loaded module. A second swap
    does nothing. A pickle of a swapped object is the original; a deep copy is swapped, and ``swap_out`` restores it.

    The environment variable ``ORDKERNELS_DISABLE=op,...``, read here, leaves ops out. Each swap is a line at level INFO of the logger
    ``ordkernels``.

    Args:
        targets: models (an ``nn.Module``, a scheduler, a pipeline, a distribution or transform) and names of packages, which are
            imported.
        include: a pattern of paths below the model (``flows.*``), a class, or a list of them: only these.
        exclude: not these.
        verify: run the original beside ours on the first call of each object outside compiled code, on copies. Outputs and gradients
            are judged against fp64 of the original; what is worse than the error budget is undone and raises. The budget is twice the
            original's own error, eight times what a rounding of all inputs changes, and 8 roundings of the largest value (for
            gradients four times that).
        example: inputs to verify with at once: a tensor, a tuple of arguments, a dict of keyword arguments, or a function that is
            called with the model.
        strict: raise if nothing was swapped.

    Returns:
        A `Report`, also a context manager that undoes the swap.

    Raises:
        TypeError: no target, or a selection of another type.
        ValueError: a package that no rule is for, ops in ORDKERNELS_DISABLE that do not exist; with ``strict``, nothing to swap.
        SwapError: a replacement over its error budget, on ``example`` (everything is undone) or on a first call (that object is).

    Example:
        >>> import ordkernels, torch
        >>> class Planar(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.u, self.w, self.b = (torch.nn.Parameter(torch.randn(n)) for n in (8, 8, 1))
        ...     def forward(self, z):
        ...         return z + self.u * torch.tanh(z @ self.w + self.b)[:, None]
        >>> @ordkernels.swap.rule(Planar, op="planar_flow")
        ... class FusedPlanar:
        ...     def forward(self, z):
        ...         return ordkernels.ops.planar_flow(z, self.u[None], self.w[None], self.b, constrained=False)[0]
        >>> model = torch.nn.Sequential(Planar(), Planar())
        >>> with ordkernels.swap_in(model) as report:
        ...     out = model(torch.randn(5, 8))
        >>> [row.path for row in report.swapped], report.swapped[0].verified
        (['0', '1'], ['forward'])
    """
    disabled = disabled_ops()
    report = Report()
    if not targets:
        raise TypeError("targets: expected models or names of packages, got none")
    try:
        for target in targets:
            if isinstance(target, str):
                _swap_package(target, report, disabled, verify)
            else:
                _swap_model(target, report, disabled, verify, selection("include", include), selection("exclude", exclude))
                if example is not None:
                    _run_example(target, example)
    except BaseException:
        report.undo()
        raise
    if strict and not report.swapped:
        reasons = "; ".join(f"{s.path or '(model)'}: {s.reason}" for s in report.skipped) or "no rule is for any part of it"
        raise ValueError(f"strict: expected something to swap, got nothing: {reasons}")
    return report


def swap_out(*targets: Any) -> list[str]:
    """Undo every swap in a model (a deep copy of a swapped one too), or of the packages named.

    Args:
        targets: as in `swap_in`.

    Returns:
        The paths that were restored.

    Raises:
        TypeError: no target.

    Example:
        >>> import ordkernels, torch
        >>> ordkernels.swap_out(torch.nn.Linear(2, 2))
        []
    """
    if not targets:
        raise TypeError("targets: expected models or names of packages, got none")
    restored: list[str] = []

    def visit(path: str, obj: Any) -> bool:
        if uninstall(obj):
            restored.append(path)
        return True

    for target in targets:
        if not isinstance(target, str):
            walk(target, visit)
            continue
        for path, found in list(PATCHES.items()):
            if found.rule.belongs_to(target):
                found.undo()
                restored.append(path)
    return restored


def _swap_model(model: Any, report: Report, disabled: set[str], verify: bool, include: Any, exclude: Any) -> None:
    def visit(path: str, obj: Any) -> bool:
        if is_swapped(obj):
            report.skipped.append(Skipped(path, _name(vars(type(obj))["_swap_original"]), "already swapped"))
            return False
        found = match(obj)
        if found is None or (include is not None and not include(path, obj)) or (exclude is not None and exclude(path, obj)):
            return True
        chosen, matched = found
        reason = _why_not(chosen, obj, matched, disabled)
        if reason is not None:
            report.skipped.append(Skipped(path, _name(type(obj)), reason))
            return True
        row = Swapped(path, _name(type(obj)), chosen.op, _device_of(obj))
        install(obj, chosen, row, verify)
        report.swapped.append(row)
        report._undo.append(partial(uninstall, obj, row))
        return False

    walk(model, visit)


def _why_not(found: Rule, obj: Any, matched: type, disabled: set[str]) -> str | None:
    if found.op in disabled:
        return f"ORDKERNELS_DISABLE names {found.op}"
    methods = (*found.methods, *found.relies_on)
    for name in methods:
        if name in vars(obj) and name not in found.attributes:
            return f"this object has its own {name}, set on the instance"
    for cls in type(obj).__mro__[: type(obj).__mro__.index(matched)]:
        own = [name for name in methods if name in vars(cls)]
        if own:
            return f"the subclass {cls.__name__} has its own {own[0]}"
    if isinstance(obj, nn.Module):
        if parametrize.is_parametrized(obj):
            return "its parameters are parametrized"
        for name, t in (*obj.named_parameters(), *obj.named_buffers()):
            if t.device.type == "meta":
                return f"{name} is on the meta device, without values"
            if t.is_quantized or not (t.is_floating_point() or isinstance(t, nn.Parameter) is False):
                return f"{name} is quantised or not floating: {t.dtype}"
    return found.unless(obj)


def _swap_package(package: str, report: Report, disabled: set[str], verify: bool) -> None:
    rules = functions_of(package)
    if not rules:
        known = ", ".join(sorted({r.path.split(".")[0] for r in FUNCTIONS} - {"*"}))
        raise ValueError(f"targets: expected a model or a package with rules for its functions ({known}), got {package!r}")
    for found in rules:
        owner, theirs = _resolve(found.path)
        if found.path in PATCHES:
            reason: str | None = "already swapped"
        elif found.op in disabled:
            reason = f"ORDKERNELS_DISABLE names {found.op}"
        elif theirs is None:
            reason = "this version of the package does not have it"
        else:
            reason = found.unless(theirs)
        if reason is not None:
            report.skipped.append(Skipped(found.path, found.path, reason))
            continue
        row = Swapped(found.path, found.path, found.op)
        report.swapped.append(row)
        report._undo.append(patch(found, owner, row, verify).undo)


def _resolve(path: str) -> tuple[Any, Any]:
    """The module or class that holds the function, and the function, or Nones."""
    parts = path.split(".")
    owner: Any = None
    for i in range(1, len(parts)):
        module = ".".join(parts[:i])
        try:
            owner = importlib.import_module(module)
        except ModuleNotFoundError as e:
            if e.name != module:
                raise
            owner = getattr(owner, parts[i - 1], None)
    found = None if owner is None else vars(owner).get(parts[-1])
    return owner, found


def _run_example(model: Any, example: Any) -> None:
    """First calls of everything, in eval mode, without a trace in the model's or any random state."""
    run: Callable[[Any], Any]
    if callable(example) and not isinstance(example, torch.Tensor):
        run = example
    elif isinstance(example, dict):
        run = lambda m: m(**example)  # noqa: E731
    else:
        run = lambda m: m(*(example if isinstance(example, (tuple, list)) else (example,)))  # noqa: E731
    modes = [(m, m.training) for m in model.modules()] if isinstance(model, nn.Module) else []
    try:
        for module, _ in modes:
            module.training = False
        with torch.random.fork_rng(enabled=True):
            run(model)
    finally:
        for module, mode in modes:
            module.training = mode


def _device_of(obj: Any) -> str:
    tensors = [*obj.parameters(), *obj.buffers()] if isinstance(obj, nn.Module) else []
    return tensors[0].device.type if tensors else "cpu"


def _name(cls: type) -> str:
    return f"{cls.__module__.split('.')[0]}.{cls.__qualname__}" if inspect.isclass(cls) else str(cls)
