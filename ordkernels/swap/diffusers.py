"""diffusers' DDIMScheduler and DDPMScheduler, by ``ops.reverse_step``, ``ops.predict_x0`` and ``ops.q_sample``.

A deterministic step is one call. A random one estimates x0 by one call and combines it with the scheduler's own coefficients: those
are rounded to fp32 where ``1 - alpha_t / alpha_s`` cancels (by up to 1e-3 of their value), and its samples are to stay. The timesteps
and tables are the scheduler's own. Beyond the original, ``step`` takes a tensor of timesteps, one for each row, and ``seed=`` with
``row_ids=`` for noise that depends on the row alone, not on its batch.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .. import ops, rng
from ._rules import Fallback, rule

_PREDICTIONS: dict[str, Any] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
# A step at alpha_bar 0 (zero terminal SNR) is that at this one to all digits: its square root vanishes beside 1 in fp64.
_TINY = 1e-40


def _unless(scheduler: Any) -> str | None:
    config = scheduler.config
    if config.prediction_type not in _PREDICTIONS:
        return f"prediction_type={config.prediction_type!r}"
    if scheduler.alphas_cumprod.dtype not in (torch.float32, torch.float64) or scheduler.alphas_cumprod.device.type == "meta":
        return f"alphas_cumprod of {scheduler.alphas_cumprod.dtype} on {scheduler.alphas_cumprod.device}"
    return None


def _beyond(arguments: dict[str, Any]) -> bool:
    return arguments.get("seed") is not None or _per_row(arguments.get("timestep"))


class _Scheduler:
    """What both share."""

    config: Any
    alphas_cumprod: Tensor
    timesteps: Tensor

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Any:
        self.alphas_cumprod = self.alphas_cumprod.to(original_samples.device)  # as the original does
        t = timesteps.to(original_samples.device)
        B = original_samples.shape[0] if original_samples.dim() else 0
        if not _plain(original_samples, noise) or t.numel() not in (1, B) or original_samples.dim() < 2:
            return Fallback(f"samples {_kind(original_samples)}, noise {_kind(noise)}, timesteps {_kind(timesteps)}")
        alpha_bar = self.alphas_cumprod[t].flatten().to(torch.float64).clamp(min=_TINY)
        return ops.q_sample(_rows(original_samples), _rows(noise), alpha_bar).view(original_samples.shape)

    def _estimate(self, x: Tensor, output: Tensor, a_t: Any) -> Tensor:
        """x0, clipped or thresholded as configured."""
        kind, config = _PREDICTIONS[self.config.prediction_type], self.config
        clip = float(config.clip_sample_range) if config.clip_sample and not config.thresholding else None
        x0 = ops.predict_x0(_rows(x), _rows(output), a_t, prediction=kind, clip=clip).view(x.shape)
        return self._threshold_sample(x0) if config.thresholding else x0  # type: ignore[attr-defined]

    def _fused(
        self, x: Tensor, output: Tensor, a_t: Any, a_s: Any, *, eta: float, reclip: bool, noise: Tensor | None = None, seed: Any = None,
        row_ids: Any = None, step: Any = 0,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """One call; of levels per row, or with noise per row, where there is no original whose rounding counts."""
        config, kind = self.config, _PREDICTIONS[self.config.prediction_type]
        if seed is not None and isinstance(step, Tensor):
            seed, noise = None, _keyed(output, seed, row_ids, step)
        clip = float(config.clip_sample_range) if config.clip_sample and not config.thresholding else None
        if config.thresholding:
            output, kind = self._estimate(x, output, a_t), "x0"
        x_s, x0 = ops.reverse_step(
            _rows(x), _rows(output), a_t, a_s, eta=eta, prediction=kind, clip=clip, use_clipped_model_output=reclip,
            noise=None if noise is None else _rows(noise), seed=seed, row_ids=row_ids, step=0 if isinstance(step, Tensor) else step,
        )  # fmt: skip
        return x_s.view(x.shape), x0.view(x.shape)

    def _undefined(self, a_t: float) -> bool:
        """No estimate of x0 from the noise alone at 0, and no noise to tell at 1."""
        return a_t >= 1 or (a_t == 0 and self.config.prediction_type == "epsilon")

    def _refusal(self, x: Tensor, output: Tensor) -> str | None:
        if not _plain(x, output):
            return f"sample {_kind(x)}, model_output {_kind(output)}"
        if x.dtype == torch.float64 != self.alphas_cumprod.dtype:
            return "fp64 samples, of which the original computes with coefficients rounded to fp32"
        return None


@rule("diffusers.schedulers.scheduling_ddim.DDIMScheduler", op="reverse_step", unless=_unless, kinks=True, beyond=_beyond,
      relies_on=("_get_variance",))  # fmt: skip
class DDIMSteps(_Scheduler):
    num_inference_steps: int | None
    final_alpha_cumprod: Tensor

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, eta: float = 0.0, use_clipped_model_output: bool = False,
        generator: Any = None, variance_noise: Tensor | None = None, return_dict: bool = True, *, seed: int | None = None,
        row_ids: Tensor | None = None,
    ) -> Any:  # fmt: skip
        a_t: Any
        a_s: Any
        refusal = self._refusal(sample, model_output)
        if refusal or self.num_inference_steps is None or (variance_noise is not None and generator is not None):
            return Fallback(refusal or "a call that the original refuses")
        stride = self.config.num_train_timesteps // self.num_inference_steps
        final = float(self.final_alpha_cumprod)
        if _per_row(timestep):
            a_t, a_s = _levels_of_rows(self.alphas_cumprod, final, timestep, timestep - stride, sample)
            step: int | Tensor = timestep
        else:
            step = t = int(timestep)
            table = _table(self.alphas_cumprod)
            if not 0 <= t < len(table):
                return Fallback(f"timestep {t} outside the table")
            a_t, a_s = table[t], table[t - stride] if t >= stride else final
            if self._undefined(a_t):
                return Fallback(f"{self.config.prediction_type} at alpha_bar {a_t}")
            a_t = max(a_t, _TINY)
        eta, reclip, kind = float(eta), bool(use_clipped_model_output), _PREDICTIONS[self.config.prediction_type]
        one_epsilon = reclip or not self.config.thresholding  # reverse_step takes epsilon from the output, or from the estimate of x0
        if one_epsilon and (eta == 0 or (variance_noise is None and seed is not None) or isinstance(step, Tensor)):
            noise = variance_noise
            if eta > 0 and noise is None and seed is None:
                noise = _randn(model_output, generator)
            x_s, x0 = self._fused(
                sample, model_output, a_t, a_s, eta=eta, reclip=reclip, noise=noise if eta > 0 else None,
                seed=seed if noise is None else None, row_ids=row_ids, step=step,
            )  # fmt: skip
            return _result("ddim.DDIM", x_s, x0, return_dict)
        if isinstance(step, Tensor):
            raise ValueError("timestep: expected a number, as thresholding without use_clipped_model_output has no form per row")
        x0 = self._estimate(sample, model_output, a_t)
        terms: list[tuple[float, Tensor]] = []
        root, direction, sigma = self._numbers(step, stride, eta)
        e0, e1, e2 = _epsilon("x0" if reclip else kind, a_t, reclip)
        for c, term in ((root + direction * e2, x0), (direction * e0, sample), (direction * e1, model_output)):
            terms += [(c, term)] if c else []
        if eta > 0:
            drawn = _keyed(model_output, seed, row_ids, step) if variance_noise is None and seed is not None else variance_noise
            terms.append((sigma, _randn(model_output, generator) if drawn is None else drawn))
        return _result("ddim.DDIM", _combine(terms), x0, return_dict)

    def _numbers(self, t: int, stride: int, eta: float) -> tuple[float, float, float]:
        """Of the estimate of x0, of epsilon and of the noise, rounded as the original's: but where that leaves epsilon less than
        nothing, as at eta 1 from alpha_bar 0 it may, the original's root of it is NaN and ours is 0."""
        a_s = self.alphas_cumprod[t - stride] if t >= stride else self.final_alpha_cumprod
        sigma = eta * self._get_variance(t, t - stride) ** 0.5  # type: ignore[attr-defined]
        return float(a_s**0.5), float((1 - a_s - sigma**2).clamp(min=0) ** 0.5), float(sigma)


