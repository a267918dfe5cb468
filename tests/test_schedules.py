"""Noise schedules against their formulas and diffusers, aligned timesteps, the mixture that training draws from."""

import itertools
import math

import numpy as np
import pytest
import torch

from ordkernels import rng
from ordkernels.nn import MLPDenoiser
from ordkernels.ops import denoise_chain
from ordkernels.schedules import NoiseSchedule, aligned_timesteps, check_aligned, mixture_timesteps

SCHEDULES = [
    NoiseSchedule.linear(50),
    NoiseSchedule.linear(7),
    NoiseSchedule.linear(20, rescale=False),
    NoiseSchedule.cosine(50),
    NoiseSchedule.cosine(1),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_levels_start_at_one_and_fall(schedule):
    a = schedule.alpha_bar
    assert a.dtype == torch.float32
    assert a.shape == (schedule.T + 1,)
    assert a[0] == 1
    assert (a > 0).all()
    assert (a.diff() < 0).all()
    torch.testing.assert_close(schedule.betas, 1 - torch.tensor([b / a for a, b in zip(schedule.exact, schedule.exact[1:], strict=False)]))


@pytest.mark.parametrize("T", [1, 8, 50, 999, 1000, 4000])
def test_rescaled_linear_covers_the_same_noise(T):
    base = np.concatenate([[1.0], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])
    a = NoiseSchedule.linear(T).exact
    for t in range(T + 1):
        assert a[t] == base[math.floor(1000 * t / T + 0.5)]


def test_linear_without_rescale_is_a_product_of_betas():
    torch.testing.assert_close(NoiseSchedule.linear(30, rescale=False).betas, torch.linspace(1e-4, 0.02, 30))
    torch.testing.assert_close(NoiseSchedule.linear(1000).alpha_bar, NoiseSchedule.linear(1000, rescale=False).alpha_bar)


def test_cosine_follows_its_formula_below_the_cap():
    T = 40
    f = [math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(T + 1)]
    np.testing.assert_allclose(NoiseSchedule.cosine(T).exact[:-1], [x / f[0] for x in f[:-1]], rtol=1e-12)
    assert NoiseSchedule.cosine(T).betas[-1] == pytest.approx(0.999)


def from_diffusers(**options):
    config = {"num_train_timesteps": 20, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02, "clip_sample": True}
    return NoiseSchedule.from_diffusers({**config, **options})


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("T", [10, 1000])
def test_diffusers_has_the_same_levels(name, T):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=T, beta_schedule=name)
    for config in (scheduler, scheduler.config, dict(scheduler.config)):
        schedule = NoiseSchedule.from_diffusers(config)
        torch.testing.assert_close(schedule.alpha_bar[1:], scheduler.alphas_cumprod, rtol=1e-4, atol=1e-5)


def test_entries_that_are_off_leave_the_levels_alone():
    off = from_diffusers(lambda_min_clipped=-np.inf, sigma_min=None, use_karras_sigmas=False)
    assert off.exact == from_diffusers().exact


def test_a_config_needs_no_diffusers():
    config = {"num_train_timesteps": 20, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    assert NoiseSchedule.from_diffusers(config).exact == NoiseSchedule.linear(20, rescale=False).exact
    assert NoiseSchedule.from_diffusers({"trained_betas": [0.1, 0.2]}).exact == pytest.approx((1.0, 0.9, 0.72))


def diffusers_schedulers():
    """Every scheduler of diffusers that can be made with its defaults, and some with options that change the noise."""
    diffusers = pytest.importorskip("diffusers")
    from diffusers.configuration_utils import ConfigMixin

    found = {}
    for name in dir(diffusers):
        cls = getattr(diffusers, name, None) if name.endswith("Scheduler") else None
        if not isinstance(cls, type) or not issubclass(cls, ConfigMixin):
            continue
        for options in ({}, {"rescale_betas_zero_snr": True}, {"use_karras_sigmas": True}, {"trained_betas": [0.1] * 30},
                        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}):  # fmt: skip
            try:
                found[f"{name} {options}"] = cls(**options)
            except Exception:  # one that needs another package, arguments, or has no such option
                continue
    return found


