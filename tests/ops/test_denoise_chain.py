"""denoise_chain against the step-by-step chain with the denoiser as a module, in fp64 where errors are measured."""

import copy
import importlib.util
import os
from types import SimpleNamespace

import pytest
import torch

import ordkernels
from ordkernels import rng, use_backend
from ordkernels.nn import MLPDenoiser, TransformerDenoiser
from ordkernels.ops import denoise_chain
from ordkernels.ops._chain_plan import _PLANS, MAX_CACHED_PLANS
from ordkernels.reference import denoise_chain as reference
from ordkernels.samplers import DiffoRSampler
from ordkernels.schedules import NoiseSchedule, aligned_timesteps

INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"
GPU = torch.cuda.is_available() and not INTERPRET
NATIVE = not ordkernels.available_backends("denoise_chain")["cpu"]
BACKENDS = [
    "reference",
    pytest.param("cpu", marks=[pytest.mark.native, pytest.mark.skipif(not NATIVE, reason="no native kernels here")]),
    pytest.param(
        "triton",
        marks=[
            pytest.mark.triton,
            pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
            pytest.mark.skipif(not (INTERPRET or GPU), reason="neither TRITON_INTERPRET=1 (before the first import) nor a GPU"),
        ],
    ),
]
native = BACKENDS[1].marks
IDS = 2**40


def setup(B=5, D=7, C=3, hidden=24, T=12, K=3, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    x, cond = torch.randn(B, D, dtype=dtype), torch.randn(B, C, dtype=dtype)
    return x, cond, MLPDenoiser(D, C, hidden).to(dtype), NoiseSchedule.linear(T), aligned_timesteps(K, T).tolist()


def truth(x, cond, denoiser, schedule, steps, aligned, noise=None, seed=0, row_ids=None, draw_ids=None, dtype=torch.float64, **options):
    """The definition, in fp64: one call of the module and one reverse step per timestep."""
    visited = reference.chain_steps(steps, aligned, schedule.T)
    row_ids = torch.arange(len(x)) if row_ids is None else row_ids

    def made(i, t):
        return (noise[i] if noise is not None else rng.normal(seed, row_ids, t, x.shape[1], 0 if draw_ids is None else draw_ids)).to(dtype)

    with torch.no_grad():
        wide = copy.deepcopy(denoiser).to(dtype).eval()
        return reference.denoise_chain(x.to(dtype), cond.to(dtype), wide, schedule.exact, visited, aligned, noise=made, **options)


def run(backend, x, cond, denoiser, *args, **kwargs):
    device = "cuda" if backend == "triton" and GPU else "cpu"
    moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()}
    with use_backend(backend):
        out = denoise_chain(x.to(device), cond.to(device), copy.deepcopy(denoiser).to(device), *args, **moved)
    return tuple(t.cpu() for t in out)


