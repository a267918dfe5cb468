"""denoise_chain and fusion_chain in CUDA C++: against the step-by-step chain in fp64, on tensor cores and without, any size."""

import copy
from typing import Any

import pytest
import test_denoise_chain as denoise
import test_fusion_chain as fusion
import torch
from emulated import DEVICE, EMULATED, assert_same_bits_in_every_order
from torch import Tensor

import ordkernels
from ordkernels.ops import denoise_chain, fusion_chain

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(bool(ordkernels.available_backends("denoise_chain")["cuda"]), reason="no CUDA C++ kernels here"),
]
A100 = str(163 << 10)  # bytes of shared memory


def run_denoise(x: Tensor, cond: Tensor, denoiser: Any, *args: Any, backend: str = "cuda", **kwargs: Any) -> tuple[Tensor, ...]:
    device = DEVICE if backend == "cuda" else "cpu"
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in kwargs.items()}
    with ordkernels.use_backend(backend):
        out = denoise_chain(x.to(device), cond.to(device), copy.deepcopy(denoiser).to(device), *args, **moved)
    return tuple(t.cpu() for t in out)


def run_fusion(*args: Any, backend: str = "cuda", **kwargs: Any) -> Tensor:
    device = DEVICE if backend == "cuda" else "cpu"
    moved = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in kwargs.items()}
    *tensors, denoiser, schedule = args
    with ordkernels.use_backend(backend):
        return fusion_chain(*(t.to(device) for t in tensors), copy.deepcopy(denoiser).to(device), schedule, **moved).cpu()


def assert_denoise(args: Any, steps: Any, *, weights: float = 0.0, **options: Any) -> None:
    """No further from fp64 than twice plain torch, and a few roundings, and so many of each of the weights."""
    x, cond, denoiser, schedule, aligned = args
    got = run_denoise(x, cond, denoiser, schedule, steps=steps, aligned=aligned, **options)
    eager = run_denoise(x, cond, denoiser, schedule, backend="reference", steps=steps, aligned=aligned, **options)
    want = denoise.truth(x, cond, denoiser, schedule, steps, aligned, **options)
    eps = torch.finfo(x.dtype).eps
    assert [t.shape for t in got] == [t.shape for t in eager]
    budget = 2 * denoise.error(eager, want) + 8 * eps
    if weights:
        nearby = [denoise.truth(x, cond, _rounded(denoiser, seed), schedule, steps, aligned, **options) for seed in range(3)]
        budget += weights * max(denoise.error(values, want) for values in nearby)
    assert denoise.error(got, want) <= budget


def _rounded(denoiser: Any, seed: int) -> Any:
    """With weights in fp64 that are off by up to a rounding of their own dtype."""
    g, wide = torch.Generator().manual_seed(seed), copy.deepcopy(denoiser).double()
    for w, narrow in zip(wide.parameters(), denoiser.parameters(), strict=True):
        off = 2 * torch.rand(w.shape, generator=g, dtype=torch.float64) - 1
        w.data.mul_(1 + torch.finfo(narrow.dtype).eps * off)
    return wide


def assert_fusion(args: Any, **options: Any) -> None:
    got, eager = run_fusion(*args, **options), run_fusion(*args, backend="reference", **options)
    want = fusion.truth(*args, **options)
    assert fusion.error(got, want) <= 2 * fusion.error(eager, want) + 8 * torch.finfo(args[0].dtype).eps
    without = ~args[3].any(1)
    assert torch.equal(got[without], args[0][without])


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_denoise_equals_the_definition(order: int, prediction: str, eta: float) -> None:
    options = dict(prediction=prediction, eta=eta, seed=3, row_ids=torch.arange(5) + 2**40, draw_ids=torch.arange(5) % 2)
    assert_denoise(denoise.setup(), 6, **options)


SIZES = [  # B, D, C, hidden, K
    (1, 64, 32, 256, 8),  # one tile of 16 rows
    (37, 64, 5, 256, 3),  # tiles of 32, more than the emulated multiprocessors
    (40, 33, 70, 96, 1),
    (6, 7, 1, 1, 2),
    (20, 100, 3, 65, 4),  # D = 128
    (9, 130, 3, 65, 4),  # no tensor cores
    (8, 1, 2, 5, 3),
]


