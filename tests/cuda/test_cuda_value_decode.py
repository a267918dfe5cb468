"""value_decode in CUDA C++: the definition's tokens but for near ties, slots that take row after row, every option."""

from typing import Any

import pytest
import test_value_decode as decoding
import torch
from emulated import DEVICE, EMULATED, assert_same_bits_in_every_order

import ordkernels
from ordkernels.ops import value_decode

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(bool(ordkernels.available_backends("value_decode")["cuda"]), reason="no CUDA C++ kernels here"),
]
PAD, EOS = 0, 2
SIZES = [size for size in decoding.SIZES if size["d"] <= 128]
SMALL = [size for size in decoding.SIZES if size["d"] < 64 or size.get("norm") == "pre"]
WIDE = [size for size in decoding.SIZES if size["d"] > 128]


def run(memory: torch.Tensor, decoder: Any, values: torch.Tensor, **options: Any) -> Any:
    moved = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    with ordkernels.use_backend("cuda"):
        out = value_decode(memory.to(DEVICE), decoder.to(DEVICE), values.to(DEVICE), **moved)
    decoder.cpu()
    return type(out)(*(t.cpu() for t in out))


def assert_is_the_definition(rows: int, size: dict[str, Any], options: dict[str, Any], max_tokens: int) -> None:
    decoder, values = decoding.make(**size)
    is_double = size.get("dtype") is torch.float64
    memory = torch.randn(rows, decoder.memory_width, dtype=torch.float64 if is_double else torch.float32)
    got = run(memory, decoder, values, max_tokens=max_tokens, **options)
    want = decoding.run("reference", memory.double(), decoder.double(), values, max_tokens=max_tokens, **options)
    same, tolerance = (got.tokens == want.tokens).all(1), 1e-10 if is_double else 1e-4
    assert same.sum() >= rows - (0 if is_double else max(1, rows // 50))
    assert torch.equal(got.lengths[same], want.lengths[same])
    torch.testing.assert_close(got.value[same].double(), want.value[same], rtol=tolerance, atol=tolerance)
    assert got.value.dtype == memory.dtype


@pytest.mark.parametrize("options", decoding.OPTIONS)
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_definition(size: dict[str, Any], options: dict[str, Any]) -> None:
    assert_is_the_definition(9, size, options, 6 if size["d"] >= 64 else 13)


@pytest.mark.parametrize(
    ("size", "options"), [*((size, decoding.OPTIONS[0]) for size in SMALL), *((SMALL[0], options) for options in decoding.OPTIONS[1:])]
)
def test_fp64_equals_the_definition_token_by_token(size: dict[str, Any], options: dict[str, Any]) -> None:
    assert_is_the_definition(9, size | {"dtype": torch.float64}, options, 7)


@pytest.mark.parametrize("rows", [17, 150])
def test_fp64_slots_take_row_after_row(order: int, rows: int) -> None:
    assert_is_the_definition(rows, dict(d=16, heads=2, ffn=24, layers=1, eos=3.0, dtype=torch.float64), dict(temperature=0.7, seed=5), 7)


@pytest.mark.parametrize("size", WIDE)
def test_wide_decoders(size: dict[str, Any]) -> None:
    assert_is_the_definition(3, size, dict(readout="windowed"), 4)


@pytest.mark.parametrize("options", [dict(), dict(temperature=0.7, seed=5), dict(readout="windowed", mixup="full", norm="pre")])
@pytest.mark.parametrize("rows", [1, 16, 17, 150])
def test_slots_take_row_after_row(order: int, rows: int, options: dict[str, Any]) -> None:
    """The emulated GPU has two blocks: 32 slots, 64 where there are many rows."""
    norm = {k: v for k, v in options.items() if k == "norm"}
    assert_is_the_definition(
        rows, dict(d=16, heads=2, ffn=24, layers=1, eos=3.0, **norm), {k: v for k, v in options.items() if k not in norm}, 7
    )


def test_no_rows() -> None:
    decoder, values = decoding.make()
    got = run(torch.randn(0, 16), decoder, values)
    assert got.value.shape == (0,)
    assert got.tokens.shape == (0, 19)


def test_near_ties_are_few_and_proven(trained: Any) -> None:
    """Where tokens differ the two logits are equal to rounding in fp64."""
    decoder, values, _, memory = trained
    memory = memory[:300]
    want = decoding.run("reference", memory, decoder, values, max_tokens=6, readout="windowed", window=4)
    got = run(memory, decoder, values, max_tokens=6, readout="windowed", window=4)
    same = decoding.assert_same_but_for_ties(got, want, memory, decoder)
    torch.testing.assert_close(got.value[same], want.value[same], rtol=1e-4, atol=1e-4)
    assert len(torch.unique(want.tokens, dim=0)) > 20


trained = decoding.trained


@pytest.mark.parametrize("options", [dict(), dict(temperature=2.0, seed=3), dict(mixup="window")])
def test_constraints(options: dict[str, Any]) -> None:
    decoder, values = decoding.make(eos=-3.0)
    memory, capacity = 2 * torch.randn(40, 16), torch.linspace(0, 60, 40)
    got = run(memory, decoder, values, monotone=True, capacity=capacity, max_tokens=9, **options)
    for tokens, n in zip(got.tokens, got.lengths, strict=True):
        assert (tokens[:n] >= 3).all()
        assert (tokens[:n].diff() >= 0).all()
    assert (values[got.tokens].sum(1) <= capacity).all()
    assert (got.value <= capacity).all()


@pytest.mark.parametrize("options", [dict(), dict(readout="windowed", mixup="full"), dict(monotone=True, mixup="window")])
def test_nan_stays_in_its_row(options: dict[str, Any]) -> None:
    decoder, values = decoding.make()
    memory = torch.randn(7, 16)
    clean = run(memory, decoder, values, max_tokens=6, **options)
    memory[2, 3] = torch.nan
    got = run(memory, decoder, values, max_tokens=6, **options)
    others = [0, 1, 3, 4, 5, 6]
    assert got.value[2].isnan()
    assert got.tokens[2].tolist() == [PAD] * 5
    assert got.lengths[2] == 0
    assert all(torch.equal(a[others], b[others]) for a, b in zip(got, clean, strict=True))
    limits = torch.full((7,), 40.0)
    limits[4] = torch.nan
    limited = run(memory.nan_to_num(), decoder, values, capacity=limits, max_tokens=6, **options)
    assert limited.value.isnan().tolist() == [r == 4 for r in range(7)]


def test_a_draw_out_of_range_ends_its_row() -> None:
    decoder, values = decoding.make()
    got = run(torch.randn(3, 16), decoder, values, temperature=1.0, draw_ids=torch.tensor([0, -1, 2**40]), max_tokens=4)
    assert got.value.isnan().tolist() == [False, True, True]
    assert got.lengths[1:].tolist() == [0, 0]


def test_ties_take_the_first_and_specials_are_possible() -> None:
    decoder, values = decoding.make()
    with torch.no_grad():
        decoder.linear.weight.zero_()
        decoder.linear.bias.zero_()
    memory = torch.randn(2, 16)
    assert run(memory, decoder, values, max_tokens=5).tokens.tolist() == [[PAD] * 4] * 2
    assert run(memory, decoder, values, monotone=True, max_tokens=5).tokens[0].tolist() == [EOS] + [PAD] * 3


def test_every_order_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, values = decoding.make(eos=2.0)
    memory = torch.randn(80, 16)
    run_it = lambda: tuple(run(memory, decoder, values, max_tokens=6, temperature=1.0, seed=3))  # noqa: E731
    assert_same_bits_in_every_order(run_it, monkeypatch, orders=3)


def test_rows_keep_their_bits_in_any_batch() -> None:
    """But for what comes before the kernel: the projection of the memory is torch's."""
    decoder, values = decoding.make(eos=2.0)
    memory, ids = torch.randn(70, 16), torch.arange(70) + 9
    whole = run(memory, decoder, values, max_tokens=6, temperature=1.0, row_ids=ids)
    parts = [run(memory[i : i + 35], decoder, values, max_tokens=6, temperature=1.0, row_ids=ids[i : i + 35]) for i in (0, 35)]
    assert torch.equal(torch.cat([p.tokens for p in parts]), whole.tokens)


def test_what_it_does_not_take_raises() -> None:
    for V, dtype in ((3000, torch.float32), (1500, torch.float64)):
        decoder, values = decoding.make(V=V, dtype=dtype)
        limits = rf"expected 16 rows of d_model 16, 24 units, {V} tokens and 19 steps to fit into 163840 bytes"
        with pytest.raises(RuntimeError, match=limits):
            run(torch.randn(2, 16, dtype=dtype), decoder, values)


@pytest.mark.skipif(not EMULATED, reason="the shared memory of a GPU is what it is")
@pytest.mark.parametrize("size", [dict(V=2400), dict(V=1200, dtype=torch.float64)])
def test_the_largest_that_is_taken_fits_on_an_a100(size: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDKERNELS_EMULATE_SHARED", str(163 << 10))
    assert_is_the_definition(2, dict(d=16, heads=2, ffn=24, layers=1, **size), dict(readout="windowed"), 3)