@pytest.mark.filterwarnings("ignore")
def test_a_scheduler_of_diffusers_is_read_exactly_or_refused():
    accepted, refused = 0, 0
    for name, scheduler in diffusers_schedulers().items():
        levels = getattr(scheduler, "alphas_cumprod", None)
        try:
            schedule = NoiseSchedule.from_diffusers(scheduler)
        except ValueError:
            refused += 1
            continue
        accepted += 1
        assert levels is not None, name
        torch.testing.assert_close(schedule.alpha_bar[1:], levels.float(), rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")
        assert not any(scheduler.config.get(option) for option in ("use_karras_sigmas", "rescale_betas_zero_snr")), name
    assert accepted >= 20
    assert refused >= 10


def test_exact_keeps_the_digits_near_one():
    schedule = NoiseSchedule.linear(1000)
    assert 1 - schedule.exact[1] == pytest.approx(1e-4, rel=1e-12)
    assert schedule.on("cpu", torch.float64)[1].item() == schedule.exact[1]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: NoiseSchedule.linear(0), "T: expected 1 to 1048576, got 0"),
        (lambda: NoiseSchedule.linear(2**70), f"T: expected 1 to 1048576, got {2**70}"),
        (lambda: NoiseSchedule.linear(2**70, rescale=False), f"T: expected 1 to 1048576, got {2**70}"),
        (lambda: NoiseSchedule.cosine(2**70), f"T: expected 1 to 1048576, got {2**70}"),
        (lambda: from_diffusers(num_train_timesteps=2**70), f"num_train_timesteps: expected 1 to 1048576, got {2**70}"),
        (lambda: aligned_timesteps(2, 2**70), f"T: expected 1 to 1048576, got {2**70}"),
        (lambda: check_aligned([5], 2**70), f"T: expected 1 to 1048576, got {2**70}"),
        (lambda: mixture_timesteps(3, 2**70, [4], 0.5, 0), f"T: expected 1 to 1048576, got {2**70}"),
        (lambda: NoiseSchedule.from_betas([0.1, 1.0]), r"betas: expected values in \[0, 1\), got 1.0 at 1"),
        (lambda: NoiseSchedule.from_betas([math.nan]), "betas: expected values in"),
        (lambda: NoiseSchedule.from_betas([]), r"betas: expected \[T\] with T >= 1"),
        (lambda: NoiseSchedule((1.0, 0.5, 0.0)), r"alpha_bar: expected values in \(0, 1\], got 0.0 at t = 2"),
        (lambda: NoiseSchedule((1.0, 0.5, 0.6)), "alpha_bar: expected values that do not rise, got a rise after t = 1"),
        (lambda: NoiseSchedule((0.9, 0.5)), r"alpha_bar: expected alpha_bar\[0\] = 1, got 0.9"),
        (lambda: from_diffusers(beta_schedule="sigmoid"), "beta_schedule: expected 'linear', .* got 'sigmoid'"),
        (lambda: from_diffusers(rescale_betas_zero_snr=True), "expected rescale_betas_zero_snr to be off"),
        (lambda: from_diffusers(shift=3.0), "config: expected shift to be off"),
        (lambda: from_diffusers(lambda_min_clipped=-5.1), "config: expected lambda_min_clipped to be off"),
        (lambda: from_diffusers(lambda_min_clipped=np.inf), "config: expected lambda_min_clipped to be off"),
        (lambda: from_diffusers(snr_gamma=5.0), "config: expected entries that are known .*, got 'snr_gamma': 5.0"),
        (lambda: NoiseSchedule.from_diffusers({"num_train_timesteps": 20}), "config: expected an entry 'beta_schedule'"),
        (lambda: NoiseSchedule.from_diffusers({}), "config: expected an entry 'num_train_timesteps', got none"),
        (lambda: from_diffusers(trained_betas=[0.1, 0.2]), "trained_betas: expected num_train_timesteps = 20 of them, got 2"),
        (lambda: aligned_timesteps(8, 7), "T: expected at least K = 8 steps, got 7"),
        (lambda: aligned_timesteps(0, 7), "K: expected at least 1, got 0"),
        (lambda: aligned_timesteps(2, 7, "cubic"), "spacing: expected 'linear' or 'log', got 'cubic'"),
        (lambda: check_aligned([5, 5, 1], 9), "aligned: expected strictly decreasing steps, got 5 before 5"),
        (lambda: check_aligned([1, 2], 9), "aligned: expected strictly decreasing steps, got 1 before 2"),
        (lambda: check_aligned([10, 2], 9), r"aligned: expected steps in \[1, 9\], got 10"),
        (lambda: check_aligned([2, 0], 9), r"aligned: expected steps in \[1, 9\], got 0"),
        (lambda: check_aligned([], 9), "aligned: expected at least one step, got none"),
        (lambda: mixture_timesteps(3, 9, [4], 1.5, 0), r"rho: expected a number in \[0, 1\], got 1.5"),
        (lambda: mixture_timesteps(3, 9, [4], 0.5, 0, row_ids=torch.arange(2)), r"row_ids: expected \[B\] = \[3\], got \[2\]"),
    ],
)
def test_bad_input_is_named(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_a_schedule_needs_whole_steps():
    with pytest.raises(TypeError, match="T: expected an int, got float"):
        NoiseSchedule.cosine(3.0)
    for call, name in (
        (lambda: NoiseSchedule.linear(50).check_steps([49.9, 20.5, 1.2]), "steps"),
        (lambda: check_aligned(np.array([50.0, 37.9, 12.2]), 50), "aligned"),
        (lambda: mixture_timesteps(4, 50, [50.0, 37.9, 12.2], 1.0, 0), "aligned"),
    ):
        with pytest.raises(TypeError, match=f"{name}: expected an int, got float"):
            call()


@pytest.mark.parametrize("K", [1, 2, 3, 8, 12])
@pytest.mark.parametrize("extra", [0, 1, 5, 42, 988])
@pytest.mark.parametrize("spacing", ["linear", "log"])
def test_aligned_steps_fall_strictly_from_noise_to_data(K, extra, spacing):
    T = K + extra
    taus = aligned_timesteps(K, T, spacing).tolist()
    assert len(taus) == K
    assert check_aligned(taus, T) == taus
    if spacing == "linear":
        assert taus[0] == T
        assert all(abs(tau - T * (K - k) / K) <= 0.5 for k, tau in enumerate(taus))
    else:
        assert taus[-1] == 1
        assert K == 1 or taus[0] == T
        if T == 1000 and K > 1:
            ratios = [a / b for a, b in itertools.pairwise(taus) if b > 50]
            assert all(r == pytest.approx(1000 ** (1 / (K - 1)), rel=0.03) for r in ratios)


def test_mixture_has_its_shares():
    B, T, taus = 40000, 20, [20, 10, 5, 1]
    t = mixture_timesteps(B, T, taus, 0.5, seed=3)
    share = torch.bincount(t, minlength=T + 1) / B
    expected = torch.full((T + 1,), 0.5 / T)
    expected[0] = 0
    expected[taus] += 0.5 / 4
    assert t.dtype == torch.int64
    assert (share - expected).abs().max() < 5 * math.sqrt(0.15 * 0.85 / B)  # five standard deviations
    assert set(mixture_timesteps(B, T, taus, 1.0, seed=3).tolist()) == set(taus)
    assert set(mixture_timesteps(B, T, taus, 0.0, seed=3).tolist()) == set(range(1, T + 1))


def test_mixture_belongs_to_the_row():
    ids = torch.arange(100) * 13
    whole = mixture_timesteps(100, 50, [50, 7], 0.3, seed=9, step=4, row_ids=ids)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mixture_timesteps(100, 50, [50, 7], 0.3, seed=9, step=4, row_ids=ids[order]), whole[order])
    assert not torch.equal(mixture_timesteps(100, 50, [50, 7], 0.3, seed=9, step=5, row_ids=ids), whole)
    assert torch.equal(
        mixture_timesteps(5, 50, [50, 7], 0.3, seed=9), mixture_timesteps(5, 50, [50, 7], 0.3, seed=9, row_ids=torch.arange(5))
    )