@pytest.mark.parametrize(("B", "D", "C", "hidden", "K"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_denoise_sizes(B: int, D: int, C: int, hidden: int, K: int, dtype: torch.dtype) -> None:
    if dtype == torch.float64 and hidden == 256:
        B = min(B, 3)
    assert_denoise(denoise.setup(B, D, C, hidden, T=6, K=K if K < 6 else 5, dtype=dtype), 6, eta=1.0, seed=-1)


@pytest.mark.parametrize("hidden", [192, 832])
def test_denoise_streams_weights_that_do_not_fit(order: int, hidden: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through two buffers of 64 units: 192 units on a GPU of 96 KB, 832 on any."""
    if hidden == 192:
        monkeypatch.setenv("ORDKERNELS_EMULATE_SHARED", str(96 << 10))
    for B in (3, 70):
        assert_denoise(denoise.setup(B, 64, 4, hidden, T=3, K=2), 3, eta=1.0)


def test_denoise_on_an_a100(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDKERNELS_EMULATE_SHARED", A100)
    assert_denoise(denoise.setup(37, 64, 4, 256, T=3, K=2), 3)
    assert_denoise(denoise.setup(37, 128, 4, 256, T=3, K=2), 3)


@pytest.mark.parametrize("D", [8, 10])
def test_denoise_with_given_noise_and_clip(D: int) -> None:
    args = denoise.setup(D=D, K=2)
    steps = sorted({12, 7, *args[-1]}, reverse=True)
    noise = torch.randn(len(steps), 5, D)
    assert_denoise(args, steps, weights=8.0, prediction="eps", eta=0.7, clip=0.8, noise=noise)  # x0 from noise magnifies them


@pytest.mark.parametrize("D", [7, 8, 33])
def test_draws_begin_anywhere_in_a_block_of_four(D: int) -> None:
    draws = torch.tensor([0, 1, 2, 3, 2**32 // D - 1])
    assert_denoise(denoise.setup(D=D), 6, eta=1.0, seed=2**63 - 5, row_ids=torch.tensor([5, -1, 2**40, 7, 7]), draw_ids=draws)


def test_a_draw_out_of_range_is_nan() -> None:
    x, cond, denoiser, schedule, aligned = denoise.setup(D=8)
    draws = torch.tensor([0, -1, 1, 2**40, 2])
    got, _ = run_denoise(x, cond, denoiser, schedule, steps=6, aligned=aligned, eta=1.0, draw_ids=draws)
    assert got.isnan().any(1).tolist() == [False, True, False, True, False]


@pytest.mark.parametrize("hidden", [64, 256])
@pytest.mark.parametrize("D", [32, 64, 100])
def test_bf16_rounds_what_enters_a_product(D: int, hidden: int) -> None:
    x, cond, denoiser, schedule, aligned = denoise.setup(20, D, 6, hidden, T=6, K=2, dtype=torch.bfloat16)
    got = run_denoise(x, cond, denoiser, schedule, steps=6, aligned=aligned, eta=1.0, seed=1)
    assert got[0].dtype == torch.bfloat16
    wide, embedding = copy.deepcopy(denoiser).double(), denoiser.embedding
    wide.embedding.forward = lambda t: embedding(t).double()  # the module's own, in its dtype
    want = denoise.truth(x, cond, wide, schedule, 6, aligned, eta=1.0, seed=1)
    assert denoise.error(got, want) < 1.2e-2


@pytest.mark.parametrize("bad", [torch.inf, torch.nan])
def test_non_finite_rows_stay_alone(bad: float) -> None:
    x, cond, denoiser, schedule, aligned = denoise.setup(20, 64, 4, 64)
    clean = run_denoise(x, cond, denoiser, schedule, steps=4, aligned=aligned)
    x[3, 5], cond[7, 1] = bad, torch.nan
    got = run_denoise(x, cond, denoiser, schedule, steps=4, aligned=aligned)
    rest = [i for i in range(20) if i not in (3, 7)]
    assert torch.equal(got[0][rest], clean[0][rest])
    assert not got[0][3].isfinite().any()
    assert not got[0][7].isfinite().any()


def test_a_row_does_not_depend_on_the_batch() -> None:
    x, cond, denoiser, schedule, aligned = denoise.setup(70, 64, 4, 64)
    ids = torch.arange(70) + 5
    options = dict(steps=4, aligned=aligned, eta=1.0)
    whole = run_denoise(x, cond, denoiser, schedule, row_ids=ids, **options)[0]
    for rows in (slice(0, 1), slice(33, 70)):
        part = run_denoise(x[rows], cond[rows], denoiser, schedule, row_ids=ids[rows], **options)[0]
        torch.testing.assert_close(part, whole[rows], rtol=1e-5, atol=1e-5)  # F.linear of the condition depends on it


def test_denoise_gives_the_same_bits_in_every_order(monkeypatch: pytest.MonkeyPatch) -> None:
    x, cond, denoiser, schedule, aligned = denoise.setup(70, 64, 4, 128)
    assert_same_bits_in_every_order(lambda: run_denoise(x, cond, denoiser, schedule, steps=4, aligned=aligned, eta=1.0), monkeypatch)
    args = fusion.setup(37, 64, 4, 64)
    assert_same_bits_in_every_order(lambda: run_fusion(*args, steps=2), monkeypatch, orders=2)


@pytest.mark.parametrize("shape", [(0, 8, 4, 16, 2), (0, 8, 3, 16, 2)])
def test_no_rows(shape: tuple[int, ...]) -> None:
    B, D, C, hidden, K = shape
    x, cond, denoiser, schedule, aligned = denoise.setup(B, D, C, hidden, K=K)
    assert run_denoise(x, cond, denoiser, schedule, steps=4, aligned=aligned)[1].shape == (0, K, D)
    assert run_fusion(*fusion.setup(B, D, C, hidden, K)).shape == (0, D)


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(steps=4, seed=3, row_ids=torch.arange(5) + 2**40, draw_ids=torch.arange(5) % 2),
        dict(steps=[12, 7, 3], gamma_cp=-0.5, gamma_tf=1.5, noise=torch.linspace(-2, 2, 105).sin().view(3, 5, 7)),
        dict(steps=2, gamma_cp=0.0, gamma_tf=0.7),
        dict(steps=2, gamma_cp=0, gamma_tf=0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fusion_equals_the_definition(order: int, options: dict[str, Any], dtype: torch.dtype) -> None:
    if "noise" in options:
        options = options | {"noise": options["noise"].to(dtype)}
    assert_fusion(fusion.setup(dtype=dtype), **options)


@pytest.mark.parametrize(
    ("B", "D", "C", "hidden", "K"),
    [
        (3, 64, 64, 256, 4),
        (37, 64, 5, 96, 4),
        (33, 33, 70, 65, 1),
        (6, 7, 1, 1, 12),
        (17, 130, 3, 65, 2),
        (8, 100, 2, 5, 3),
        (3, 9, 4, 8, 0),
    ],
)
def test_fusion_sizes(B: int, D: int, C: int, hidden: int, K: int) -> None:
    assert_fusion(fusion.setup(B, D, C, hidden, K), steps=2, seed=-1)


def test_fusion_streams_weights_that_do_not_fit(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDKERNELS_EMULATE_SHARED", str(100 << 10))
    assert_fusion(fusion.setup(19, 64, 4, 192, 2), steps=2)


def test_fusion_in_parts_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from ordkernels._cuda import fusion_chain as launcher

    monkeypatch.setattr(launcher, "ROWS", 8)
    assert_fusion(fusion.setup(21, 12, 4, 24, 2), steps=3, noise=torch.randn(3, 21, 12))


def test_rows_that_do_not_fit_raise() -> None:
    args = denoise.setup(2, 200, 3, 60000)
    with pytest.raises(RuntimeError, match="denoise_chain cannot run on the backend 'cuda': expected D = 200 and 60000 hidden units"):
        run_denoise(*args[:4], steps=2, aligned=[1])
    with pytest.raises(RuntimeError, match="fusion_chain cannot run on the backend 'cuda': expected D = 200 and 60000 hidden units"):
        run_fusion(*fusion.setup(2, 200, 3, 60000))


@pytest.mark.skipif(not EMULATED, reason="the emulated run alone has no other backend behind it")
def test_a_forced_backend_never_falls_back() -> None:
    x, cond, denoiser, schedule, aligned = denoise.setup()
    with ordkernels.use_backend("cuda"), pytest.raises(RuntimeError, match="serves plain calls"):
        torch.compile(lambda *a: denoise_chain(*a, steps=4, aligned=aligned)[0], backend="eager", fullgraph=True)(
            x, cond, denoiser, schedule
        )
