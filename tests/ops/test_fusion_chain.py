"""fusion_chain against the step-by-step chain with the denoiser as a module, in fp64 where errors are measured."""

import copy
import importlib.util
import os

import pytest
import torch

import ordkernels
from ordkernels import rng, use_backend
from ordkernels.nn import MLPDenoiser, SessionDenoiser
from ordkernels.ops import fusion_chain
from ordkernels.reference import fusion_chain as reference
from ordkernels.reference._diffusion import chain_steps
from ordkernels.schedules import NoiseSchedule

INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"
GPU = torch.cuda.is_available() and not INTERPRET
NATIVE = not ordkernels.available_backends("fusion_chain")["cpu"]
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
NAN = float("nan")


def setup(B=5, D=7, C=3, hidden=24, K=3, T=12, dtype=torch.float32):
    """h_long, g_cp, g_tf with NaN where nothing is, mask with a row without sessions and one with all, denoiser, schedule."""
    torch.manual_seed(0)
    mask = torch.rand(B, K) < 0.6
    mask[:1], mask[1:2] = False, True
    denoiser = SessionDenoiser(D, C, hidden).to(dtype)
    denoiser.empty.data.normal_()
    h, *gs = (torch.randn(s, dtype=dtype) for s in ((B, D), (B, K, C), (B, K, C)))
    return [h, *(torch.where(mask[..., None], g, NAN) for g in gs), mask, denoiser, NoiseSchedule.cosine(T)]


def truth(
    h, g_cp, g_tf, mask, denoiser, schedule, *, steps=1, noise=None, seed=0, row_ids=None, draw_ids=None, dtype=torch.float64, **gammas
):
    """The definition, in fp64: one call of the module and one guided step per timestep."""
    visited = chain_steps(steps, schedule.T)
    row_ids = torch.arange(len(h)) if row_ids is None else row_ids
    wide = copy.deepcopy(denoiser).to(dtype).eval()

    def made(i, t):
        return (noise[i] if noise is not None else rng.normal(seed, row_ids, t, h.shape[1], 0 if draw_ids is None else draw_ids)).to(dtype)

    guidance = g_cp.to(dtype), g_tf.to(dtype)
    with torch.no_grad():
        return reference.fusion_chain(
            h.to(dtype), mask, lambda x, t: wide.branches(x, t, *guidance, mask), schedule.exact, visited, noise=made, **gammas
        )


def run(backend, h, g_cp, g_tf, mask, denoiser, schedule, **kwargs):
    device = "cuda" if backend == "triton" and GPU else "cpu"
    moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in kwargs.items()}
    with use_backend(backend):
        tensors = (t.to(device) for t in (h, g_cp, g_tf, mask))
        return fusion_chain(*tensors, copy.deepcopy(denoiser).to(device), schedule, **moved).cpu()


def error(got, true):
    assert got.shape == true.shape
    return float((got.double() - true.double()).abs().max() / true.double().abs().max())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(steps=4, seed=3, row_ids=torch.arange(5) + IDS, draw_ids=torch.arange(5) % 2),
        dict(steps=[12, 7, 3], gamma_cp=-0.5, gamma_tf=1.5, noise=torch.linspace(-2, 2, 105).sin().view(3, 5, 7)),
        dict(steps=2, gamma_cp=0.0, gamma_tf=0.7),
        dict(steps=2, gamma_cp=0, gamma_tf=0),
        dict(steps=2, gamma_cp=2 / 3, gamma_tf=1 / 3),
    ],
)
def test_equals_the_definition(backend, options):
    args = setup()
    got = run(backend, *args, **options)
    assert error(got, truth(*args, **options)) < 2e-5
    assert torch.equal(got[0], args[0][0])  # no sessions: as it is
    assert not torch.allclose(got[1], args[0][1])


