"""Running the original beside a replacement, on copies: outputs and gradients, each judged against fp64 of the original."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ._compare import Verdict, compare, leaves
from ._rules import Fallback, FunctionRule, Rule

__all__ = ["can_verify", "verify_function", "verify_method"]

Convert = Callable[[Tensor], Tensor]


_GRADIENT_SLACK = 4.0  # for sums whose terms cancel inside, which a rounding of the inputs does not show


class _FallbackError(Exception):
    pass


@dataclass
class _Run:
    outputs: list[Any]
    gradients: list[Any]


def can_verify(obj: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Real numbers everywhere: no fake, meta or wrapped tensors."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return False
    found: list[Tensor] = [*_tensors_of(obj)]
    _map_tensors((args, kwargs), lambda t: found.append(t) or t)  # type: ignore[func-returns-value]
    return all(type(t) in (Tensor, nn.Parameter) and t.device.type != "meta" for t in found)


def verify_method(
    obj: Any, rule: Rule, name: str, original: type, swap: Callable[[Any], None], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Verdict, Verdict] | str:
    """Verdicts on outputs and gradients of one call, or why there are none. Neither the object nor any random state is touched.

    Args:
        obj: the swapped object.
        rule: its rule.
        name: of the method.
        original: its class without the swap.
        swap: makes a copy of the original class one of ours, uncounted.
        args: of the call.
        kwargs: of the call.
    """

    dtypes = _dtypes(obj, args, kwargs)
    dtype = max(dtypes, key=lambda d: torch.finfo(d).eps, default=torch.float64)

    def run(convert: Convert, ours: bool = False, gradients: bool = not rule.kinks) -> _Run:
        with _same_random_state(), _same_draws(dtype), torch.inference_mode(False), torch.enable_grad():
            clone, parameters = _copy(obj, rule, original, convert)
            if ours:
                swap(clone)
            inputs: list[Tensor] = []
            given, named = _map_tensors((args, kwargs), lambda t: _input(t, convert, inputs))
            method = rule.methods[name] if ours else getattr(original, name)
            result = method(clone, *given, **named)
            if isinstance(result, Fallback):
                raise _FallbackError(result.reason)
            outputs = leaves(rule.outputs(clone, result))
            return _Run(outputs, _gradients(outputs, [*parameters, *inputs], convert) if gradients else [])

    failed: Exception | None = None
    try:
        ours = run(_same, ours=True)
        ours_wide = run(_double, ours=True, gradients=True) if rule.kinks else ours
    except _FallbackError:
        return ""  # the original serves this call
    except Exception as e:
        failed = e
    try:
        theirs = run(_same)
    except (NotImplementedError, KeyError) as e:
        return f"{name}: nothing to compare with, the original raises {type(e).__name__}"
    if failed is not None:
        return Verdict(failures=[f"{type(failed).__name__}: {failed}, where the original works"]), Verdict()
    truth, eps = run(_double, gradients=True), torch.finfo(dtype).eps
    nearby = [run(_nearby(eps, seed)) for seed in range(3)]
    outputs = compare("output", ours.outputs, theirs.outputs, truth.outputs, [run.outputs for run in nearby])
    if rule.kinks:
        return outputs, compare("gradient", ours_wide.gradients, truth.gradients, truth.gradients)
    drifted = [run.gradients for run in nearby]
    return outputs, compare("gradient", ours.gradients, theirs.gradients, truth.gradients, drifted, slack=_GRADIENT_SLACK)


def verify_function(
    rule: FunctionRule, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
) -> Verdict:
    """The verdict on the result of one call of a function."""
    theirs = truth = leaves(original(*args, **kwargs))
    given: list[Any] = []
    wide_args, wide_kwargs = _map_tensors((args, kwargs), lambda t: (given.append(t.dtype), _double(t))[1], arrays=True)  # type: ignore[func-returns-value]
    given += [str(a.dtype) for a in (*args, *kwargs.values()) if isinstance(a, np.ndarray)]
    if _NARROW & set(given):
        with suppress(RuntimeError, TypeError, ValueError):  # an argument may hold weights of another dtype
            truth = leaves(original(*wide_args, **wide_kwargs))
    return compare("result", leaves(result), theirs, truth, ulps=rule.ulps, tolerance=rule.tolerance)


def _same(t: Tensor) -> Tensor:
    return t.detach().clone()


def _double(t: Tensor) -> Tensor:
    return t.detach().to(torch.float64, copy=True) if t.is_floating_point() else t.detach().clone()


def _nearby(eps: float, seed: int) -> Convert:
    """In fp64, off by a relative rounding of eps."""
    generator = torch.Generator().manual_seed(seed)

    def convert(t: Tensor) -> Tensor:
        if not t.is_floating_point():
            return t.detach().clone()
        step = torch.randint(0, 2, t.shape, generator=generator).mul_(2).sub_(1).to(t.device)
        return t.detach().double() * (1 + eps / 2 * step)

    return convert


def _dtypes(obj: Any, args: Any, kwargs: Any) -> set[torch.dtype]:
    """The floating ones of the inputs; of the object where there are none."""
    found: set[torch.dtype] = set()
    _map_tensors((args, kwargs), lambda t: found.add(t.dtype) or t)  # type: ignore[func-returns-value]
    return {d for d in found if d.is_floating_point} or {t.dtype for t in _tensors_of(obj) if t.is_floating_point()}


class _SameDraws(TorchFunctionMode):
    """Random numbers of fp64 runs are those of the call's own dtype: draws of another dtype take another way through the generator."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _DRAWS and (kwargs.get("dtype") or getattr(args[0], "dtype", None)) == torch.float64:
            return func(*args, **{**kwargs, "dtype": self.dtype}).double()
        if func in _DROPOUTS and args[0].dtype == torch.float64:
            x, *rest = args
            return x * func(torch.ones_like(x, dtype=self.dtype), *rest, **kwargs).double()
        return func(*args, **kwargs)