@rule("diffusers.schedulers.scheduling_ddpm.DDPMScheduler", op="reverse_step", unless=_unless, kinks=True, beyond=_beyond,
      relies_on=("previous_timestep",))  # fmt: skip
class DDPMSteps(_Scheduler):
    num_inference_steps: int | None
    custom_timesteps: bool
    variance_type: str
    one: Tensor

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, generator: Any = None, return_dict: bool = True, *,
        seed: int | None = None, row_ids: Tensor | None = None,
    ) -> Any:  # fmt: skip
        kind = self.variance_type
        learned = kind.startswith("learned")
        if learned and sample.dim() > 1 and model_output.shape[1] == 2 * sample.shape[1]:
            output, variance = model_output.split(sample.shape[1], dim=1)
        else:
            output, variance = model_output, None
        refusal = self._refusal(sample, output)
        if refusal or (learned and variance is None):
            return Fallback(refusal or "a learned variance without its channels")
        a_t: Any
        a_s: Any
        if _per_row(timestep):
            if kind != "fixed_small":
                raise ValueError(f"timestep: expected a number, as variance_type={kind!r} has no form per row, got {_kind(timestep)}")
            before = self._before()
            a_t, a_s = _levels_of_rows(self.alphas_cumprod, 1.0, timestep, before.to(timestep.device)[timestep], sample)
            noise = _randn(output, generator) if seed is None else None
            x_s, x0 = self._fused(
                sample, output, a_t, a_s, eta=1.0, reclip=True, noise=noise, seed=seed, row_ids=row_ids, step=timestep
            )  # fmt: skip
            return _result("ddpm.DDPM", x_s, x0, return_dict)
        t = int(timestep)
        table = _table(self.alphas_cumprod)
        previous = int(_table(self._before())[t]) if 0 <= t < len(table) else -2
        if previous == -2:
            return Fallback(f"timestep {t}, which is none of the scheduler's")
        a_t, a_s = table[t], table[previous] if previous >= 0 else 1.0
        if self._undefined(a_t):
            return Fallback(f"{self.config.prediction_type} at alpha_bar {a_t}")
        a_t = max(a_t, _TINY)
        if seed is not None and t > 0 and a_s < 1 and kind == "fixed_small":
            x_s, x0 = self._fused(sample, output, a_t, a_s, eta=1.0, reclip=True, seed=seed, row_ids=row_ids, step=t)
            return _result("ddpm.DDPM", x_s, x0, return_dict)
        of_x0, of_x, sigma = self._numbers(t, previous)
        x0 = self._estimate(sample, output, a_t)
        terms = [(of_x0, x0), (of_x, sample)]
        if t > 0:
            noise = _randn(output, generator) if seed is None else _keyed(output, seed, row_ids, t)
            if variance is not None:
                learned = self._get_variance(t, predicted_variance=variance)  # type: ignore[attr-defined]
                terms.append((1.0, (torch.exp(0.5 * learned) if kind == "learned_range" else learned**0.5) * noise))
            else:
                terms.append((sigma, noise))
        return _result("ddpm.DDPM", _combine(terms), x0, return_dict)

    def _numbers(self, t: int, previous: int) -> tuple[float, float, float]:
        """Of the estimate of x0, of the sample and of the noise, rounded as the original's; computed once per timestep."""
        version, known = _NUMBERS.get(self.alphas_cumprod, (None, {}))
        if version != self.alphas_cumprod._version:
            known = {}
            _NUMBERS[self.alphas_cumprod] = self.alphas_cumprod._version, known
        key = t, previous, self.variance_type, self.config.variance_type
        if key not in known:
            a_t, a_s = self.alphas_cumprod[t], self.alphas_cumprod[previous] if previous >= 0 else self.one
            alpha = a_t / a_s
            sigma = 0.0
            if t > 0 and not self.variance_type.startswith("learned"):
                variance = self._get_variance(t)  # type: ignore[attr-defined]
                sigma = float(variance if self.variance_type == "fixed_small_log" else variance**0.5)
            known[key] = float(a_s**0.5 * (1 - alpha) / (1 - a_t)), float(alpha**0.5 * (1 - a_s) / (1 - a_t)), sigma
        return known[key]

    def _before(self) -> Tensor:
        """The timestep after each one in the chain, -1 after the last, -2 where there is none."""
        T = len(self.alphas_cumprod)
        if not (self.custom_timesteps or self.num_inference_steps):
            return _PLAIN.setdefault(T, torch.arange(-1, T - 1))
        version, found = _BEFORE.get(self.timesteps, (None, None))
        if version != self.timesteps._version:
            steps = self.timesteps.cpu()
            found = torch.full((T,), -2)
            found[steps] = torch.cat((steps[1:], steps.new_full((1,), -1)))
            _BEFORE[self.timesteps] = self.timesteps._version, found
        return found