@pytest.mark.parametrize("marks", [pytest.param(None, marks=native)])
@pytest.mark.parametrize(
    ("B", "D", "C", "hidden", "K"),
    [(1, 64, 64, 256, 4), (37, 64, 5, 96, 4), (33, 33, 70, 65, 1), (6, 7, 1, 1, 12), (17, 130, 3, 65, 4), (8, 1, 2, 5, 3), (3, 9, 4, 8, 0)],
)
def test_native_sizes(marks, B, D, C, hidden, K):
    args = setup(B, D, C, hidden, K)
    if B == 1:
        args[3][:] = True
        args[1:3] = torch.randn(2, B, K, C).unbind()
    options = dict(steps=3, seed=-1)
    assert error(run("cpu", *args, **options), truth(*args, **options)) < 2e-5


@pytest.mark.parametrize("marks", [pytest.param(None, marks=native)])
@pytest.mark.parametrize(
    "gammas", [dict(gamma_cp=2 / 3, gamma_tf=1 / 3), dict(gamma_cp=1.0, gamma_tf=0.5), dict(gamma_cp=1.0, gamma_tf=0.0)]
)
def test_rows_that_share_guidance_have_the_bits_of_rows_alone(marks, gammas):
    args, repeats = setup(B=23, D=20, C=70, hidden=96, K=4), torch.arange(23) % 9
    h, cp, tf, mask = (v.repeat_interleave(repeats, 0) for v in args[:4])
    h = torch.randn_like(h)
    cp[5], tf[9, :2] = 1.0, 2.0  # and some that differ in one kind alone
    ids, options = torch.arange(len(h)), dict(steps=2, seed=3, **gammas)
    together = run("cpu", h, cp, tf, mask, *args[4:], row_ids=ids, **options)
    for i in range(len(h)):
        one = slice(i, i + 1)
        assert torch.equal(run("cpu", h[one], cp[one], tf[one], mask[one], *args[4:], row_ids=ids[one], **options), together[one])
    assert error(together, truth(h, cp, tf, mask, *args[4:], row_ids=ids, **options)) < 2e-5


@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_many_steps(backend):
    args = setup(B=6, D=16, C=8, hidden=32, K=2, T=100)
    options = dict(steps=100, seed=5, gamma_cp=1.0, gamma_tf=0.5)
    got = run(backend, *args, **options)
    assert error(got, truth(*args, dtype=torch.float32, **options)) < 1e-4
    assert error(got, truth(*args, **options)) < 1e-4


