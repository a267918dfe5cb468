"""diffusers' DDIMScheduler and DDPMScheduler: whole chains, before, during and after a swap, in every configuration."""

import copy
import inspect
import itertools

import pytest
import torch

from ordkernels import ops, rng, swap, swap_in, swap_out

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed")
DDIM, DDPM = diffusers.DDIMScheduler, diffusers.DDPMScheduler

OPTIONS = [  # thresholding leaves clip_sample without effect
    {"clip_sample": clip, "thresholding": threshold, "rescale_betas_zero_snr": zero}
    for clip, threshold, zero in [
        (False, False, False),
        (True, False, False),
        (True, True, False),
        (False, False, True),
        (True, False, True),
    ]
]
SPACINGS = ["leading", "trailing", "linspace"]
PREDICTIONS = ["epsilon", "sample", "v_prediction"]
VARIANCES = ["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range"]  # the fourth is NaN


def scheduler(cls, wide=True, **config):
    """With tables in fp64, so that its coefficients are not rounded to fp32."""
    s = cls(**{"sample_max_value": 1.5, **config})
    if wide:
        for name in ("alphas_cumprod", "final_alpha_cumprod", "one", "betas", "alphas"):
            if hasattr(s, name):
                setattr(s, name, getattr(s, name).double())
    return s


def chain(s, dtype=torch.float64, shape=(3, 4, 5), n=5, seed=0, **arguments):
    """Every sample and every estimate of x0 of a chain with a denoiser that depends on the sample."""
    g, noise = (torch.Generator().manual_seed(seed) for _ in range(2))
    x = torch.randn(shape, generator=g).to(dtype)
    s.set_timesteps(n)
    seen = []
    for t in s.timesteps:
        output = (0.3 * x + 0.5 * torch.randn(shape, generator=g).to(dtype)).to(dtype)
        if getattr(s.config, "variance_type", "").startswith("learned"):
            output = torch.cat((output, 0.1 + output.abs() if s.config.variance_type == "learned" else output.tanh()), dim=1)
        result = s.step(output, t, x, generator=noise, **arguments)
        x = result.prev_sample
        seen += [x, result.pred_original_sample]
    return seen


def assert_same_chains(cls, config, **arguments):
    s = scheduler(cls, **config)
    before = chain(s, **arguments)
    report = swap_in(s, strict=True)
    after = chain(s, **arguments)
    zero_snr = config.get("rescale_betas_zero_snr", False)
    rounded = cls is DDIM and zero_snr and arguments.get("eta") == 1 and config["prediction_type"] != "epsilon"
    for a, b in zip(after, before, strict=True):
        if rounded and b.isnan().any():  # on some processors; ours never is
            assert bool(a.isfinite().all())
        else:
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, equal_nan=True)
    row = report.swapped[0]
    assert row.calls + sum(row.fallbacks.values()) == len(s.timesteps)
    from_noise_alone = zero_snr and s.timesteps[0] == 999 and config["prediction_type"] == "epsilon"
    assert sum(row.fallbacks.values()) == from_noise_alone
    report.undo()
    assert type(s) is cls
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(chain(s, **arguments), before, strict=True))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(name for name, on in o.items() if on) or "plain")
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("step", [{}, {"eta": 0.7}, {"eta": 1.0, "use_clipped_model_output": True}], ids=["eta 0", "eta 0.7", "clipped"])
def test_ddim_in_fp64(prediction, spacing, options, step):
    for set_alpha_to_one in (True, False):
        config = {"prediction_type": prediction, "timestep_spacing": spacing, "set_alpha_to_one": set_alpha_to_one, **options}
        assert_same_chains(DDIM, config, **step)


