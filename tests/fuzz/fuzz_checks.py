"""What has to hold for every call: a right value or the documented error, and nothing else changed."""

import inspect
import math
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from fuzz_arguments import FLOATS, KINDS, Draw, Spec, snapshot, wrong
from hypothesis import note
from torch import Tensor, nn

from ordkernels import use_backend

DOCUMENTED = (TypeError, ValueError)


@dataclass(frozen=True, repr=False)
class Entry:
    """One public function: its arguments, and what is promised of its result.

    `check` holds a call's result to its definition. The flags name promises that not every function makes.
    """

    function: Callable[..., Any]
    arguments: dict[str, Spec]
    check: Callable[["Entry", "Call", str], None]
    backends: tuple[str | None, ...] = ("reference", "cpu")
    dtypes: tuple[torch.dtype, ...] = FLOATS
    kinds: tuple[str, ...] = KINDS
    sizes: dict[str, Any] = field(default_factory=dict)
    gradients: tuple[str, ...] = ()
    invariant: bool = True  # a row's result does not depend on the rows around it, bit for bit on the native CPU kernels
    ulps: float = 16.0
    scale: tuple[str, ...] = ()  # arguments whose largest number, by rows, the result is as exact as
    slope: float = 0.0  # of the parts that a gradient is the sum of
    slopes_within: tuple[float, float] = (0.0, math.inf)  # sizes of numbers for which gradients are compared
    noise: bool = False  # fp32 numbers are drawn, in every dtype
    names: tuple[str, ...] = ()  # that messages may use beside those of the arguments
    free: tuple[str, ...] = ()  # arguments that may be anything
    covers: str = ""  # the public name, where `function` is a wrapper of it

    def __repr__(self) -> str:
        own = self.covers and f"{self.covers}."
        return own + (self.function.__name__ if own else f"{self.function.__module__.removeprefix('ordkernels.')}.{self.function.__name__}")


NO_BACKEND: dict[str, Any] = {"backends": (None,)}  # of what runs on none


@dataclass
class Call:
    """One drawn call."""

    draw: Draw
    arguments: dict[str, Any]

    @property
    def rows(self) -> int:
        return self.draw.sizes.get("B", 0)


def drawn(entry: Entry, data: Any) -> Call:
    d = Draw(data, sizes=entry.sizes, dtypes=entry.dtypes, kinds=entry.kinds)
    arguments = {name: spec.draw(name, d) for name, spec in entry.arguments.items()}
    note(arguments)
    return Call(d, arguments)