@pytest.mark.parametrize("backend", BACKENDS)
def test_masked_sessions_change_nothing(backend):
    h, cp, tf, mask, denoiser, schedule = setup()
    want = run(backend, h, cp, tf, mask, denoiser, schedule, steps=3)
    assert want.isfinite().all()
    for junk in (0.0, float("inf")):
        a, b = (torch.where(mask[..., None], g, junk) for g in (cp, tf))
        assert torch.equal(run(backend, h, a, b, mask, denoiser, schedule, steps=3), want)
    # their place does not matter either: with the sessions moved to the front
    order = mask.to(torch.int8).argsort(dim=1, descending=True, stable=True)
    a, b = (g.gather(1, order[..., None].expand_as(g)) for g in (cp, tf))
    moved = run(backend, h, a, b, mask.gather(1, order), denoiser, schedule, steps=3)
    torch.testing.assert_close(moved, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_row(backend):
    h, cp, tf, mask, denoiser, schedule = setup()
    clean = run(backend, h, cp, tf, mask, denoiser, schedule, steps=2)
    mask[2, 0] = True
    h[1, 1], cp[2, 0] = NAN, NAN
    h[0, 0] = NAN  # a row without sessions comes back as it is
    got = run(backend, h, cp, tf, mask, denoiser, schedule, steps=2)
    assert got[1:3].isnan().all()
    assert got[0].isnan().nonzero().tolist() == [[0]]
    assert torch.equal(got[3:], clean[3:])
    skipped = run(backend, h, cp, torch.full_like(tf, NAN), mask, denoiser, schedule, gamma_cp=0.0, gamma_tf=0.0)
    assert skipped[2:].isfinite().all()  # a branch without gamma is not computed
    denoiser.empty.data.fill_(NAN)
    for gammas in ((2 / 3, 1 / 3), (1.0, 0.0), (0.0, 1.0)):  # nor the one without guidance, which has no weight here
        guided = run(backend, h, cp, tf, mask, denoiser, schedule, gamma_cp=gammas[0], gamma_tf=gammas[1])
        assert guided[3:].isfinite().all()
    assert run(backend, h, cp, tf, mask, denoiser, schedule, gamma_cp=0.5, gamma_tf=0.25)[3:].isnan().all()


@pytest.mark.parametrize("marks", [pytest.param(None, marks=native)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_keep_their_bits_in_any_batch_and_thread_count(marks, dtype):
    B = 61
    h, cp, tf, mask, denoiser, schedule = setup(B, 33, 9, 96, 4, dtype=dtype)
    ids = torch.randperm(B) + IDS
    whole = fusion_chain(h, cp, tf, mask, denoiser, schedule, steps=5, seed=11, row_ids=ids)
    for size in (1, 2, 3, 7, 16, 48, B):
        parts = [
            fusion_chain(*(t[i : i + size] for t in (h, cp, tf, mask)), denoiser, schedule, steps=5, seed=11, row_ids=ids[i : i + size])
            for i in range(0, B, size)
        ]
        assert torch.equal(whole, torch.cat(parts)), size
    order = torch.randperm(B)
    mixed = fusion_chain(*(t[order] for t in (h, cp, tf, mask)), denoiser, schedule, steps=5, seed=11, row_ids=ids[order])
    assert torch.equal(mixed, whole[order])
    threads = torch.get_num_threads()
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            assert torch.equal(whole, fusion_chain(h, cp, tf, mask, denoiser, schedule, steps=5, seed=11, row_ids=ids)), n
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("backend", BACKENDS[:2])
def test_fp64_and_half(backend):
    args = setup(dtype=torch.float64)
    got = run(backend, *args, steps=4, noise=torch.randn(4, 5, 7).double())
    assert got.dtype == torch.float64
    torch.manual_seed(0)
    args = setup(dtype=torch.float64)
    noise = torch.randn(4, 5, 7).double()
    assert error(run(backend, *args, steps=4, noise=noise), truth(*args, steps=4, noise=noise)) < 1e-13
    for dtype, bound in ((torch.bfloat16, 2**-8), (torch.float16, 2**-11)):
        *tensors, mask, denoiser, schedule = args
        half = copy.deepcopy(denoiser).to(dtype)
        wide = copy.deepcopy(half).float()
        embedding = half.network.embedding
        wide.network.embedding.forward = lambda t, embedding=embedding: embedding(t).float()  # the module's own, in its dtype
        tensors = [t.to(dtype) for t in tensors]
        got = run(backend, *tensors, mask, half, schedule, steps=4)
        assert got.dtype == dtype
        assert error(got, run(backend, *(t.float() for t in tensors), mask, wide, schedule, steps=4)) <= bound  # one rounding


def test_empty_batch_strides_inference_mode_and_no_gradient():
    h, cp, tf, mask, denoiser, schedule = setup()
    assert fusion_chain(h[:0], cp[:0], tf[:0], mask[:0], denoiser, schedule).shape == (0, 7)
    want = fusion_chain(h, cp, tf, mask, denoiser, schedule, steps=4)
    assert torch.equal(want, fusion_chain(h, cp, tf, mask, denoiser, schedule, steps=4))
    views = h.t().contiguous().t(), cp.repeat(1, 1, 2)[..., :3], tf.transpose(0, 1).contiguous().transpose(0, 1), mask.t().contiguous().t()
    assert torch.equal(want, fusion_chain(*views, denoiser, schedule, steps=4))
    with torch.inference_mode():
        assert torch.equal(want, fusion_chain(h, cp, tf, mask, denoiser, schedule, steps=4))
    assert not fusion_chain(h.requires_grad_(), cp, tf, mask, denoiser, schedule).requires_grad
    before = fusion_chain(h, cp, tf, mask, denoiser, schedule)
    denoiser.empty.data.mul_(2)  # new weights count at once
    assert not torch.equal(before[1:], fusion_chain(h, cp, tf, mask, denoiser, schedule)[1:])


@pytest.mark.registration
def test_opcheck():
    h, cp, tf, mask, denoiser, schedule = setup()
    net, steps = denoiser.network, [12, 5]
    weights = [net.input.weight, net.input.bias, net.condition.weight, net.output.weight, net.output.bias, denoiser.empty]
    tensors = [h, *(torch.where(mask[..., None], g, 0.0) for g in (cp, tf)), mask, *(w.detach() for w in weights)]
    tensors += [net.embedding(torch.tensor(steps)), reference.fusion_coefficients(schedule.exact, steps)]
    for noise in ((None, torch.arange(5), None), (torch.randn(2, 5, 7), None, None)):
        torch.library.opcheck(torch.ops.ordkernels.fusion_chain.default, (*tensors, *noise, 2.0, 1.0, 3))


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (dict(h_long=torch.zeros(5, 6)), ValueError, r"h_long: expected \[B, D\] = \[5, 7\], got \[5, 6\]"),
        (dict(h_long=torch.zeros(5, 7, dtype=torch.int64)), TypeError, r"h_long: expected float32"),
        (dict(g_cp=torch.zeros(5, 3)), ValueError, r"g_cp: expected \[B, K, C\] = \[5, 0, 3\], got \[5, 3\]"),
        (dict(g_tf=torch.zeros(5, 2, 3)), ValueError, r"g_tf: expected \[B, K, C\] = \[5, 3, 3\], got \[5, 2, 3\]"),
        (dict(g_tf=torch.zeros(5, 3, 3).double()), TypeError, r"g_tf: expected the dtype of h_long"),
        (dict(mask=torch.ones(5, 3)), TypeError, r"mask: expected a bool tensor, got torch.float32"),
        (dict(mask=torch.ones(5, 2, dtype=torch.bool)), ValueError, r"mask: expected \[B, K\] = \[5, 3\], got \[5, 2\]"),
        (dict(denoiser=MLPDenoiser(7, 3)), TypeError, r"denoiser: expected a SessionDenoiser, .*, got MLPDenoiser"),
        (dict(denoiser=SessionDenoiser(7, 3, parallel=True)), ValueError, r"denoiser: expected sessions in turn, got parallel=True"),
        (dict(denoiser=SessionDenoiser(7, 3).double()), TypeError, r"denoiser: expected the dtype of h_long"),
        (dict(schedule=torch.ones(13)), TypeError, r"schedule: expected a NoiseSchedule, got Tensor"),
        (dict(steps=0), ValueError, r"steps: expected a number in \[1, 12\] or a list, got 0"),
        (dict(steps=[3, 5]), ValueError, r"steps: expected strictly descending timesteps in \[1, 12\], got \[3, 5\]"),
        (dict(steps=1.5), TypeError, r"steps: expected an int, got float"),
        (dict(gamma_cp=NAN), ValueError, r"gamma_cp: expected a finite number, got nan"),
        (dict(noise=torch.zeros(3, 5, 7)), ValueError, r"noise: expected \[S, B, D\] = \[4, 5, 7\], got \[3, 5, 7\]"),
        (dict(row_ids=torch.zeros(4, dtype=torch.int64)), ValueError, r"row_ids: expected \[B\] = \[5\]"),
        (dict(draw_ids=torch.zeros(5)), TypeError, r"draw_ids: expected integers, got torch.float32"),
        (dict(seed="a"), TypeError, r"seed: "),
    ],
)  # fmt: skip
def test_bad_input(change, kind, text):
    names = ("h_long", "g_cp", "g_tf", "mask", "denoiser", "schedule")
    args = dict(zip(names, setup(), strict=True)) | dict(steps=4) | change
    with pytest.raises(kind, match=text):
        fusion_chain(*[args.pop(name) for name in names], **args)


@pytest.mark.parametrize("marks", [pytest.param(None, marks=BACKENDS[2].marks)])
def test_triton_takes_rows_in_portions(marks, monkeypatch):
    from ordkernels._triton import fusion_chain as module

    args = setup()
    monkeypatch.setattr(module, "ROWS", 2)
    for options in (dict(steps=2, seed=4, row_ids=torch.arange(5) + IDS), dict(steps=2, noise=torch.randn(2, 5, 7))):
        assert error(run("triton", *args, **options), truth(*args, **options)) < 2e-5