_NARROW = {torch.float32, torch.float16, torch.bfloat16, "float32", "float16"}
_DRAWS = {torch.randn, torch.rand, torch.randn_like, torch.rand_like}
_DROPOUTS = {torch.dropout, torch.feature_dropout}


def _same_draws(dtype: torch.dtype) -> Any:
    return nullcontext() if dtype == torch.float64 else _SameDraws(dtype)


def _input(t: Tensor, convert: Convert, inputs: list[Tensor]) -> Tensor:
    t = convert(t)
    if t.is_floating_point():
        inputs.append(t.requires_grad_())
    return t


def _gradients(outputs: list[Tensor], inputs: list[Tensor], convert: Convert) -> list[Any]:
    """Of a fixed random weighting of all outputs."""
    generator = torch.Generator().manual_seed(1)
    pairs = []
    for out in outputs:
        weight = torch.randn(out.shape, generator=generator, dtype=torch.float64)
        if out.requires_grad and out.is_floating_point():
            pairs.append((out, convert(weight.bfloat16().to(out)).to(out)))  # bf16: the same weights in every dtype
    if not pairs or not inputs:
        return []
    return list(torch.autograd.grad([out for out, _ in pairs], inputs, [w for _, w in pairs], allow_unused=True))


def _copy(obj: Any, rule: Rule, original: Any, convert: Convert) -> tuple[Any, list[Tensor]]:
    """A copy of the original class without hooks, and its parameters."""
    if rule.copy is not None:
        found: list[Tensor] = []
        return rule.copy(obj, lambda t: _input(t, convert, found)), found
    memo: dict[int, Any] = {}
    parameters = []
    for t in _tensors_of(obj):
        if id(t) in memo:
            continue
        new = convert(t)
        if isinstance(t, nn.Parameter):
            new = nn.Parameter(new, requires_grad=new.is_floating_point())
            if new.requires_grad:
                parameters.append(new)
        memo[id(t)] = new
    for module in obj.modules() if isinstance(obj, nn.Module) else ():
        memo.update(
            {id(hooks): type(hooks)() for name, hooks in vars(module).items() if name.endswith("_hooks") and isinstance(hooks, dict)}
        )
    clone = original.__new__(original)
    memo[id(obj)] = clone
    clone.__dict__.update(copy.deepcopy({k: v for k, v in vars(obj).items() if k != "_swap_record"}, memo))
    return clone, list(parameters)


def _tensors_of(obj: Any) -> Iterator[Tensor]:
    for owner in obj.modules() if isinstance(obj, nn.Module) else [obj]:
        state = getattr(owner, "__dict__", {})
        for values in (state, state.get("_parameters") or {}, state.get("_buffers") or {}):
            for value in values.values():
                yield from (t for t in (value if isinstance(value, (list, tuple)) else (value,)) if isinstance(t, Tensor))


def _map_tensors(tree: Any, f: Convert, arrays: bool = False, memo: dict[int, Any] | None = None) -> Any:
    """The tree with f of each tensor (and array), one result for a tensor that occurs twice; generators in a copy."""
    memo = {} if memo is None else memo
    if isinstance(tree, Tensor):
        if id(tree) not in memo:
            memo[id(tree)] = f(tree)
        return memo[id(tree)]
    if arrays and isinstance(tree, np.ndarray):
        return tree.astype(np.float64) if tree.dtype.kind == "f" else tree.copy()
    if isinstance(tree, torch.Generator):
        return tree.clone_state()
    if isinstance(tree, dict):
        return {key: _map_tensors(value, f, arrays, memo) for key, value in tree.items()}
    if type(tree) in (list, tuple):
        return type(tree)(_map_tensors(value, f, arrays, memo) for value in tree)
    return tree


@contextmanager
def _same_random_state() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002, the user's own state
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002