def test_a_variance_rounded_up_beyond_what_is_left_is_no_nan():
    s = scheduler(DDIM, wide=False, timestep_spacing="trailing", prediction_type="sample")
    s.set_timesteps(5)
    levels = torch.linspace(0.1, 0.9, 1000)
    a_s = levels[1 - levels - (1 - levels).sqrt().square() < 0][0]
    s.alphas_cumprod[999], s.alphas_cumprod[799] = 0.0, a_s
    x, output, noise = torch.randn(3, 2, 4, 5)
    theirs = s.step(output, 999, x, eta=1.0, variance_noise=noise)
    with swap_in(s):
        ours = s.step(output, 999, x, eta=1.0, variance_noise=noise)
    assert bool(theirs.prev_sample.isnan().all())
    assert torch.equal(ours.pred_original_sample, theirs.pred_original_sample)
    expected = a_s.sqrt() * ours.pred_original_sample + (1 - a_s).sqrt() * noise
    torch.testing.assert_close(ours.prev_sample, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(name for name, on in o.items() if on) or "plain")
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("variance", VARIANCES)
def test_ddpm_in_fp64(prediction, spacing, options, variance):
    for steps_offset in (0, 1):
        config = {
            "prediction_type": prediction,
            "timestep_spacing": spacing,
            "variance_type": variance,
            "steps_offset": steps_offset,
            **options,
        }
        assert_same_chains(DDPM, config)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("cls", [DDIM, DDPM])
@pytest.mark.parametrize("shape", [(2, 4), (1, 3), (5, 1, 8, 8)], ids=str)
def test_schedules_and_shapes(cls, schedule, shape):
    config = {"beta_schedule": schedule, "prediction_type": "v_prediction", "timestep_spacing": "leading", "clip_sample": True}
    assert_same_chains(cls, config, shape=shape)


@pytest.mark.parametrize("cls", [DDIM, DDPM])
def test_as_near_to_fp64_as_the_original_in_fp32(cls):
    """Each step by itself, with the tables as they are."""
    for prediction, clip in itertools.product(PREDICTIONS, (True, False)):
        s = scheduler(cls, wide=False, prediction_type=prediction, clip_sample=clip)
        wide = scheduler(cls, prediction_type=prediction, clip_sample=clip)
        swapped = copy.deepcopy(s)
        report = swap_in(swapped)
        for each in (s, wide, swapped):
            each.set_timesteps(20)
        g = torch.Generator().manual_seed(0)
        arguments = {"eta": 0.5} if cls is DDIM else {}
        for t in s.timesteps:
            x, output = torch.randn(4, 16, generator=g), torch.randn(4, 16, generator=g)
            theirs, ours = (each.step(output, t, x, generator=torch.Generator().manual_seed(5), **arguments) for each in (s, swapped))
            drawn = torch.randn(4, 16, generator=torch.Generator().manual_seed(5))
            truth = _with_noise(wide, output.double(), t, x.double(), drawn.double(), arguments)
            for name in ("prev_sample", "pred_original_sample"):
                error, own = ((r[name].double() - truth[name]).abs().max() for r in (ours, theirs))
                assert error <= own + 1e-6 * truth[name].abs().max(), (prediction, clip, int(t), name)
                assert ours[name].dtype == torch.float32
        assert report.swapped[0].calls == 20
        assert report.swapped[0].verified == ["step"]


def _with_noise(s, output, t, x, noise, arguments):
    if isinstance(s, DDIM):
        return s.step(output, t, x, variance_noise=noise, **arguments)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: noise)
        return s.step(output, t, x)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cls", [DDIM, DDPM])
def test_narrow_dtypes(cls, dtype):
    s = scheduler(cls, wide=False)
    report = swap_in(s)
    assert {t.dtype for t in chain(s, dtype)} == {dtype}
    assert report.swapped[0].verified == ["step"]
    assert report.swapped[0].fallbacks == {}
    noised = s.add_noise(torch.randn(3, 8).to(dtype), torch.randn(3, 8).to(dtype), torch.tensor([0, 500, 999]))
    assert noised.dtype == dtype
    assert report.swapped[0].verified == ["step", "add_noise"]


