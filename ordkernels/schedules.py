"""Noise schedules and the timesteps at which the heads of an aligned diffusion read its state.

Steps are 0, ..., T: ``alpha_bar[0] = 1`` is data, ``alpha_bar[T]`` nearly noise. Everything is computed in fp64 and stored in fp32.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from . import rng
from ._validation import arrays
from ._validation import tensors as checks
from ._validation.numbers import boolean, integer, one_of, python_scalar, real

__all__ = ["NoiseSchedule", "aligned_timesteps", "check_aligned", "mixture_timesteps", "noise_schedule"]

MOST_STEPS = 1 << 20
BASE_STEPS = 1000  # that the published ends of beta belong to


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    r"""The levels :math:`\bar\alpha_t = \prod_{s \le t} (1 - \beta_s)` of a diffusion process of T steps.

    Attributes:
        alpha_bar: ``[T + 1]`` fp32, ``alpha_bar[0] = 1``, in (0, 1], not rising; a copy.
        exact: the same as a tuple of Python floats, unrounded: `1 - alpha_bar` is exact near 1.

    Raises:
        ValueError: alpha_bar that does not start at 1, rises, or leaves (0, 1].

    Example:
        >>> from ordkernels.schedules import NoiseSchedule
        >>> schedule = NoiseSchedule.cosine(50)
        >>> schedule.T, schedule.alpha_bar.shape
        (50, torch.Size([51]))
    """

    exact: tuple[float, ...]

    def __post_init__(self) -> None:
        a = np.asarray(self.exact, dtype=np.float64)
        if a.ndim != 1 or len(a) < 2:
            raise ValueError(f"alpha_bar: expected [T + 1] with T >= 1, got shape {list(a.shape)}")
        if a[0] != 1:
            raise ValueError(f"alpha_bar: expected alpha_bar[0] = 1, got {a[0]}")
        bad = np.flatnonzero(~((a > 0) & (a <= 1)))
        if bad.size:
            raise ValueError(f"alpha_bar: expected values in (0, 1], got {a[bad[0]]} at t = {bad[0]}")
        rising = np.flatnonzero(np.diff(a) > 0)
        if rising.size:
            raise ValueError(f"alpha_bar: expected values that do not rise, got a rise after t = {rising[0]}")
        object.__setattr__(self, "exact", tuple(map(float, a)))
        object.__setattr__(self, "_tables", {})

    @property
    def T(self) -> int:
        return len(self.exact) - 1

    @property
    def alpha_bar(self) -> Tensor:
        with torch.inference_mode(False):  # else a tensor that training cannot use
            return self.on("cpu").clone()

    def on(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Tensor:
        """alpha_bar on a device, copied there once, and again after that copy was written: ``[T + 1]``."""
        tables: dict[Any, Tensor] = self._tables  # type: ignore[attr-defined]
        key = (str(device), dtype)
        if key not in tables or tables[key]._version:  # counts the writes in place
            with torch.inference_mode(False):
                tables[key] = torch.tensor(self.exact, dtype=dtype, device=device)
        return tables[key]

    @property
    def betas(self) -> Tensor:
        """``[T]`` fp32, of steps 1, ..., T."""
        a = np.asarray(self.exact)
        return torch.from_numpy(1 - a[1:] / a[:-1]).float()

    def check_steps(self, steps: Sequence[int]) -> list[int]:
        """Strictly decreasing timesteps in [1, T], as a list.

        Raises:
            ValueError: otherwise.
        """
        return _strictly_decreasing("steps", steps, self.T)

    @classmethod
    def linear(cls, T: int, beta_start: float = 1e-4, beta_end: float = 0.02, rescale: bool = True) -> "NoiseSchedule":
        r"""Betas that rise linearly.

        Args:
            T: number of steps.
            beta_start, beta_end: ends over 1000 steps, in [0, 1).
            rescale: take that schedule of 1000 steps at ``round(1000 t / T)``, so that every T covers the same range of noise; False
                takes T betas between the same ends, as diffusers does.

        Raises:
            ValueError: T < 1, betas outside [0, 1).

        Source: Ho, Jain, Abbeel, Denoising Diffusion Probabilistic Models, section 4.
        """
        T = integer("T", T, least=1, most=MOST_STEPS)
        beta_start, beta_end = real("beta_start", beta_start), real("beta_end", beta_end)
        for name, beta in (("beta_start", beta_start), ("beta_end", beta_end)):
            if not 0 <= beta < 1:
                raise ValueError(f"{name}: expected a number in [0, 1), got {beta}")
        if not boolean("rescale", rescale):
            return cls.from_betas(np.linspace(beta_start, beta_end, T))
        base = cls.from_betas(np.linspace(beta_start, beta_end, BASE_STEPS)).exact
        return cls(tuple(base[(2 * BASE_STEPS * t + T) // (2 * T)] for t in range(T + 1)))

    @classmethod
    def cosine(cls, T: int, s: float = 0.008, beta_max: float = 0.999) -> "NoiseSchedule":
        r"""Levels :math:`\cos^2(\frac{t/T + s}{1 + s} \frac{\pi}{2})`, relative to t = 0, betas at most beta_max.

        Args:
            T: number of steps.
            s: offset, so that the first betas are not too small.
            beta_max: bound on the betas.

        Raises:
            TypeError, ValueError: T < 1, a negative s or beta_max.

        Source: Nichol and Dhariwal, Improved Denoising Diffusion Probabilistic Models, eq. 17.
        """
        T, s, beta_max = integer("T", T, least=1, most=MOST_STEPS), real("s", s, least=0), real("beta_max", beta_max, least=0)
        if not beta_max < 1:
            raise ValueError(f"beta_max: expected a number in [0, 1), got {beta_max}")
        level = np.cos((np.arange(T + 1) / T + s) / (1 + s) * math.pi / 2) ** 2
        return cls.from_betas(np.minimum(1 - level[1:] / level[:-1], beta_max))

    @classmethod
    def from_betas(cls, betas: Any) -> "NoiseSchedule":
        """Of betas ``[T]``.

        Args:
            betas: in [0, 1): a tensor, an array or a sequence.

        Raises:
            ValueError: another shape, betas outside [0, 1).
        """
        b = arrays.numbers("betas", betas, letter="T", nan=True).astype(np.float64)
        if not len(b):
            raise ValueError("betas: expected [T] with T >= 1, got shape [0]")
        bad = np.flatnonzero(~((b >= 0) & (b < 1)))
        if bad.size:
            raise ValueError(f"betas: expected values in [0, 1), got {b[bad[0]]} at {bad[0]}")
        return cls((1.0, *np.cumprod(1 - b)))

    @classmethod
    def from_diffusers(cls, config: Any) -> "NoiseSchedule":
        """Of a diffusers scheduler. Its timestep t is step ``t + 1`` here.

        Nothing is assumed: what the noise levels depend on must be there, and what is not known to leave them as they are is refused.
        How a scheduler steps (prediction type, clipping, thresholding, spacing, variance) is not part of a schedule.

        Args:
            config: the scheduler, its config or a dict like it.

        Raises:
            TypeError: neither a mapping nor an object with a config.
            ValueError: a missing entry, an unknown one, a beta_schedule that is not "linear", "scaled_linear" or "squaredcos_cap_v2"
                where trained_betas are not given, or an option that changes the noise levels, such as rescale_betas_zero_snr.

        Example:
            >>> NoiseSchedule.from_diffusers({"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000}).T
            1000
        """
        config = getattr(config, "config", config)
        if not isinstance(config, Mapping):
            raise TypeError(f"config: expected a diffusers scheduler, its config or a dict, got {type(config).__name__}")
        _check_diffusers_entries(config)
        if config.get("trained_betas") is not None:
            schedule = cls.from_betas(config["trained_betas"])
            if "num_train_timesteps" in config and config["num_train_timesteps"] != schedule.T:
                raise ValueError(f"trained_betas: expected num_train_timesteps = {config['num_train_timesteps']} of them, got {schedule.T}")
            return schedule
        T, name = (
            integer("num_train_timesteps", _entry(config, "num_train_timesteps"), least=1, most=MOST_STEPS),
            _entry(config, "beta_schedule"),
        )
        if name == "squaredcos_cap_v2":
            return cls.cosine(T)
        if name not in ("linear", "scaled_linear"):
            raise ValueError(f"beta_schedule: expected 'linear', 'scaled_linear' or 'squaredcos_cap_v2', got {name!r}")
        first, last = real("beta_start", _entry(config, "beta_start")), real("beta_end", _entry(config, "beta_end"))
        if name == "linear":
            return cls.linear(T, first, last, rescale=False)
        return cls.from_betas(np.linspace(first**0.5, last**0.5, T) ** 2)


def _entry(config: Mapping[str, Any], name: str) -> Any:
    if name not in config:
        raise ValueError(f"config: expected an entry {name!r}, got {', '.join(sorted(map(str, config))) or 'none'}")
    return config[name]


_OF_NOISE = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
# How a scheduler steps: the training's noise levels are the same whatever these are.
_OF_STEPS = (
    "algorithm_type", "clip_sample", "clip_sample_range", "disable_corrector", "dynamic_thresholding_ratio", "euler_at_final",
    "final_sigmas_type", "interpolation_type", "lower_order_final", "original_inference_steps", "predict_x0", "prediction_type",
    "sample_max_value", "set_alpha_to_one", "set_alpha_to_zero", "skip_prk_steps", "solver_order", "solver_p", "solver_type",
    "steps_offset", "thresholding", "timestep_scaling", "timestep_spacing", "timestep_type", "variance_type",
)  # fmt: skip
# These change the noise levels, unless they are off.
_OFF = (
    "invert_sigmas", "lambda_min_clipped", "rescale_betas_zero_snr", "shift", "sigma_max", "sigma_min", "snr_shift_scale",
    "use_beta_sigmas", "use_dynamic_shifting", "use_exponential_sigmas", "use_flow_sigmas", "use_karras_sigmas", "use_lu_lambdas",
)  # fmt: skip


def _check_diffusers_entries(config: Mapping[str, Any]) -> None:
    for name, value in config.items():
        if name in _OF_NOISE or name in _OF_STEPS or str(name).startswith("_"):
            continue
        if name not in _OFF:
            raise ValueError(f"config: expected entries that are known to leave the noise levels as they are, got {name!r}: {value!r}")
        if not (value is None or value is False or (name == "lambda_min_clipped" and value == -math.inf)):
            raise ValueError(f"config: expected {name} to be off, since it changes the noise levels, got {value!r}")


def noise_schedule(schedule: "Literal['linear', 'cosine'] | NoiseSchedule", T: int) -> NoiseSchedule:
    """A schedule as it is, or one of T steps by name.

    Args:
        schedule: a schedule, ``"linear"`` or ``"cosine"``.
        T: steps of a schedule by name.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(schedule, NoiseSchedule):
        return schedule
    schedule = python_scalar(schedule)
    if not isinstance(schedule, str) or schedule not in ("linear", "cosine"):
        raise ValueError(f"schedule: expected 'linear', 'cosine' or a NoiseSchedule, got {schedule!r}")
    return NoiseSchedule.linear(T) if schedule == "linear" else NoiseSchedule.cosine(T)


def aligned_timesteps(K: int, T: int, spacing: Literal["linear", "log"] = "linear") -> Tensor:
    r"""The steps :math:`\tau_1 > \dots > \tau_K` at which head k reads the state: coarse increments are read from noisy states.

    .. math:: \tau_k = \left\lfloor \frac{2 T (K - k + 1) + K}{2 K} \right\rfloor

    ``"log"``: :math:`g_k` geometric from T to 1, :math:`\tau_k = \max(\lfloor g_k + 1/2 \rfloor, \tau_{k+1} + 1)`, :math:`\tau_K = 1`.

    Args:
        K: number of heads.
        T: number of steps, at least K.
        spacing: ``"linear"`` or ``"log"``.

    Returns:
        ``[K]`` int64.

    Raises:
        ValueError: K < 1, T < K, another spacing.

    Source: DiffoR, aligned denoising.

    Example:
        >>> from ordkernels.schedules import aligned_timesteps
        >>> aligned_timesteps(4, 50)
        tensor([50, 38, 25, 13])
        >>> aligned_timesteps(4, 50, "log")
        tensor([50, 14,  4,  1])
    """
    K, T = integer("K", K, least=1), integer("T", T, least=1, most=MOST_STEPS)
    if T < K:
        raise ValueError(f"T: expected at least K = {K} steps, got {T}")
    if one_of("spacing", spacing, ("linear", "log")) == "linear":
        taus = [(2 * T * (K - k + 1) + K) // (2 * K) for k in range(1, K + 1)]
    else:
        taus = [1]
        for k in range(K - 1, 0, -1):
            g = T ** ((K - k) / (K - 1))
            taus.append(max(math.floor(g + 0.5), taus[-1] + 1))
        taus.reverse()
        if K == 1:
            taus = [1]
    return torch.tensor(check_aligned(taus, T))


def check_aligned(aligned: Any, T: int) -> list[int]:
    """Strictly decreasing steps in [1, T], as a list.

    Args:
        aligned: a tensor, an array or a sequence.
        T: number of steps.

    Raises:
        TypeError: steps that are not integers.
        ValueError: steps that leave [1, T] or do not decrease.
    """
    return _strictly_decreasing("aligned", aligned, integer("T", T, least=1, most=MOST_STEPS))


def mixture_timesteps(
    B: int, T: int, aligned: Any, rho: float, seed: int | Tensor, step: int = 0, row_ids: Any = None, *, device: Any = None
) -> Tensor:
    r"""A training timestep per row: :math:`t \sim (1 - \rho)\, \mathrm{Uniform}\{1, \dots, T\} + \rho\, \mathrm{Uniform}\{\tau\}`.

    Row-keyed, see :func:`ordkernels.rng.uniform`: float 0 of a row chooses the part, float 1 the step in it.

    Args:
        B: rows.
        T: number of steps.
        aligned: the steps tau, strictly decreasing in [1, T].
        rho: share of the aligned part, in [0, 1].
        seed, step, row_ids: of the random numbers; step is the training step, row_ids None means 0, ..., B - 1.
        device: of the result, where row_ids do not say it.

    Returns:
        ``[B]`` int64.

    Raises:
        ValueError: naming the argument.

    Source: DiffoR, aligned training.

    Example:
        >>> from ordkernels.schedules import aligned_timesteps, mixture_timesteps
        >>> mixture_timesteps(3, 50, aligned_timesteps(4, 50), 0.5, seed=0).shape
        torch.Size([3])
    """
    B, T = integer("B", B, least=0, most=2**31), integer("T", T, least=1, most=MOST_STEPS)
    taus = check_aligned(aligned, T)
    rho = real("rho", rho)
    if not 0 <= rho <= 1:
        raise ValueError(f"rho: expected a number in [0, 1], got {rho}")
    u = rng.uniform(seed, row_ids, step, 2, **({"rows": B, "device": device} if row_ids is None else {}))
    if u.shape[0] != B:
        raise ValueError(f"row_ids: expected [B] = [{B}], got [{u.shape[0]}]")
    part, position = u.double().unbind(1)  # in (0, 1]
    taus_ = torch.tensor(taus, device=u.device)
    anywhere = (position * T).ceil().long().clamp(1, T)
    at = (position * len(taus)).ceil().long().clamp(1, len(taus)) - 1
    return torch.where(part <= rho, taus_[at], anywhere) if rho > 0 else anywhere


def _strictly_decreasing(name: str, steps: Any, T: int) -> list[int]:
    if isinstance(steps, Tensor):
        checks.with_values(name, steps)
    steps = steps.tolist() if hasattr(steps, "tolist") else steps
    if isinstance(steps, str) or not isinstance(steps, Sequence):
        raise TypeError(f"{name}: expected a sequence of ints, got {type(steps).__name__}")
    taus = [integer(name, t) for t in steps]
    if not taus:
        raise ValueError(f"{name}: expected at least one step, got none")
    for t in taus:
        if not 1 <= t <= T:
            raise ValueError(f"{name}: expected steps in [1, {T}], got {t}")
    for a, b in itertools.pairwise(taus):
        if b >= a:
            raise ValueError(f"{name}: expected strictly decreasing steps, got {a} before {b}")
    return taus
