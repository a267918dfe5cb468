"""What the ops that run a whole reverse chain share: the plan of its timesteps, cached for the next call, and its noise."""

import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.compiler import is_compiling

from .._validation import tensors as checks
from .._validation.numbers import integer
from ..reference._common import keep_on_host

MAX_CACHED_PLANS = 32  # of one schedule


class Schedule(Protocol):
    """What a chain needs of an `ordkernels.schedules.NoiseSchedule`."""

    @property
    def T(self) -> int: ...

    @property
    def exact(self) -> Sequence[float]: ...  # alpha_bar [T + 1]


class ChainPlan:
    """What the timesteps of a chain come to, on a device: the coefficients of each step, and its embeddings.

    coefficients: [S, n] fp64; random: does any step need noise?
    """

    def __init__(self, steps: list[int], coefficients: Tensor, random: bool, device: torch.device) -> None:
        self.steps, self.random = steps, random
        self.step_coefficients = coefficients.to(device)
        self.times = torch.tensor(steps, device=device)
        self.embeddings: dict[Any, Any] = {}

    def embedding(self, frequencies: Tensor, dtype: torch.dtype) -> Tensor:
        """e(t) of the timesteps, [S, E]; cached while the frequencies are this very tensor, unchanged."""
        if is_compiling() or frequencies.is_inference():  # whose changes are not counted
            return self._embed(frequencies, dtype)
        embedding: Tensor | None
        made_of, version, embedding = self.embeddings.get(dtype, (None, 0, None))
        now = frequencies._version
        if embedding is None or made_of() is not frequencies or version != now:
            embedding = self._embed(frequencies, dtype)
            self.embeddings[dtype] = (weakref.ref(frequencies), now, embedding)
        return embedding

    def _embed(self, frequencies: Tensor, dtype: torch.dtype) -> Tensor:
        with torch.inference_mode(False):
            angle = self.times.to(frequencies.dtype)[:, None] * frequencies
            return torch.cat((angle.sin(), angle.cos()), dim=-1).to(dtype)

    def noise_arguments(
        self, noise: Tensor | None, row_ids: Any, draw_ids: Any, rows: Tensor, rows_name: str
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """(noise, row ids, draw ids) of the kernel: explicit noise, or the ids of row-keyed noise, or all None where none is needed."""
        if noise is not None:
            checks.same("noise", noise, rows_name, rows)
            checks.shape("noise", noise, (len(self.steps), *rows.shape), "[S, B, D]")
            return (noise if self.random else None), None, None
        row_ids, draw_ids = checks.row_ids("row_ids", row_ids, rows), checks.row_ids("draw_ids", draw_ids, rows)
        if not self.random:
            return None, None, None
        return None, torch.arange(rows.shape[0], device=rows.device) if row_ids is None else row_ids, draw_ids


_PLANS: weakref.WeakKeyDictionary[Any, dict[Hashable, ChainPlan]] = weakref.WeakKeyDictionary()


def chain_plan(
    schedule: Schedule, device: torch.device, build: Callable[..., tuple[list[int], Tensor, bool]], *arguments: Hashable
) -> ChainPlan:
    """The plan of ``build(schedule, *arguments)``, cached: a schedule never changes. One that is traced is not kept."""
    if not hasattr(schedule, "exact"):
        raise TypeError(f"schedule: expected a NoiseSchedule, got {type(schedule).__name__}")
    if is_compiling() or checks.dispatch_modes():
        return ChainPlan(*build(schedule, *arguments), device)
    plans = _PLANS.get(schedule)
    if plans is None:
        plans = _PLANS[schedule] = {}
    key = (build, device, arguments)
    plan = plans.get(key)
    if plan is None:
        with torch.inference_mode(False):
            plan = ChainPlan(*build(schedule, *arguments), device)
            keep_on_host(plan.step_coefficients)
        if len(plans) >= MAX_CACHED_PLANS:
            plans.clear()
        plans[key] = plan
    return plan


def timesteps(name: str, t: Any) -> tuple[int, ...]:
    """A sequence or tensor of integers [K]."""
    if isinstance(t, Tensor):
        checks.with_values(name, t)
        if t.is_floating_point() or t.is_complex() or t.dtype == torch.bool or t.dim() != 1:
            raise TypeError(f"{name}: expected integers [K], got {t.dtype} {list(t.shape)}")
        return tuple(t.tolist())
    if type(t) is not list and (
        isinstance(t, str) or not (isinstance(t, Sequence) or (hasattr(t, "__array__") and getattr(t, "ndim", None) != 0))
    ):
        raise TypeError(f"{name}: expected a sequence of ints or a tensor, got {type(t).__name__}")
    return tuple([x if type(x) is int else integer(name, x) for x in t])  # a list is faster than a generator


def visited(steps: Any) -> int | tuple[int, ...]:
    """The argument ``steps`` of a chain: a number, or timesteps."""
    if isinstance(steps, int):
        return integer("steps", steps)
    if isinstance(steps, Tensor | Sequence) or getattr(steps, "ndim", None):
        return timesteps("steps", steps)
    return integer("steps", steps)