_PLAIN: dict[int, Tensor] = {}
_BEFORE: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # timesteps -> (their version, the one after each)
_TABLES: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # tensor -> (its version, its values)
_NUMBERS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # alphas_cumprod -> (its version, coefficients)


def _table(table: Tensor) -> list[Any]:
    """A table's values as numbers, read once."""
    version, values = _TABLES.get(table, (None, []))
    if version != table._version:
        values = table.tolist()
        _TABLES[table] = table._version, values
    return values


def _levels_of_rows(alphas: Tensor, final: float, t: Tensor, s: Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
    if t.dim() != 1 or len(t) != sample.shape[0] or t.is_floating_point():
        raise ValueError(f"timestep: expected a number, or integers [B] = [{sample.shape[0]}], got {_kind(t)}")
    table = alphas.to(sample.device, torch.float64).clamp(min=_TINY)
    t, s = t.to(sample.device), s.to(sample.device)
    return table[t], torch.where(s >= 0, table[s.clamp(min=0)], final)


def _epsilon(kind: str, a_t: float, reclip: bool) -> tuple[float, float, float]:
    """Coefficients of the sample, of the model's output and of the estimate of x0 in the noise that the step goes on with."""
    a, n = math.sqrt(a_t), math.sqrt(1 - a_t)
    if reclip:
        return 1 / n, 0.0, -a / n
    return {"eps": (0.0, 1.0, 0.0), "x0": (1 / n, -a / n, 0.0), "v": (n, a, 0.0)}[kind]


def _combine(terms: list[tuple[float, Tensor]]) -> Tensor:
    """The sum of number times tensor, in as few passes."""
    (first, t), *rest = terms
    total = t * first
    for c, t in rest:
        total = total.add_(t, alpha=c)
    return total


def _plain(x: Tensor, y: Tensor) -> bool:
    return isinstance(x, Tensor) and isinstance(y, Tensor) and x.shape == y.shape and x.dtype == y.dtype and x.is_floating_point()


def _kind(t: Any) -> str:
    return f"{list(t.shape)} {t.dtype}" if isinstance(t, Tensor) else type(t).__name__


def _per_row(timestep: Any) -> bool:
    return isinstance(timestep, Tensor) and timestep.numel() != 1


def _rows(t: Tensor) -> Tensor:
    return t.reshape(t.shape[0], -1) if t.dim() > 1 else t.reshape(1, -1)


def _randn(like: Tensor, generator: Any) -> Tensor:
    draw = importlib.import_module("diffusers.utils.torch_utils").randn_tensor
    noise: Tensor = draw(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return noise


def _keyed(like: Tensor, seed: int, row_ids: Tensor | None, step: int | Tensor) -> Tensor:
    """Noise keyed by row and timestep, of one timestep or of each row's."""
    B = like.shape[0]
    ids = torch.arange(B, device=like.device) if row_ids is None else row_ids
    width = like[0].numel() if B else 0
    if not isinstance(step, Tensor):
        return rng.normal(seed, ids, step, width).to(like.dtype).view(like.shape)
    noise = like.new_empty(B, width)
    for t in step.unique().tolist():
        rows = step.to(like.device) == t
        noise[rows] = rng.normal(seed, ids[rows], t, width).to(like.dtype)
    return noise.view(like.shape)


def _result(name: str, x_s: Tensor, x0: Tensor, return_dict: bool) -> Any:
    if not return_dict:
        return x_s, x0
    module, prefix = name.split(".")
    output = getattr(importlib.import_module(f"diffusers.schedulers.scheduling_{module}"), f"{prefix}SchedulerOutput")
    return output(prev_sample=x_s, pred_original_sample=x0)
