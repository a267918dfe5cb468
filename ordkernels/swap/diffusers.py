"""diffusers' DDIMScheduler and DDPMScheduler: a step, or a noised sample, is one call of ``ops.reverse_step`` or ``ops.q_sample``.

``set_timesteps``, every spacing and every table of alphas are the scheduler's own. Beyond the original, ``step`` takes a tensor of
timesteps, one for each row, and ``seed=`` with ``row_ids=`` for noise that depends on the row alone, not on its batch.
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
_ORDINARY_VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range")


def _unless(scheduler: Any) -> str | None:
    config = scheduler.config
    if config.prediction_type not in _PREDICTIONS:
        return f"prediction_type={config.prediction_type!r}"
    if scheduler.alphas_cumprod.dtype not in (torch.float32, torch.float64) or scheduler.alphas_cumprod.device.type == "meta":
        return f"alphas_cumprod of {scheduler.alphas_cumprod.dtype} on {scheduler.alphas_cumprod.device}"
    return None


def _unless_ddpm(scheduler: Any) -> str | None:
    kind = scheduler.variance_type
    if kind != scheduler.config.variance_type:
        return f"variance_type={kind!r}, in its configuration {scheduler.config.variance_type!r}"
    if kind not in _ORDINARY_VARIANCES:
        return f"variance_type={kind!r}, whose variance is NaN in the original (the root of a negative logarithm)"
    return _unless(scheduler)


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

    def _step(
        self, x: Tensor, output: Tensor, a_t: Any, a_s: Any, *, eta: float, reclip: bool, noise: Tensor | None, seed: Any, row_ids: Any,
        step: int | Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """One reverse step of samples of any shape; the estimate of x0 clipped or thresholded as configured."""
        kind, clip = _PREDICTIONS[self.config.prediction_type], None
        if seed is not None and (self.config.thresholding or isinstance(step, Tensor)):
            seed, noise = None, _keyed(output, seed, row_ids, step)
        if self.config.thresholding:
            x0 = self._threshold_sample(ops.predict_x0(_rows(x), _rows(output), a_t, prediction=kind).view(x.shape))  # type: ignore[attr-defined]
            if not reclip:
                output = _epsilon(kind, x, output, a_t)
                return _ddim(x, x0, output, a_t, a_s, eta, noise), x0
            output, kind = x0, "x0"
        elif self.config.clip_sample:
            clip = float(self.config.clip_sample_range)
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
      relies_on=("_get_variance", "_threshold_sample"))  # fmt: skip
class _DDIM(_Scheduler):
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
        noise = variance_noise
        if eta > 0 and noise is None and seed is None:
            noise = _randn(model_output, generator)
        x_s, x0 = self._step(
            sample, model_output, a_t, a_s, eta=float(eta), reclip=bool(use_clipped_model_output), noise=noise if eta > 0 else None,
            seed=seed if noise is None else None, row_ids=row_ids, step=step,
        )  # fmt: skip
        return _result("ddim.DDIM", x_s, x0, return_dict)


@rule("diffusers.schedulers.scheduling_ddpm.DDPMScheduler", op="reverse_step", unless=_unless_ddpm, kinks=True, beyond=_beyond,
      relies_on=("_get_variance", "_threshold_sample", "previous_timestep"))  # fmt: skip
class _DDPM(_Scheduler):
    num_inference_steps: int | None
    custom_timesteps: bool
    variance_type: str

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
            x_s, x0 = self._step(sample, output, a_t, a_s, eta=1.0, reclip=True, noise=noise, seed=seed, row_ids=row_ids, step=timestep)
            return _result("ddpm.DDPM", x_s, x0, return_dict)
        t = int(timestep)
        table = _table(self.alphas_cumprod)
        previous = int(_table(self._before())[t]) if 0 <= t < len(table) else -2
        if previous == -2:
            return Fallback(f"timestep {t}, which is none of the scheduler's")
        a_t, a_s = table[t], table[previous] if previous >= 0 else 1.0
        if self._undefined(a_t):
            return Fallback(f"{self.config.prediction_type} at alpha_bar {a_t}")
        if seed is not None and (t == 0 or kind == "fixed_small") and a_s < 1:
            x_s, x0 = self._step(sample, output, max(a_t, _TINY), a_s, eta=1.0, reclip=True, noise=None, seed=seed, row_ids=row_ids, step=t)
            return _result("ddpm.DDPM", x_s, x0, return_dict)
        noise = None if t == 0 else _randn(output, generator) if seed is None else _keyed(output, seed, row_ids, t)
        return self._noised(sample, output, variance, max(a_t, _TINY), a_s, noise, return_dict)

    def _noised(
        self, x: Tensor, output: Tensor, variance: Tensor | None, a_t: float, a_s: float, noise: Tensor | None, return_dict: bool
    ) -> Any:
        """The posterior mean, and noise of the configured variance."""
        beta = 1 - a_t / a_s
        posterior = (1 - a_s) / (1 - a_t) * beta  # what reverse_step with eta=1 adds
        clamped = max(posterior, 1e-20)  # as the original's
        deviation: Any = math.sqrt(beta if self.variance_type == "fixed_large" else clamped)
        if variance is not None:
            share = (variance + 1) / 2
            learned = share * math.log(beta) + (1 - share) * math.log(clamped) if self.variance_type == "learned_range" else variance
            deviation = torch.exp(0.5 * learned) if self.variance_type == "learned_range" else learned.sqrt()
        scaled = noise
        if noise is not None and posterior > 0 and not (variance is None and deviation == math.sqrt(posterior)):
            scaled = noise * (deviation / math.sqrt(posterior))
        if noise is None and posterior > 0:
            scaled = torch.zeros_like(x)
        eta = 1.0 if posterior > 0 else 0.0
        x_s, x0 = self._step(x, output, a_t, a_s, eta=eta, reclip=True, noise=scaled if eta else None, seed=None, row_ids=None, step=0)
        if noise is not None and posterior == 0:
            x_s = x_s + deviation * noise
        return _result("ddpm.DDPM", x_s, x0, return_dict)

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


def _epsilon(kind: str, x: Tensor, output: Tensor, a_t: Any) -> Tensor:
    """The noise that the model's output stands for."""
    if kind == "eps":
        return output
    a, n = _roots(a_t, x)
    return (x - a * output) / n if kind == "x0" else a * output + n * x


def _ddim(x: Tensor, x0: Tensor, epsilon: Tensor, a_t: Any, a_s: Any, eta: float, noise: Tensor | None) -> Tensor:
    """DDIM's step from an estimate of x0 that is not the one epsilon goes with."""
    t, s = (torch.as_tensor(a, dtype=torch.float64, device=x.device) for a in (a_t, a_s))
    variance = eta**2 * (1 - s) / (1 - t) * (1 - t / s)
    root, direction, sigma = (_against(c, x) for c in (s.sqrt(), (1 - s - variance).clamp(min=0).sqrt(), variance.sqrt()))
    x_s = root * x0 + direction * epsilon
    return x_s if noise is None else x_s + sigma * noise


def _roots(a_t: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    t = torch.as_tensor(a_t, dtype=torch.float64, device=x.device)
    return _against(t.sqrt(), x), _against((1 - t).sqrt(), x)


def _against(c: Tensor, x: Tensor) -> Tensor:
    return c.to(x.dtype).view(-1, *[1] * (x.dim() - 1)) if c.dim() else c


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