@contextmanager
def on(backend: str | None) -> Iterator[None]:
    """On a backend, where a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "leave_one_out_quantiles: ")  # it always warns
        if backend is None:
            yield
        else:
            with use_backend(backend):
                yield


def run(entry: Entry, arguments: dict[str, Any], backend: str | None) -> list[Tensor]:
    with on(backend):
        return tensors(entry.function(**arguments))


def tensors(out: Any) -> list[Tensor]:
    if isinstance(out, tuple | list):
        return [t for part in out for t in tensors(part)]
    if isinstance(out, Tensor):
        return [out]
    a = np.array(out)
    return [torch.as_tensor(a)] if a.dtype.kind in "biufc" else []


def same(a: Tensor, b: Tensor) -> bool:
    """In every bit; NaN equals NaN."""
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | ((a != a) & (b != b))).all())


def unchanged(arguments: dict[str, Any], before: dict[str, Any], what: str) -> None:
    for name, x in arguments.items():
        old = before[name]
        if isinstance(old, Tensor):
            assert same(x.detach(), old), f"{what} has written into {name}"
        elif isinstance(old, np.ndarray):
            np.testing.assert_array_equal(x, old, f"{what} has written into {name}")
        elif old is not None:
            assert repr(x) == repr(old), f"{what} has written into {name}"


# ------------------------------------------------------------------------------------------------ right values of kernels


def kernel(entry: Entry, call: Call, backend: str) -> None:
    """A torch op: against its definition in fp64, the same twice, rows on their own, NaN in its row, gradients."""
    arguments = call.arguments
    before = {name: snapshot(x) for name, x in arguments.items()}
    got = run(entry, arguments, backend)
    unchanged(arguments, before, backend)
    again = run(entry, arguments, backend)
    assert all(map(same, got, again)), "two calls differ"
    eager = run(entry, arguments, "reference")
    truth = run(entry, doubled(arguments), "reference")
    moved = [run(entry, nudged(doubled(arguments), call.draw), "reference") for _ in range(2)]
    assert_close(entry, got, eager, truth, moved, call, largest_by_row(entry, call, truth))
    if entry.invariant and backend == "cpu" and call.rows > 1:
        rows_alone(entry, call, got, backend)
    if call.rows > 1:
        nan_contained(entry, call, got, backend)
    if entry.gradients and call.rows:
        gradients(entry, call, backend)


def doubled(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: _double(x) for name, x in arguments.items()}


def _double(x: Any) -> Any:
    if isinstance(x, nn.Module):
        return x.in_double
    if isinstance(x, tuple) and hasattr(x, "_fields"):  # weights
        return type(x)(*map(_double, x))
    return x.detach().double() if isinstance(x, Tensor) and x.is_floating_point() else x


def nudged(x: Any, d: Draw) -> Any:
    """Every number changed by a rounding of the computation: how far the result moves is what no kernel can do better. 0 and 1 stay."""
    if isinstance(x, dict):
        return {name: nudged(value, d) for name, value in x.items()}
    eps = torch.finfo(torch.promote_types(d.dtype, torch.float32)).eps
    if type(x) is float:
        return x if x in (0, 1) else x * (1 + 2 * eps)
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return x
    moved = x * (1 + 2 * eps * torch.from_numpy(d.random.uniform(-1, 1, tuple(x.shape))))
    moved = torch.where((x >= 0) & (x <= 1), moved.clamp(0, 1), moved)  # shares stay shares
    return torch.where(x == 1, x, moved)


def assert_close(
    entry: Entry,
    got: list[Tensor],
    eager: list[Tensor],
    truth: list[Tensor],
    moved: list[list[Tensor]],
    call: Call,
    floor: Any = 0.0,
    *,
    slopes: bool = False,
) -> None:
    """Per row: the error of plain torch in the same dtype, how far roundings of the inputs move the result, and a few roundings.

    Where plain torch overflows, a kernel may; what it makes of a row that plain torch gets wrong altogether, or of a slope that does
    not exist in fp64, is not compared, nor a row whose integers (tokens, counts) a rounding changes. `floor`: the least size, by rows
    or of all, of a number that a rounding is taken of.
    """
    compute = torch.finfo(torch.float32 if entry.noise else torch.promote_types(call.draw.dtype, torch.float32))
    unstable = torch.zeros(len(got[0]) if got[0].dim() else 1, dtype=torch.bool)
    for g, t, *others in zip(got, truth, *moved, strict=True):
        if not g.is_floating_point() and g.numel():
            unstable |= torch.stack([(t != m).reshape(len(t), -1).any(1) for m in others]).any(0)
            assert same(g[~unstable], t[~unstable]), f"integers differ: {g.tolist()} for {t.tolist()}"
    for i, (g, e, t, *others) in enumerate(zip(got, eager, truth, *moved, strict=True)):
        assert (g.shape, g.dtype) == (e.shape, e.dtype) == (t.shape, e.dtype), f"output {i}: {list(g.shape)} {g.dtype}"
        if not g.is_floating_point() or not g.numel():
            continue
        own = torch.finfo(g.dtype)
        eps, largest = max(own.eps, compute.eps), min(own.max, compute.max)
        G, E, T, *M = (x.double().reshape(len(x) if x.dim() else 1, -1) for x in (g, e, t, *others))
        moves = torch.stack([torch.where(torch.isfinite(m) | _alike(m, T), (m - T).abs().nan_to_num(), torch.inf) for m in M]).amax(0)
        sizes, lost = _finite(T).amax(1), _finite(E - T).amax(1)
        budget = (
            2 * lost + 8 * moves.amax(1) + entry.ulps * (eps * torch.maximum(sizes, torch.as_tensor(floor)) + eps * own.smallest_normal)
        )
        ok = ((G - T).abs() <= budget[:, None]) | _alike(G, T) | (~torch.isfinite(G) & ~torch.isfinite(E))
        ok |= (lost > sizes / 2)[:, None] & (sizes > own.smallest_normal)[:, None]
        if slopes:
            ok |= ~torch.isfinite(T)
        ok |= (T.abs() > largest * (1 - 2 * eps)) & torch.isinf(G) & (G.sign() == T.sign())
        ok |= torch.isnan(torch.stack(M)).any(0) & torch.isnan(G)
        if len(unstable) == len(ok):
            ok |= unstable[:, None]
        if not ok.all():
            r, c = (~ok).nonzero()[0].tolist()
            raise AssertionError(
                f"output {i}, row {r}, column {c}: got {G[r, c]:.9g}, eager {E[r, c]:.9g}, fp64 {T[r, c]:.9g}, budget {budget[r]:.3g}"
            )


def largest_by_row(entry: Entry, call: Call, outputs: list[Tensor]) -> Tensor | float:
    """The largest number, by rows, of the outputs together and of the arguments that they are only as exact as (`Entry.scale`)."""
    axes = call.draw.row_axes
    found = [*(call.arguments[name].double() for name in entry.scale if name in axes), *(t for t in outputs if t.dim())]
    shared = max((_finite(call.arguments[name].double()).max().item() for name in entry.scale if name not in axes), default=0.0)
    by_row = [_finite(x.double()).reshape(len(x), -1).amax(1).clamp(min=shared) for x in found if x.numel()]
    return torch.stack(by_row).amax(0) if by_row and len({len(x) for x in by_row}) == 1 else shared


def _within(x: Any, low: float, high: float) -> bool:
    """Every number is 0 or between them in size; an infinity and a NaN are not."""
    return not (isinstance(x, Tensor) and x.is_floating_point()) or bool(((x == 0) | ((x.abs() >= low) & (x.abs() < high))).all())


def _finite(x: Tensor) -> Tensor:
    return torch.where(torch.isfinite(x), x.abs(), 0.0)


def _alike(a: Tensor, b: Tensor) -> Tensor:
    return (a == b) | (torch.isnan(a) & torch.isnan(b))


def _with_ids(entry: Entry, call: Call) -> dict[str, Any]:
    """Row ids instead of places in the batch: else a row's noise would be another's."""
    arguments = dict(call.arguments)
    if "row_ids" in entry.arguments and arguments.get("row_ids") is None:
        arguments["row_ids"] = torch.arange(call.rows)
    return arguments


def take_rows(entry: Entry, call: Call, arguments: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    axes = call.draw.row_axes | {"row_ids": 0}

    def taken(name: str, x: Any) -> Any:
        if name not in axes or x is None or isinstance(x, float | int):
            return x
        if isinstance(x, Tensor):
            return x.detach().index_select(axes[name], torch.tensor(rows))
        return np.take(np.asarray(x), rows, axes[name])

    return {name: taken(name, x) for name, x in arguments.items()}


def rows_alone(entry: Entry, call: Call, got: list[Tensor], backend: str) -> None:
    arguments = _with_ids(entry, call)
    rows = sorted(set(call.draw.random.integers(0, call.rows, 3).tolist()), reverse=True)
    some = run(entry, take_rows(entry, call, arguments, rows), backend)
    for i, (s, g) in enumerate(zip(some, got, strict=True)):
        assert same(s, g[rows]), f"output {i}: rows {rows} alone differ from the batch: {s} for {g[rows]}"


def nan_contained(entry: Entry, call: Call, got: list[Tensor], backend: str) -> None:
    """A NaN in one row leaves the bits of the others."""
    per_row = [n for n in call.draw.row_axes if isinstance(x := call.arguments[n], Tensor) and x.is_floating_point() and x.numel()]
    if not per_row:
        return
    name = per_row[int(call.draw.random.integers(len(per_row)))]
    row = int(call.draw.random.integers(call.rows))
    bad = call.arguments[name].clone()
    if backend == "reference":  # the bits of its products may depend on where their inputs lie in memory
        got = run(entry, call.arguments | {name: bad.clone()}, backend)
    bad[tuple(row if axis == call.draw.row_axes[name] else 0 for axis in range(bad.dim()))] = torch.nan
    arguments = call.arguments | {name: bad.requires_grad_(name in entry.gradients)}  # in training a NaN is no error
    out = run(entry, arguments, backend)
    others = [r for r in range(call.rows) if r != row]
    for i, (o, g) in enumerate(zip(out, got, strict=True)):
        assert same(o.detach()[others], g.detach()[others]), f"output {i}: a NaN in row {row} of {name} changes other rows"


def gradients(entry: Entry, call: Call, backend: str) -> None:
    """Where all numbers are finite: what a non-finite one gives its own row is not promised, `nan_contained` has the others."""
    names = [n for n in entry.gradients if isinstance(x := call.arguments[n], Tensor) and x.is_floating_point() and x.numel()]
    if not names or not all(_within(x, *entry.slopes_within) for x in call.arguments.values()):
        return
    d = call.draw

    def of(arguments: dict[str, Any], which: str, nudge: bool = False) -> list[Tensor]:
        leaves = {n: arguments[n].detach().requires_grad_() for n in names}
        outputs = [t for t in run(entry, arguments | leaves, which) if t.requires_grad]
        seeds = [torch.linspace(-1, 2, t.numel(), dtype=torch.float64).view(t.shape).to(d.dtype).to(t.dtype) for t in outputs]
        with on(which):
            seeds = [nudged(seed, d) for seed in seeds] if nudge else seeds
            found = torch.autograd.grad(outputs, list(leaves.values()), seeds, allow_unused=True)
        return [torch.zeros_like(leaves[n]) if g is None else g for n, g in zip(names, found, strict=True)]

    before = {name: snapshot(x) for name, x in call.arguments.items()}
    got, again = of(call.arguments, backend), of(call.arguments, backend)
    unchanged(call.arguments, before, "backward")
    assert all(map(same, got, again)), "two backward passes differ"
    wide = doubled(call.arguments)
    moved = [of(nudged(wide, d), "reference", nudge=True) for _ in range(2)]
    found = [got, of(call.arguments, "reference"), of(wide, "reference"), *moved]
    axes = [d.row_axes.get(n) for n in names]  # None: one for all rows
    by_row = [[g.movedim(a, 0) if a is not None else g.reshape(1, -1) for g, a in zip(gs, axes, strict=True)] for gs in found]
    try:
        assert_close(entry, *by_row[:3], by_row[3:], call, entry.slope, slopes=True)
    except AssertionError as error:
        raise AssertionError(f"gradients of {names}: {error}") from None


# ------------------------------------------------------------------------------------------------ wrong arguments


def wrong_argument(entry: Entry, data: Any, backend: str | None) -> None:
    """One argument is something else: a result, or a TypeError or ValueError that begins with an argument's name."""
    call = drawn(entry, data)
    name = call.draw.choose(*(n for n in entry.arguments if n not in entry.free))
    arguments = call.arguments | {name: wrong(call.arguments[name], call.draw)}
    before = {n: snapshot(x) for n, x in arguments.items()}
    try:
        run(entry, arguments, backend)
    except DOCUMENTED as error:
        text = str(error)
        assert names_argument(entry, text), f"{name} = {shown(arguments[name])}: the message names no argument: {text!r}"
    unchanged(arguments, before, "a wrong call")


def names_argument(entry: Entry, text: str) -> bool:
    known = {*inspect.signature(entry.function).parameters, *entry.arguments, *entry.names}
    found = re.match(r"([A-Za-z_]\w*)", text)
    return found is not None and found[1] in known and bool(re.search(r": expected .*(, got |got )|missing|unexpected", text, re.S))


def shown(x: Any) -> str:
    if isinstance(x, Tensor):
        return f"tensor {x.dtype} {list(x.shape)} {x.layout} {x.device}"
    return f"{type(x).__name__} {x!r:.80}"