def test_mixture_survives_the_largest_uniform(monkeypatch):
    monkeypatch.setattr(rng, "uniform", lambda *a, **k: torch.ones(2, 2))
    assert mixture_timesteps(2, 9, [9, 4], 0.5, 0).tolist() == [9, 9]
    assert mixture_timesteps(2, 9, [9, 4], 1.0, 0).tolist() == [4, 4]


def test_empty_batch():
    assert mixture_timesteps(0, 9, [9, 4], 0.5, 0).shape == (0,)


def test_alpha_bar_is_a_copy_that_training_can_use():
    schedule = NoiseSchedule.cosine(7)
    with torch.inference_mode():
        made_inside = schedule.alpha_bar
    assert not made_inside.is_inference()
    assert not schedule.on("cpu").is_inference()
    schedule.alpha_bar[3] = 7.0
    assert schedule.alpha_bar[3].item() == pytest.approx(schedule.exact[3])


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("write", [lambda t: t.fill_(7), lambda t: t[2:4].mul_(0), lambda t: t.requires_grad_().detach().zero_()])
def test_writes_into_a_table_do_not_reach_the_schedule(write, inference):
    schedule = NoiseSchedule.cosine(7)
    denoiser = MLPDenoiser(4, cond_width=2, hidden=8).eval()
    x, cond = torch.randn(3, 4), torch.randn(3, 2)
    before = denoise_chain(x, cond, denoiser, schedule, steps=3, aligned=[7, 1])[0]
    with torch.inference_mode(inference):
        for dtype in (torch.float32, torch.float64):
            write(schedule.on("cpu", dtype))
            assert schedule.on("cpu", dtype).tolist() == torch.tensor(schedule.exact, dtype=dtype).tolist()
    assert schedule.alpha_bar.tolist() == torch.tensor(schedule.exact).tolist()
    assert not schedule.on("cpu").requires_grad
    assert torch.equal(denoise_chain(x, cond, denoiser, schedule, steps=3, aligned=[7, 1])[0], before)
    assert schedule.on("cpu") is schedule.on("cpu")


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: NoiseSchedule.linear(10, beta_start=float("nan")), ValueError, "beta_start: expected"),
        (lambda: NoiseSchedule.linear(10, beta_end=1.0), ValueError, r"beta_end: expected a number in \[0, 1\), got 1.0"),
        (lambda: check_aligned(3, 10), TypeError, "aligned: expected a sequence of ints, got int"),
        (lambda: check_aligned("53", 10), TypeError, "aligned: expected a sequence of ints, got str"),
        (lambda: mixture_timesteps(2, 10, [5], None, 0), TypeError, "rho: expected a number, got NoneType"),
    ],
)
def test_wrong_arguments_are_named(call, error, text):
    with pytest.raises(error, match=text):
        call()
