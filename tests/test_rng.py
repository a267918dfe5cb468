"""Counter-based noise: published vectors, the same numbers everywhere, and sane statistics."""

import math
import os

import numpy as np
import pytest
import torch

import ordkernels
from ordkernels import _backend, rng
from ordkernels.reference import rng as reference

DEVICE = os.environ.get("ORDKERNELS_TEST_DEVICE", "cpu")
FLOATS = (rng.normal, rng.uniform)
native = pytest.mark.native


def triton_reasons() -> str:
    return "; ".join(ordkernels.available_backends("normal")["triton"])


BACKENDS = [
    pytest.param("cpu", marks=[native, pytest.mark.skipif(DEVICE != "cpu", reason="native CPU kernels serve CPU tensors")]),
    pytest.param("triton", marks=[pytest.mark.triton, pytest.mark.skipif(bool(triton_reasons()), reason=triton_reasons() or "-")]),
]


def ulps(a: torch.Tensor, b: torch.Tensor) -> float:
    a, b = a.cpu().double(), b.cpu()
    return ((a - b.double()).abs() / torch.from_numpy(np.spacing(b.abs().numpy())).double()).max().item()


# Random123's kat_vectors: counter, key, words
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(w, 16) for w in text.split()]


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_known_answers(backend: str) -> None:
    counter = torch.tensor([words(c) for c, _, _ in KNOWN], device=DEVICE)
    key = torch.tensor([words(k) for _, k, _ in KNOWN], device=DEVICE)
    with ordkernels.use_backend(backend):
        out = rng.philox(counter, key)
    assert out.dtype == torch.uint32
    assert out.tolist() == [words(x) for _, _, x in KNOWN]