def test_fp64_samples_with_fp32_tables_are_left_to_the_original():
    s = scheduler(DDIM, wide=False)
    before = chain(s)
    report = swap_in(s)
    assert all(torch.equal(a, b) for a, b in zip(chain(s), before, strict=True))
    assert list(report.swapped[0].fallbacks.values()) == [5]


@pytest.mark.parametrize("cls", [DDIM, DDPM])
@pytest.mark.parametrize("zero", [True, False])
def test_add_noise(cls, zero):
    s = scheduler(cls, wide=False, rescale_betas_zero_snr=zero)
    x, noise = torch.randn(5, 3, 4, dtype=torch.float64), torch.randn(5, 3, 4, dtype=torch.float64)
    for t in (torch.tensor([0, 1, 500, 998, 999]), torch.tensor([7]), torch.tensor(999)):
        before = s.add_noise(x, noise, t)
        with swap_in(s, strict=True) as report:
            torch.testing.assert_close(s.add_noise(x, noise, t), before, rtol=1e-10, atol=1e-10)
            assert report.swapped[0].calls == 1
    with swap_in(s) as report:
        assert s.add_noise(x, noise, torch.tensor([1, 2]).repeat_interleave(3)[:5]).shape == x.shape
        with pytest.raises(RuntimeError):  # the original's own error
            s.add_noise(x, noise, torch.tensor([1, 2]))