def error(got, true):
    return max(float((a.double() - b.double()).abs().max() / b.double().abs().max()) for a, b in zip(got, true, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_equals_the_definition(backend, prediction, eta):
    x, cond, denoiser, schedule, aligned = setup()
    options = dict(prediction=prediction, eta=eta, seed=3, row_ids=torch.arange(5) + IDS, draw_ids=torch.arange(5) % 2)
    got = run(backend, x, cond, denoiser, schedule, steps=6, aligned=aligned, **options)
    want = truth(x, cond, denoiser, schedule, 6, aligned, **options)
    assert [list(t.shape) for t in got] == [[5, 7], [5, 3, 7]]
    assert error(got, want) < 2e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_noise_clip_and_a_list_of_steps(backend):
    x, cond, denoiser, schedule, aligned = setup(D=8, K=2)
    steps = sorted({12, 7, *aligned}, reverse=True)
    noise = torch.randn(len(steps), 5, 8)
    options = dict(prediction="eps", eta=0.7, clip=0.8, noise=noise)
    got = run(backend, x, cond, denoiser, schedule, steps=steps, aligned=torch.tensor(aligned), **options)
    want = truth(x, cond, denoiser, schedule, steps, aligned, **options)
    assert error(got, want) < 2e-5
    assert got[1].abs().max() <= 0.8 == want[1].abs().max()  # it did clip


@pytest.mark.parametrize("marks", [pytest.param(None, marks=native)])
@pytest.mark.parametrize(
    ("B", "D", "C", "hidden", "K"),
    [(1, 64, 32, 256, 8), (130, 64, 5, 256, 8), (33, 33, 70, 96, 1), (6, 7, 1, 1, 2), (49, 130, 3, 65, 4), (8, 1, 2, 5, 3)],
)
def test_native_sizes(marks, B, D, C, hidden, K):
    x, cond, denoiser, schedule, aligned = setup(B, D, C, hidden, K=K)
    options = dict(eta=1.0, seed=-1)
    got = run("cpu", x, cond, denoiser, schedule, steps=12, aligned=aligned, **options)
    assert error(got, truth(x, cond, denoiser, schedule, 12, aligned, **options)) < 2e-5


@pytest.mark.parametrize("marks", [pytest.param(None, marks=native)])
@pytest.mark.parametrize(
    ("B", "D", "C", "hidden", "K"),
    [(1, 64, 32, 256, 8), (130, 64, 5, 256, 8), (33, 33, 70, 96, 1), (6, 7, 1, 1, 2), (49, 130, 3, 65, 4), (8, 1, 2, 5, 3)],
)
def test_bf16_sizes(marks, B, D, C, hidden, K):
    """Where the processor multiplies in pairs, states and hidden units are rounded on their way into a product, and no more."""
    x, cond, denoiser, schedule, aligned = setup(B, D, C, hidden, dtype=torch.bfloat16, K=K)
    options = dict(eta=1.0, seed=-1)
    got = run("cpu", x, cond, denoiser, schedule, steps=12, aligned=aligned, **options)
    assert got[0].dtype == torch.bfloat16
    wide = copy.deepcopy(denoiser).double()
    embedding = denoiser.embedding
    wide.embedding.forward = lambda t: embedding(t).double()  # the module's own, in its dtype
    assert error(got, truth(x, cond, wide, schedule, 12, aligned, **options)) < 1.2e-2


@pytest.mark.parametrize("marks", [pytest.param(None, marks=native)])
def test_bf16_infinities_and_saturated_units(marks):
    x, cond, denoiser, schedule, aligned = setup(B=7, D=64, C=32, hidden=256)
    clean = run("cpu", *(t.bfloat16() for t in (x, cond)), denoiser.bfloat16(), schedule, steps=6, aligned=aligned, clip=1.0)
    x[0, 3], x[1, 5], x[2] = torch.inf, torch.nan, 1e30
    args = [t.bfloat16() for t in (x, cond)]
    got = run("cpu", *args, denoiser, schedule, steps=6, aligned=aligned, clip=1.0)
    assert got[0][0].isnan().all()
    assert got[0][1].isnan().all()
    for a, b in zip(got, clean, strict=True):
        assert torch.equal(a[3:], b[3:])
    args = x[3:].bfloat16(), cond[3:].mul(100).bfloat16()  # units at both ends of silu
    got = run("cpu", *args, denoiser, schedule, steps=6, aligned=aligned)
    assert error(got, truth(*args, denoiser, schedule, 6, aligned, dtype=torch.float32)) < 1.2e-2


@pytest.mark.slow
@pytest.mark.parametrize("prediction", ["v", "x0"])
@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_a_thousand_steps(backend, prediction):
    x, cond, denoiser, schedule, aligned = setup(B=9, D=64, C=8, hidden=64, T=1000, K=8)
    options = dict(prediction=prediction, eta=1.0 if prediction == "v" else 0.0, seed=5)
    got = run(backend, x, cond, denoiser, schedule, steps=1000, aligned=aligned, **options)
    step_by_step = truth(x, cond, denoiser, schedule, 1000, aligned, dtype=torch.float32, **options)
    assert error(got, step_by_step) < 1e-4
    assert error(got, truth(x, cond, denoiser, schedule, 1000, aligned, **options)) < 1e-4


@pytest.mark.parametrize("marks", [pytest.param(None, marks=native)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rows_keep_their_bits_in_any_batch_and_thread_count(marks, dtype):
    x, cond, denoiser, schedule, aligned = setup(B=131, D=33, C=9, hidden=96, dtype=dtype)
    ids = torch.randperm(131) + IDS
    options = dict(steps=12, aligned=aligned, eta=1.0, seed=11)
    whole = denoise_chain(x, cond, denoiser, schedule, row_ids=ids, **options)
    again = denoise_chain(x, cond, denoiser, schedule, row_ids=ids, **options)
    assert all(map(torch.equal, whole, again))
    for size in (1, 2, 3, 4, 5, 7, 13, 48, 100):
        parts = [
            denoise_chain(x[i : i + size], cond[i : i + size], denoiser, schedule, row_ids=ids[i : i + size], **options)
            for i in range(0, 131, size)
        ]
        assert all(map(torch.equal, whole, map(torch.cat, zip(*parts, strict=True)))), size
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            assert all(map(torch.equal, whole, denoise_chain(x, cond, denoiser, schedule, row_ids=ids, **options))), n
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_row(backend):
    x, cond, denoiser, schedule, aligned = setup()
    clean = run(backend, x, cond, denoiser, schedule, steps=4, aligned=aligned, clip=1.0)
    x[2, 1] = torch.nan
    got = run(backend, x, cond, denoiser, schedule, steps=4, aligned=aligned, clip=1.0)
    for a, b in zip(got, clean, strict=True):
        assert a[2].isnan().all()
        assert torch.equal(a[[0, 1, 3, 4]], b[[0, 1, 3, 4]])


@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_fp64_and_half(backend):
    x, cond, denoiser, schedule, aligned = setup(dtype=torch.float64)
    got = run(backend, x, cond, denoiser, schedule, steps=12, aligned=aligned)
    assert got[0].dtype == torch.float64
    assert error(got, truth(x, cond, denoiser, schedule, 12, aligned)) < 1e-13
    for dtype, bound in ((torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        args = [t.to(dtype) for t in (x, cond)]
        half = copy.deepcopy(denoiser).to(dtype)
        got = run(backend, *args, half, schedule, steps=12, aligned=aligned)
        wide = copy.deepcopy(half).float()
        embedding = half.embedding
        wide.embedding.forward = lambda t, embedding=embedding: embedding(t).float()  # the module's own, in its dtype
        want = run(backend, *(t.float() for t in args), wide, schedule, steps=12, aligned=aligned)
        assert got[0].dtype == dtype
        assert error(got, want) <= bound  # one rounding


def test_empty_batch_strides_inference_mode_and_no_gradient():
    x, cond, denoiser, schedule, aligned = setup()
    empty = denoise_chain(x[:0], cond[:0], denoiser, schedule, steps=4, aligned=aligned)
    assert [list(t.shape) for t in empty] == [[0, 7], [0, 3, 7]]
    want = denoise_chain(x, cond, denoiser, schedule, steps=4, aligned=aligned)
    strided = x.t().contiguous().t(), cond.repeat(1, 2)[:, :3]
    assert all(map(torch.equal, want, denoise_chain(*strided, denoiser, schedule, steps=4, aligned=aligned)))
    with torch.inference_mode():
        assert all(map(torch.equal, want, denoise_chain(x, cond, denoiser, schedule, steps=4, aligned=aligned)))
    out = denoise_chain(x.requires_grad_(), cond, denoiser, schedule, steps=4, aligned=aligned)
    assert not any(t.requires_grad for t in out)


def test_new_weights_and_frequencies_count_at_once():
    x, cond, denoiser, schedule, aligned = setup()
    before = denoise_chain(x, cond, denoiser, schedule, steps=4, aligned=aligned)
    denoiser.input.weight.data.mul_(2)
    got = denoise_chain(x, cond, denoiser, schedule, steps=4, aligned=aligned)
    assert error(got, before) > 1e-3
    assert error(got, truth(x, cond, denoiser, schedule, 4, aligned, dtype=torch.float32)) < 2e-5
    denoiser.embedding.frequencies.mul_(1.5)
    assert error(denoise_chain(x, cond, denoiser, schedule, steps=4, aligned=aligned), got) > 1e-3
    denoiser.double().float()  # which makes them again
    assert error(denoise_chain(x, cond, denoiser, schedule, steps=4, aligned=aligned), got) == 0


def test_plans_of_one_schedule_are_bounded():
    x, cond, net, schedule, aligned = setup(T=64)
    for steps in range(1, 2 * MAX_CACHED_PLANS):
        denoise_chain(x, cond, net, schedule, steps=steps, aligned=aligned)
        assert 0 < len(_PLANS[schedule]) <= MAX_CACHED_PLANS


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_timesteps(dtype):
    x, cond, denoiser, _, _ = setup()
    schedule, steps = NoiseSchedule.linear(1000), [981, 515, 300, 1]
    x, cond, denoiser = x.to(dtype), cond.to(dtype), denoiser.to(dtype)
    want = truth(x, cond, denoiser, schedule, steps, steps[:2])
    assert error(denoise_chain(x, cond, denoiser, schedule, steps=steps, aligned=steps[:2]), want) < 3e-2


@pytest.mark.parametrize("marks", [pytest.param(None, marks=native)])
def test_what_is_kept_between_calls_is_never_stale(marks):
    x, cond, denoiser, schedule, aligned = setup()
    other = setup(seed=1)[2]

    def run(steps=4, of=denoiser):
        return denoise_chain(x, cond, of, schedule, steps=steps, aligned=aligned)

    def fresh(steps=4):
        denoise_chain(x, cond, other, schedule, steps=5, aligned=aligned)  # of another shape: nothing of it serves
        return run(steps)

    before = run()
    for p in denoiser.parameters():
        p.data.view(-1)[-1] += 0.5  # which no version counter sees
        got = run()
        assert all(map(torch.equal, got, fresh()))
        assert not torch.equal(got[0], before[0])
        before = got
    run(of=other)
    assert all(map(torch.equal, run(), before))
    assert all(map(torch.equal, run([12, 9, 8, 4]), fresh([12, 9, 8, 4])))
    assert error(run(), truth(x, cond, denoiser, schedule, 4, aligned, dtype=torch.float32)) < 2e-5


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (dict(aligned=[3, 5]), ValueError, r"aligned: expected strictly descending timesteps in \[1, 12\], got \[3, 5\]"),
        (dict(aligned=[13, 5]), ValueError, r"aligned: .*got \[13, 5\]"),
        (dict(aligned=[5, 0]), ValueError, r"aligned: .*got \[5, 0\]"),
        (dict(aligned=[]), ValueError, r"aligned: "),
        (dict(aligned=[2.5]), TypeError, r"aligned: expected an int, got float"),
        (dict(steps=[12, 6, 1]), ValueError, r"steps: expected to contain the aligned timesteps, got none of \[8, 4\]"),
        (dict(steps=0), ValueError, r"steps: expected a number in \[1, 12\] or a list, got 0"),
        (dict(steps=13), ValueError, r"steps: "),
        (dict(steps=1.5), TypeError, r"steps: expected an int, got float"),
        (dict(x_T=torch.zeros(5, 6)), ValueError, r"x_T: expected \[B, D\] = \[5, 7\], got \[5, 6\]"),
        (dict(x_T=torch.zeros(7)), ValueError, r"x_T: "),
        (dict(x_T=torch.zeros(5, 7, dtype=torch.int64)), TypeError, r"x_T: expected float32"),
        (dict(cond=torch.zeros(4, 3)), ValueError, r"cond: expected \[B, C\] = \[5, 3\], got \[4, 3\]"),
        (dict(cond=torch.zeros(5, 3).double()), TypeError, r"cond: expected the dtype of x_T"),
        (dict(x_T=torch.zeros(5, 7).double(), cond=torch.zeros(5, 3).double()), TypeError, r"denoiser: expected the dtype of x_T"),
        (dict(denoiser=TransformerDenoiser(8, 3)), TypeError, r"denoiser: expected an MLPDenoiser .*got TransformerDenoiser"),
        (dict(schedule=torch.ones(13)), TypeError, r"schedule: expected a NoiseSchedule, got Tensor"),
        (dict(prediction="noise"), ValueError, r"prediction: "),
        (dict(eta=-0.1), ValueError, r"eta: "),
        (dict(clip=0), ValueError, r"clip: "),
        (dict(noise=torch.zeros(4, 5, 7)), ValueError, r"noise: expected \[S, B, D\] = \[6, 5, 7\], got \[4, 5, 7\]"),
        (dict(row_ids=torch.zeros(4, dtype=torch.int64)), ValueError, r"row_ids: expected \[B\] = \[5\]"),
        (dict(draw_ids=torch.zeros(5)), TypeError, r"draw_ids: expected integers, got torch.float32"),
        (dict(seed="a"), TypeError, r"seed: "),
    ],
)  # fmt: skip
def test_bad_input(change, kind, text):
    x, cond, denoiser, schedule, aligned = setup()
    args = dict(x_T=x, cond=cond, denoiser=denoiser, schedule=schedule, steps=4, aligned=aligned, eta=1.0) | change
    with pytest.raises(kind, match=text):
        denoise_chain(args.pop("x_T"), args.pop("cond"), args.pop("denoiser"), args.pop("schedule"), **args)


@pytest.mark.triton
@pytest.mark.skipif(not (INTERPRET or GPU), reason="neither TRITON_INTERPRET=1 (before the first import) nor a GPU")
@pytest.mark.parametrize(("D", "dtype", "text"), [(7, torch.float64, "got float64"), (130, torch.float32, "D of at most 128, got 130")])
def test_triton_says_what_it_cannot_run(D, dtype, text):
    x, cond, denoiser, schedule, aligned = setup(D=D, dtype=dtype)
    with pytest.raises(RuntimeError, match=f"denoise_chain cannot run on the backend 'triton'.*{text}"):
        run("triton", x, cond, denoiser, schedule, steps=4, aligned=aligned)


# ---- nothing waits for the device, so that loops can be captured: tensors without values cannot be looked at


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_chain_looks_at_no_values(eta):
    x, cond, denoiser, schedule, aligned = setup()
    out = denoise_chain(x.to("meta"), cond.to("meta"), denoiser.to("meta"), schedule, steps=6, aligned=aligned, eta=eta)
    assert [(t.device.type, list(t.shape)) for t in out] == [("meta", [5, 7]), ("meta", [5, 3, 7])]


@pytest.mark.slow
@pytest.mark.parametrize(("process", "eta"), [("diffusion", 0.0), ("diffusion", 1.0), ("flow_matching", 0.0)])
def test_the_samplers_loop_looks_at_no_values(process, eta):
    """Any other denoiser, both processes through one interface."""
    schedule, aligned = NoiseSchedule.linear(12), aligned_timesteps(3, 12).tolist()
    denoiser = TransformerDenoiser(8, 3, tokens=2, d_model=8, layers=1, heads=2).eval()
    model = SimpleNamespace(
        denoiser=denoiser, schedule=schedule, process=process, aligned=aligned, steps=6, prediction="v", eta=eta, clip=2.0, noise_width=8
    )
    sampler = DiffoRSampler(model)
    x, cond, ids = torch.randn(4, 2, 8), torch.randn(4, 3), torch.arange(4)
    with torch.no_grad():
        real = sampler.sample_fused(x, cond, seed=3, row_ids=ids)
        compiled = torch.compile(sampler.sample_fused, fullgraph=True, backend="eager")(x, cond, seed=3, row_ids=ids)
        denoiser.to("meta")
        shapes = sampler.sample_fused(x.to("meta"), cond.to("meta"), seed=3, row_ids=ids.to("meta"))
    torch.testing.assert_close(compiled, real)
    assert shapes.device.type == "meta"
    assert shapes.shape == real.shape == (4, 2, 3, 8)