def plain_philox(counter: list[int], key: list[int]) -> list[int]:
    """The paper's text in Python ints."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 % 2**32, (p0 >> 32) ^ c[3] ^ k[1], p0 % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
@pytest.mark.parametrize("seed", [0, 5, -1, 2**63 + 12345, -(2**70) + 3])
def test_the_layout_of_the_counter(backend: str, seed: int) -> None:
    rows, step, width, draw = [3, 2**40 + 7, -1], 2**32 - 1, 7, 5
    with ordkernels.use_backend(backend):
        u = rng.uniform(seed, torch.tensor(rows, device=DEVICE), step, width, draw)
        n = rng.normal(seed, torch.tensor(rows, device=DEVICE), step, width, draw)
    s = seed % 2**64
    for b, row in enumerate(rows):
        for lane in range(width):
            index, r = draw * width + lane, row % 2**64
            x = plain_philox([r % 2**32, r >> 32, step, index // 4], [s % 2**32, s >> 32])
            exact = [((w >> 8) + 0.5) * 2**-24 for w in x]
            assert u[b, lane].item() == np.float32(exact[index % 4])
            pair = index % 4 // 2 * 2
            radius, angle = math.sqrt(-2 * math.log(exact[pair])), 2 * math.pi * exact[pair + 1]
            want = radius * (math.sin(angle) if index % 2 else math.cos(angle))
            assert abs(n[b, lane].item() - want) <= 4 * np.spacing(np.float32(abs(want)))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [0, 1, 2, 3, 4, 5, 20, 63, 64, 127, 128, 129, 1030])
def test_backend_is_the_reference(backend: str, width: int) -> None:
    B = 67 if backend == "cpu" or DEVICE != "cpu" else 5  # Triton's interpreter is slow
    ids = torch.randint(-(2**63), 2**63 - 1, (B,), generator=torch.Generator().manual_seed(width)).to(DEVICE)
    largest = reference.largest_draw(width)
    draws = torch.arange(B, device=DEVICE) * (min(largest, 10**6) // B)
    draws[3] = largest
    for draw in (3, largest, draws):
        with ordkernels.use_backend("reference"):
            u, n = (f(11, ids, 2**31 + 5, width, draw) for f in FLOATS[::-1])
        with ordkernels.use_backend(backend):
            assert torch.equal(rng.uniform(11, ids, 2**31 + 5, width, draw), u)
            if width:
                assert ulps(rng.normal(11, ids, 2**31 + 5, width, draw), n) <= 4


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_extreme_words(backend: str) -> None:
    """A sample so large that words at the ends and at the quarter turns are in it."""
    ids = torch.arange(20_000 if backend == "cpu" else 50, device=DEVICE)
    with ordkernels.use_backend(backend):
        n, u = rng.normal(1, ids, 0, 64), rng.uniform(1, ids, 0, 64)
    with ordkernels.use_backend("reference"):
        expected = rng.normal(1, ids, 0, 64)
    if backend == "cpu":
        assert u.min() < 1e-5
        assert u.max() > 1 - 1e-5
        assert n.abs().max() > 4.5
        assert n.abs().min() < 1e-5
    assert ulps(n, expected) <= 4


@native
@pytest.mark.parametrize("f", FLOATS)
def test_rows_are_independent_of_the_batch(f) -> None:
    ids = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    draws = ids * 3 % 17
    for width in (3, 20, 64):
        whole = f(9, ids, 2, width, draws)
        for cut in (1, 7, 500, 999):
            assert torch.equal(torch.cat([f(9, ids[:cut], 2, width, draws[:cut]), f(9, ids[cut:], 2, width, draws[cut:])]), whole)
        assert torch.equal(f(9, ids.flip(0), 2, width, draws.flip(0)), whole.flip(0))
        assert torch.equal(f(9, ids[::2], 2, width, draws[::2]), whole[::2])  # not contiguous
        assert torch.equal(f(9, ids[:5], 2, width, 4)[2], f(9, ids[2:3], 2, width, torch.tensor([4], device=DEVICE))[0])


@pytest.mark.skipif(DEVICE != "cpu", reason="CPU threads")
@native
def test_threads_do_not_matter() -> None:
    ids, before = torch.arange(5000), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = rng.normal(3, ids, 0, 21)
        torch.set_num_threads(2)
        assert torch.equal(rng.normal(3, ids, 0, 21), one)
    finally:
        torch.set_num_threads(before)


@native
def test_draws_steps_and_seeds_differ() -> None:
    ids = torch.arange(8, device=DEVICE)
    samples = [rng.normal(s, ids, t, 16, d) for s in (0, 1) for t in (0, 1) for d in (0, 1)]
    stacked = torch.stack(samples).flatten()
    assert stacked.unique().numel() == stacked.numel()
    # draw d continues the stream of draw 0: width 16 of draw 1 are lanes 16 to 31 of a wider draw
    assert torch.equal(torch.cat([rng.normal(0, ids, 0, 16, d) for d in (0, 1)], 1), rng.normal(0, ids, 0, 32))


def kolmogorov(x: torch.Tensor, cdf) -> float:
    """sqrt(N) sup |F_N - F|."""
    F = cdf(x.flatten().double().cpu().sort().values)
    N = F.numel()
    rank = torch.arange(N, dtype=torch.float64)
    return math.sqrt(N) * max((F - rank / N).max().item(), ((rank + 1) / N - F).max().item())


@native
def test_statistics() -> None:
    """Fixed seed, so fixed numbers: the bounds are those of a sample that a good generator gives 999 times in 1000."""
    ids = torch.arange(4000, device=DEVICE)
    n, u = rng.normal(2024, ids, 0, 50).double().cpu(), rng.uniform(2024, ids, 1, 50).double().cpu()
    N = n.numel()
    for x, mean, var, fourth in ((n, 0.0, 1.0, 3.0), (u, 0.5, 1 / 12, 1 / 80)):
        c = x - mean
        assert abs(c.mean()) < 3.3 * math.sqrt(var / N)
        assert abs((c**2).mean() - var) < 3.3 * math.sqrt((fourth - var**2) / N)
        for lag in (c[:, 1:] * c[:, :-1], c[1:] * c[:-1], c[:, ::2] * c[:, 1::2]):  # neighbours in lane, in row, in a pair
            assert abs(lag.mean()) < 3.3 * var / math.sqrt(lag.numel())
    assert abs((n**4).mean() - 3) < 3.3 * math.sqrt(96 / N)
    assert kolmogorov(n, lambda x: 0.5 * torch.erfc(-x / math.sqrt(2))) < 1.95
    assert kolmogorov(u, lambda x: x) < 1.95
    bytes_ = torch.bincount((u * 256).long().clamp(max=255).flatten(), minlength=256).double()
    chi2 = ((bytes_ - N / 256) ** 2 / (N / 256)).sum().item()
    assert abs(chi2 - 255) < 3.3 * math.sqrt(2 * 255)


def test_row_ids_of_every_kind() -> None:
    want = rng.normal(1, torch.tensor([4, 5]), 0, 6)
    for ids in ([4, 5], (4, 5), np.array([4, 5]), np.array([4, 5], dtype=np.int32), torch.tensor([4, 5], dtype=torch.int32), range(4, 6)):
        assert torch.equal(rng.normal(1, ids, 0, 6), want)
    assert torch.equal(rng.normal(1, None, 0, 6, rows=6)[4:], want)
    assert torch.equal(rng.normal(1, None, 0, 6, torch.zeros(6, dtype=torch.int64))[4:], want)
    assert rng.normal(1, [], 0, 6).shape == (0, 6)
    assert torch.equal(rng.normal(1, [-1], 0, 6), rng.normal(1, np.array([2**64 - 1], dtype=np.uint64), 0, 6))
    assert torch.equal(rng.normal(2**64 + 7, [4], 0, 6), rng.normal(7, [4], 0, 6))
    assert torch.equal(rng.normal(np.int64(7), [4], np.int32(0), np.int64(6)), rng.normal(7, [4], 0, 6))


def test_philox_takes_any_integers() -> None:
    c, k = words(KNOWN[2][0]), words(KNOWN[2][1])
    want = words(KNOWN[2][2])
    uint = rng.philox(np.array([c], dtype=np.uint32), np.array([k], dtype=np.uint32))
    assert uint[0].tolist() == want
    assert rng.philox(uint, [k])[0].to(torch.int64).tolist() == plain_philox(want, k)
    assert rng.philox(torch.zeros(0, 4, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.int64)).shape == (0, 4)
    many = torch.randint(0, 2**32, (131, 6), generator=torch.Generator().manual_seed(0))
    out = rng.philox(many[:, :4], many[:, 4:]).tolist()  # not contiguous
    assert out == [plain_philox(r[:4], r[4:]) for r in many.tolist()]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: rng.normal(0, [1], -1, 4), ValueError, r"step: expected 0 to 2\^32 - 1, got -1"),
        (lambda: rng.normal(0, [1], 2**32, 4), ValueError, "step: expected"),
        (lambda: rng.normal(0, [1], 0, -2), ValueError, "width: expected 0 or more, got -2"),
        (lambda: rng.normal(0, [1], 0, 4, -1), ValueError, "draw: expected 0 or more, got -1"),
        (lambda: rng.normal(0, [1], 0, 4, 2**30), ValueError, r"draw: expected draw \* width \+ offset up to 2\^32"),
        (lambda: rng.uniform(0, [1], 0, 4, torch.tensor([2**30])), ValueError, r"up to 2\^32, got 1073741824 \* 4 \+ 3"),
        (lambda: rng.uniform(0, [1], 0, 4, torch.tensor([-3])), ValueError, "draw: expected 0 or more, got -3"),
        (lambda: rng.normal(0, [1], 0, 4, torch.tensor([1, 2])), ValueError, r"draw: expected an int or .* \[B\] = \[1\], got \[2\]"),
        (lambda: rng.normal(0, [1], 0, 4, 1.5), TypeError, "draw: expected an int, got float"),
        (lambda: rng.normal(0.5, [1], 0, 4), TypeError, "seed: expected an int, got float"),
        (lambda: rng.normal(0, None, 0, 4), ValueError, r"row_ids: expected \[B\] ids .*, got None"),
        (lambda: rng.normal(0, 7, 0, 4), TypeError, "row_ids: expected a tensor, array or sequence of integers, got int"),
        (lambda: rng.normal(0, [0.5], 0, 4), TypeError, "row_ids: expected integers, got torch.float64"),
        (lambda: rng.normal(0, [[1]], 0, 4), ValueError, r"row_ids: expected \[B\], got shape \[1, 1\]"),
        (lambda: rng.normal(0, [1], 0, 4, rows=2), ValueError, "rows: expected the length of row_ids, 1, got 2"),
        (lambda: rng.normal(0, None, 0, 4, rows=-1), ValueError, "rows: expected 0 or more, got -1"),
        (lambda: rng.normal(0, None, 0, 4, torch.arange(3), rows=2), ValueError, "rows: expected the length of draw, 3, got 2"),
        (lambda: rng.philox([[0] * 3], [[0] * 2]), ValueError, r"counter: expected \[N, 4\], got \[1, 3\]"),
        (lambda: rng.philox([[0] * 4], [[0] * 2] * 2), ValueError, "key: expected .* N of counter, 1, got"),
        (lambda: rng.philox([[0.0] * 4], [[0] * 2]), TypeError, "counter: expected integers, got torch.float64"),
    ],
)
def test_errors(call, error, text) -> None:
    with pytest.raises(error, match=text):
        call()


def test_the_last_index_is_two_to_the_32() -> None:
    assert torch.isfinite(rng.normal(0, [1], 0, 1, 2**32)).all()
    with pytest.raises(ValueError, match="draw: expected"):
        rng.normal(0, [1], 0, 1, 2**32 + 1)


@pytest.mark.parametrize("backend", ["reference", *BACKENDS])
def test_rows_out_of_range_are_nan_where_nobody_looks(backend: str) -> None:
    draws = torch.tensor([0, -1, 2**30, 5], device=DEVICE)
    with ordkernels.use_backend(backend):
        for op in (rng._NORMAL, rng._UNIFORM):
            out = op(torch.arange(4, device=DEVICE), draws, 0, 1, 0, 4)
            assert out.isnan().all(1).tolist() == [False, True, True, False]
            assert out.isnan().any(1).tolist() == [False, True, True, False]


@pytest.mark.registration
@native
def test_opcheck() -> None:
    ids, draws = torch.arange(5, device=DEVICE), torch.arange(5, device=DEVICE)
    for d in (None, draws):
        torch.library.opcheck(torch.ops.ordkernels.random_normal.default, (ids, d, 0, -3, 1, 6))
        torch.library.opcheck(torch.ops.ordkernels.random_uniform.default, (ids, d, 0, -3, 1, 6))
    counter, key = (torch.zeros(3, w, dtype=torch.int64, device=DEVICE) for w in (4, 2))
    torch.library.opcheck(torch.ops.ordkernels.philox.default, (counter, key))


@pytest.mark.registration
@native
def test_compiled_vmapped_inference() -> None:
    ids = torch.arange(6, device=DEVICE)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def f(ids: torch.Tensor, seed: int, step: int) -> torch.Tensor:
        return rng.normal(seed, ids, step, 5, ids * 2) + rng.uniform(seed, ids, step, 5)

    for seed, step in ((1, 0), (2, 7), (2**63 + 1, 8), (-5, 9)):
        want = rng.normal(seed, ids, step, 5, ids * 2) + rng.uniform(seed, ids, step, 5)
        assert torch.equal(f(ids, seed, step), want)
    with torch.inference_mode():
        assert torch.equal(rng.normal(1, ids, 0, 5), rng.normal(1, ids.clone(), 0, 5))
    many = torch.arange(12, device=DEVICE).view(2, 6)
    assert torch.equal(torch.vmap(lambda i: rng.normal(1, i, 0, 5))(many), rng.normal(1, many.flatten(), 0, 5).view(2, 6, 5))


def test_backends_are_listed() -> None:
    listed = ordkernels.available_backends("normal")
    assert listed["reference"] == []
    assert "no CUDA C++ kernel" in listed["cuda"][0]
    assert {"normal", "uniform", "philox"} <= set(_backend.OPS)
    with ordkernels.use_backend("cuda"), pytest.raises(RuntimeError, match="normal cannot run on the backend 'cuda': normal has no CUDA"):
        rng.normal(0, [1], 0, 4)