@pytest.mark.parametrize(("cls", "eta"), [(DDIM, 0.0), (DDIM, 0.5), (DDPM, 1.0)])
def test_gradients_in_fp64(cls, eta):
    s = scheduler(cls, clip_sample=True)
    s.set_timesteps(10)
    arguments = {"eta": eta, "variance_noise": torch.randn(4, 6, dtype=torch.float64)} if cls is DDIM else {}

    def gradients():
        torch.manual_seed(0)
        x, output = (torch.randn(4, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
        result = s.step(output, 500, x, **arguments)
        return torch.autograd.grad(result.prev_sample.sin().sum() + result.pred_original_sample.sum(), (x, output))

    before = gradients()
    swap_in(s)
    for a, b in zip(gradients(), before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_the_random_stream_is_the_original_s():
    for cls, arguments in ((DDIM, {"eta": 1.0}), (DDPM, {})):
        s = scheduler(cls)
        s.set_timesteps(4)
        x = torch.randn(2, 3, dtype=torch.float64)
        states = []
        for swapped in (False, True):
            if swapped:
                swap_in(s)
            torch.manual_seed(0)
            for t in s.timesteps:
                s.step(x, t, x, **arguments)
            states.append(torch.get_rng_state())
        assert torch.equal(*states)


@pytest.mark.parametrize("cls", [DDIM, DDPM])
def test_timesteps_per_row(cls):
    s = scheduler(cls, clip_sample=False, thresholding=False)
    s.set_timesteps(10)
    x, output, noise = (
        torch.randn(3, 8, dtype=torch.float64),
        torch.randn(3, 8, dtype=torch.float64),
        torch.randn(3, 8, dtype=torch.float64),
    )
    swap_in(s)
    t = torch.tensor([900, 0, 300])
    arguments = {"eta": 1.0, "variance_noise": noise} if cls is DDIM else {"seed": 3, "row_ids": torch.tensor([7, 8, 9])}
    together = s.step(output, t, x, **arguments)
    for i in range(3):
        keyed = {"seed": 3, "row_ids": torch.tensor([7 + i])}
        one = {"eta": 1.0, "variance_noise": noise[i : i + 1]} if cls is DDIM else keyed
        alone = s.step(output[i : i + 1], t[i], x[i : i + 1], **one)
        torch.testing.assert_close(together.prev_sample[i : i + 1], alone.prev_sample, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(together.pred_original_sample[i : i + 1], alone.pred_original_sample, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"timestep: expected a number, or integers \[B\] = \[3\], got \[2\]"):
        s.step(output, t[:2], x)


@pytest.mark.parametrize("thresholding", [True, False])
@pytest.mark.parametrize(("cls", "variance"), [(DDIM, None), (DDPM, "fixed_small"), (DDPM, "fixed_large")])
def test_noise_that_depends_on_the_row_alone(cls, variance, thresholding):
    s = scheduler(cls, wide=False, thresholding=thresholding, **({"variance_type": variance} if variance else {}))
    s.set_timesteps(10)
    original = copy.deepcopy(s)
    swap_in(s)
    x, output, ids = torch.randn(6, 2, 4), torch.randn(6, 2, 4), torch.tensor([5, 3, 10**12, 0, 1, 2])
    arguments = {"seed": 11, **({"eta": 1.0} if cls is DDIM else {})}
    whole = s.step(output, 500, x, row_ids=ids, **arguments).prev_sample
    for part in (slice(0, 2), slice(2, 6)):
        assert torch.equal(s.step(output[part], 500, x[part], row_ids=ids[part], **arguments).prev_sample, whole[part])
    drawn = rng.normal(11, ids, 500, 8).view(x.shape)
    expected = _with_noise(original, output, 500, x, drawn, {"eta": 1.0})
    torch.testing.assert_close(whole, expected.prev_sample, rtol=1e-4, atol=1e-4)


def test_what_is_left_alone():
    class Mine(DDIM):
        def _get_variance(self, timestep, prev_timestep):
            return 0.0

    assert swap_in(Mine()).skipped[0].reason == "the subclass Mine has its own _get_variance"
    s = scheduler(DDIM)
    report = swap_in(s)
    with pytest.raises(ValueError, match="Number of inference steps"):
        s.step(torch.zeros(1, 2), 3, torch.zeros(1, 2))
    s.set_timesteps(5)
    with pytest.raises(ValueError, match="Cannot pass both"):
        s.step(torch.zeros(1, 2), 200, torch.zeros(1, 2), eta=1.0, generator=torch.Generator(), variance_noise=torch.zeros(1, 2))
    assert report.swapped[0].calls == 0


@pytest.mark.parametrize("cls", [DDIM, DDPM])
def test_a_swapped_scheduler_is_a_scheduler(cls, tmp_path):
    s = scheduler(cls, wide=False)
    before, names = s.config, list(inspect.signature(s.step).parameters)
    swap_in(s)
    assert list(inspect.signature(s.step).parameters)[: len(names)] == names  # pipelines look for eta and generator
    assert isinstance(s, cls)
    assert s.config == before
    s.save_config(tmp_path)
    loaded = cls.from_pretrained(tmp_path)
    assert type(loaded) is cls
    assert len(s) == 1000
    assert s.scale_model_input("x") == "x"
    other = diffusers.EulerDiscreteScheduler.from_config(s.config)
    assert other.config.beta_start == s.config.beta_start
    s.set_timesteps(3)
    assert isinstance(s.step(torch.zeros(1, 2), s.timesteps[0], torch.zeros(1, 2), return_dict=False), tuple)
    assert swap_out(s) == [""]


def test_a_pipeline_holds_its_scheduler():
    class Holder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.scheduler, self.others = torch.nn.Linear(2, 2), DDIM(), [DDPM()]

    holder = Holder()
    assert [row.path for row in swap_in(holder).swapped] == ["scheduler", "others.0"]
    assert swap_out(holder) == ["scheduler", "others.0"]


def test_a_planted_error_raises(monkeypatch):
    right = ops.reverse_step
    monkeypatch.setattr(ops, "reverse_step", lambda *a, **k: tuple(1.0001 * t for t in right(*a, **k)))
    s = scheduler(DDIM, wide=False)
    swap_in(s)
    with pytest.raises(swap.SwapError, match=r"diffusers.DDIMScheduler.step by ops.reverse_step"):
        chain(s, torch.float32)
    assert type(s) is DDIM
