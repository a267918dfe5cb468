"""value_decode against its uncached definition, the authors' inference loop written out, and its own promises."""

import copy
import importlib.util
import os

import numpy as np
import pytest
import torch
from test_decoder import AuthorsDecoder

import ordkernels
from ordkernels import rng, use_backend
from ordkernels.nn import ValueDecoder
from ordkernels.ops import value_decode
from ordkernels.reference import value_decode as reference

INTERPRET = os.environ.get("TRITON_INTERPRET") == "1"
GPU = torch.cuda.is_available() and not INTERPRET
NATIVE = not ordkernels.available_backends("value_decode")["cpu"]
cpu = pytest.param("cpu", marks=[pytest.mark.native, pytest.mark.skipif(not NATIVE, reason="no native kernels here")])
native = cpu.marks
BACKENDS = ["reference", cpu]
PAD, SOS, EOS = 0, 1, 2


def make(V=20, d=16, heads=2, ffn=24, layers=2, dtype=torch.float32, seed=0, eos=1.0, **options):
    """A decoder whose sequences differ: larger weights than usual, and an EOS that comes now and then."""
    torch.manual_seed(seed)
    decoder = ValueDecoder(V, d, heads, ffn, layers, **options)
    with torch.no_grad():
        for name, p in decoder.named_parameters():
            p.mul_(2) if p.dim() > 1 and "tok_emb" not in name else p.add_(0.2 * torch.randn_like(p))
        decoder.linear.bias[EOS] += eos
    values = torch.cat((torch.zeros(3), torch.arange(V - 3.0, 0, -1)))
    return decoder.to(dtype).eval(), values


def run(backend, memory, decoder, values, **options):
    with use_backend(backend):
        return value_decode(memory, decoder, values, **options)


def logits_after(memory, decoder, tokens):
    """fp64 logits of one row after these tokens."""
    wide = copy.deepcopy(decoder).double()
    inputs = torch.tensor([[SOS, *tokens]])
    return wide(inputs, memory[None].double())[0, -1].detach()


def assert_same_but_for_ties(got, want, memory, decoder):
    """Equal tokens; a row that differs does so first where the two tokens' fp64 logits are equal to rounding."""
    rows = (got.tokens != want.tokens).any(1).nonzero()[:, 0].tolist()
    assert len(rows) <= max(2, len(memory) // 500)
    for r in rows:
        i = int((got.tokens[r] != want.tokens[r]).nonzero()[0, 0])
        logits = logits_after(memory[r], decoder, want.tokens[r, :i].tolist())
        gap = abs(float(logits[got.tokens[r, i]] - logits[want.tokens[r, i]]))
        assert gap < 2e-5 * float(logits.abs().max()), (r, i, gap)
    same = (got.tokens == want.tokens).all(1)
    assert torch.equal(got.lengths[same], want.lengths[same])
    return same


@pytest.fixture(scope="module")
def trained():
    """A decoder of d = 64 trained for a moment on greedy encodings of numbers in 0..300, its memory noisy functions of them."""
    torch.manual_seed(0)
    coins = [100, 50, 25, 10, 5, 2, 1]
    values = torch.tensor([0.0, 0, 0, *coins])
    codes = torch.zeros(301, 9, dtype=torch.int64)
    for y in range(301):
        rest, code = y, []
        for i, c in enumerate(coins):
            code += [i + 3] * (rest // c)
            rest %= c
        codes[y, : len(code) + 1] = torch.tensor([*code, EOS])
    frequencies = torch.randn(64) * 6

    def batch(n, generator):
        y = torch.randint(0, 301, (n,), generator=generator)
        return y, torch.sin(y[:, None] / 300 * frequencies + torch.arange(64)) + 0.1 * torch.randn(n, 64, generator=generator)

    decoder, g = ValueDecoder(len(values), 64, 4, 64, 2, dropout=0.0), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(decoder.parameters(), 3e-3)
    for _ in range(80):
        y, memory = batch(96, g)
        tokens = codes[y]
        inputs = torch.cat((torch.full((96, 1), SOS), tokens[:, :-1]), 1)
        loss = torch.nn.functional.cross_entropy(decoder(inputs, memory).flatten(0, 1), tokens.flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return decoder.eval(), values, *batch(10_000, g)


@pytest.mark.slow
@pytest.mark.parametrize("backend", [cpu])
def test_ten_thousand_rows_of_a_trained_decoder(backend, trained):
    decoder, values, y, memory = trained
    options = dict(max_tokens=9, readout="windowed", window=4)
    want, got = (run(b, memory, decoder, values, **options) for b in ("reference", backend))
    same = assert_same_but_for_ties(got, want, memory, decoder)
    assert torch.allclose(got.value[same], want.value[same], rtol=1e-4, atol=1e-4)
    plain = run(backend, memory, decoder, values, max_tokens=9)
    assert torch.equal(plain.tokens, got.tokens)
    assert torch.equal(plain.value, values[got.tokens].sum(1))
    assert len(torch.unique(want.tokens, dim=0)) > 40
    assert (plain.value - y).abs().median() < 30  # it has learned something
    assert want.lengths.float().std() > 0.5


SIZES = [
    dict(V=4, d=16, heads=16, ffn=1, layers=1),
    dict(V=7, d=16, heads=1, ffn=5, layers=1, activation="gelu", positions=12, memory_width=3),
    dict(V=64, d=64, heads=4, ffn=256, layers=2),
    dict(V=64, d=64, heads=4, ffn=256, layers=2, norm="pre", activation="gelu", positions=12),
    dict(V=130, d=96, heads=2, ffn=70, layers=3, norm="pre", memory_width=200),
    dict(V=65, d=100, heads=5, ffn=129, layers=1, activation="gelu", memory_width=65),
    dict(V=300, d=256, heads=8, ffn=100, layers=1),
    dict(V=30, d=256, heads=16, ffn=20, layers=1),  # heads of one, two and four vectors, of 16 to 64 bytes
    dict(V=30, d=128, heads=2, ffn=20, layers=1, norm="pre"),
    dict(V=30, d=16, heads=1, ffn=20, layers=1),
    dict(V=40, d=40, heads=8, ffn=64, layers=6, norm="pre", activation="gelu"),
]
OPTIONS = [
    dict(),
    dict(readout="windowed", mixup="full"),
    dict(readout="windowed", mixup="window", window=8),
    dict(readout="windowed", monotone=True),
    dict(mixup="window", capacity=30.0),
    dict(temperature=0.7, seed=5),
    dict(temperature=1.3, seed=-1, monotone=True, capacity=50.0, mixup="full", readout="windowed"),
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("backend", [cpu])
def test_equals_the_definition(backend, size, options):
    decoder, values = make(**size, dtype=torch.float64)  # in fp64 nothing is near a tie
    memory = torch.randn(9, decoder.memory_width, dtype=torch.float64)
    want, got = (run(b, memory, decoder, values, max_tokens=13, **options) for b in ("reference", backend))
    assert torch.equal(got.tokens, want.tokens)
    assert torch.equal(got.lengths, want.lengths)
    assert torch.allclose(got.value, want.value, rtol=1e-5 if options.get("temperature") else 1e-9, atol=1e-9)
    narrow = run(backend, memory.float(), decoder.float(), values, max_tokens=13, **options)
    assert narrow.value.dtype == torch.float32
    same = (narrow.tokens == want.tokens).all(1)
    assert same.sum() >= 8
    assert torch.allclose(narrow.value[same].double(), want.value[same], rtol=1e-4, atol=1e-4)


def authors_inference(theirs, memory, values, steps, half, full, heads=4):
    """Their loop: every position of every row again at each step; finished rows go on, their values masked."""
    E = theirs.tok_emb.weight
    theirs_layers = copy.deepcopy(theirs)
    theirs_layers.tok_emb = torch.nn.Identity()  # inputs are embeddings
    x = E[torch.full((len(memory), 1), SOS)]
    finished = torch.zeros(len(memory), dtype=torch.bool)
    total, out = torch.zeros(len(memory), dtype=memory.dtype), []
    for _ in range(steps):
        p = theirs_layers(x, memory, heads)[:, -1].softmax(-1)
        top = p.argmax(-1)
        for b in range(len(memory)):
            if not finished[b]:
                low, high = max(0, int(top[b]) - half), int(top[b]) + half + 1
                total[b] += (p[b, low:high] * values[low:high]).sum()
        out.append(torch.where(finished, PAD, top))
        finished = finished | (top == EOS)
        x = torch.cat((x, (p @ E if full else E[top])[:, None]), 1)
    return total, torch.stack(out, 1)


@pytest.mark.parametrize("mixup", [None, "full"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_authors_inference_numbers(backend, mixup):
    theirs = AuthorsDecoder(40, 32, 48, 2).double()
    with torch.no_grad():
        for p in theirs.parameters():
            p.mul_(1.7)
        theirs.linear.bias[EOS] += 2
    decoder = ValueDecoder(40, 32, 4, 48, 2).double()
    decoder.load_gr_state_dict(theirs.state_dict())
    values = torch.cat((torch.zeros(3), torch.linspace(50, 1, 37))).double()
    memory = torch.randn(12, 32).double()
    with torch.no_grad():
        value, tokens = authors_inference(theirs, memory, values, 19, 10, mixup == "full")
    got = run(backend, memory, decoder, values, readout="windowed", mixup=mixup)
    assert torch.equal(got.tokens, tokens)
    assert torch.allclose(got.value, value, rtol=1e-9)
    assert torch.equal(got.lengths, torch.where((tokens == EOS).any(1), (tokens == EOS).int().argmax(1), 19))
    assert 0 < got.lengths.float().mean() < 19


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_a_result_holds(backend):
    decoder, values = make(eos=2.0)
    memory = 2 * torch.randn(50, 16)
    got = run(backend, memory, decoder, values, max_tokens=8)
    assert list(got.tokens.shape) == [50, 7]
    assert (got.lengths < 7).any()
    assert got.lengths.max() == 7
    for value, tokens, n in zip(*got, strict=True):
        assert EOS not in tokens[:n]
        assert tokens[n:].tolist() == ([EOS] + [PAD] * (6 - int(n)) if n < 7 else [])
        assert value == values[tokens].sum()
    last = run(backend, memory, decoder, values, max_tokens=2)
    assert torch.equal(last.tokens, got.tokens[:, :1])


@pytest.mark.parametrize("options", [dict(), dict(temperature=2.0, seed=3), dict(mixup="window"), dict(readout="windowed", mixup="full")])
@pytest.mark.parametrize("backend", BACKENDS)
def test_constraints(backend, options):
    decoder, values = make(eos=-3.0)
    memory, capacity = 2 * torch.randn(60, 16), torch.linspace(0, 60, 60)
    free = run(backend, memory, decoder, values, **options)
    assert not all((t.diff() >= 0).all() for t, n in zip(free.tokens, free.lengths, strict=True) for t in [t[:n]])
    got = run(backend, memory, decoder, values, monotone=True, capacity=capacity, **options)
    for tokens, n in zip(got.tokens, got.lengths, strict=True):
        assert (tokens[:n] >= 3).all()
        assert (tokens[:n].diff() >= 0).all()
    assert (values[got.tokens].sum(1) <= capacity).all()
    assert (got.value <= capacity).all()
    assert got.lengths[0] == 0 == got.value[0]
    same = run(backend, memory, decoder, values, monotone=True, capacity=30, **options)
    assert torch.equal(
        same.tokens, run(backend, memory, decoder, values, monotone=True, capacity=torch.full((60,), 30.0), **options).tokens
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_sampling_is_the_gumbel_maximum_of_the_rows_own_uniforms(backend):
    decoder, values = make(dtype=torch.float64)
    memory = torch.randn(6, 16).double()
    ids, draws = torch.tensor([7, 2**40, -1, 3, 0, 9]), torch.tensor([0, 1, 2, 0, 5, 4])
    options = dict(temperature=0.8, seed=11, row_ids=ids, draw_ids=draws, max_tokens=6)
    got = run(backend, memory, decoder, values, **options)
    for r in range(6):
        tokens = []
        for i in range(5):
            u = rng.uniform(11, ids[r : r + 1], i + 1, 20, draws[r : r + 1])[0].double()
            score = logits_after(memory[r], decoder, tokens) / 0.8 - torch.log(-torch.log(u))
            tokens.append(int(score.argmax()))
            if tokens[-1] == EOS:
                break
        assert got.tokens[r, : len(tokens)].tolist() == tokens
    assert torch.equal(got.tokens, run(backend, memory, decoder, values, **options).tokens)
    assert not torch.equal(got.tokens, run(backend, memory, decoder, values, **options | dict(seed=12)).tokens)


@pytest.mark.parametrize("backend", [cpu])
def test_samples_follow_the_softmax(backend):
    decoder, values = make(V=8)
    memory = torch.randn(1, 16).expand(20_000, 16)
    got = run(backend, memory, decoder, values, temperature=1.5, max_tokens=2)
    p = (logits_after(memory[0], decoder, []) / 1.5).softmax(-1)
    share = got.tokens[:, 0].bincount(minlength=8) / 20_000
    assert ((share - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt() + 1e-9).all()


@pytest.mark.parametrize("marks", [pytest.param(None, marks=native)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [SIZES[2], SIZES[4]])
def test_rows_keep_their_bits_in_any_batch_and_thread_count(marks, size, dtype):
    decoder, values = make(**size, dtype=dtype, eos=2.0)
    memory, ids = torch.randn(131, decoder.memory_width, dtype=dtype), torch.randperm(131) + 2**40
    for options in (dict(mixup="full", readout="windowed"), dict(temperature=1.0, seed=3), dict(monotone=True, capacity=90.0)):
        whole = value_decode(memory, decoder, values, max_tokens=9, row_ids=ids, **options)
        for step in (1, 5, 50):
            parts = [
                value_decode(memory[i : i + step], decoder, values, max_tokens=9, row_ids=ids[i : i + step], **options)
                for i in range(0, 131 if step > 1 else 20, step)
            ]
            assert all(torch.equal(a[: len(b)], b) for a, b in zip(whole, map(torch.cat, zip(*parts, strict=True)), strict=True)), step
        threads = torch.get_num_threads()
        try:
            for n in (1, 2, 3):
                torch.set_num_threads(n)
                assert all(map(torch.equal, whole, value_decode(memory, decoder, values, max_tokens=9, row_ids=ids, **options)))
        finally:
            torch.set_num_threads(threads)


@pytest.mark.parametrize(
    "options", [dict(), dict(readout="windowed", mixup="full"), dict(monotone=True, readout="windowed", mixup="window")]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_in_its_row(backend, options):
    decoder, values = make()
    memory = torch.randn(7, 16)
    clean = run(backend, memory, decoder, values, **options)
    memory[2, 3] = torch.nan
    got = run(backend, memory, decoder, values, **options)
    others = [0, 1, 3, 4, 5, 6]
    assert got.value[2].isnan()
    assert got.tokens[2].tolist() == [PAD] * 19
    assert got.lengths[2] == 0
    assert all(torch.equal(a[others], b[others]) for a, b in zip(got, clean, strict=True))
    limits = torch.full((7,), 40.0)
    limits[4] = torch.nan
    limited = run(backend, memory.nan_to_num(), decoder, values, capacity=limits, **options)
    assert limited.value.isnan().tolist() == [r == 4 for r in range(7)]


@pytest.mark.parametrize("options", [dict(), dict(temperature=1.0, seed=3)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_nan_logit_beside_finite_ones(backend, options):
    decoder, values = make()  # a number of tokens that fills no block of a kernel
    assert len(values) % 32
    with torch.no_grad():
        decoder.linear.bias[len(values) - 1] = torch.nan
    got = run(backend, torch.randn(3, 16), decoder, values, **options)
    assert got.value.isnan().all()
    assert not got.tokens.any()
    assert not got.lengths.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_half_precision_weights_are_computed_in_fp32(backend):
    decoder, values = make()
    memory = torch.randn(9, 16)
    for dtype in (torch.bfloat16, torch.float16):
        half = copy.deepcopy(decoder).to(dtype)
        got = run(backend, memory.to(dtype), half, values)
        want = run(backend, memory.to(dtype).float(), copy.deepcopy(half).float(), values)
        assert got.value.dtype == torch.float32
        assert all(map(torch.equal, got, want))


def test_ties_take_the_first_and_specials_are_possible():
    decoder, values = make()
    with torch.no_grad():
        decoder.linear.weight.zero_()
        decoder.linear.bias.zero_()
    memory = torch.randn(2, 16)
    for backend in ["reference"] + ["cpu"] * NATIVE:
        assert run(backend, memory, decoder, values).tokens.tolist() == [[PAD] * 19] * 2
        assert run(backend, memory, decoder, values).lengths.tolist() == [19, 19]
        assert run(backend, memory, decoder, values, monotone=True).tokens[0].tolist() == [EOS] + [PAD] * 18


def test_empty_batch_strides_arrays_inference_mode_no_gradient_and_new_weights():
    decoder, values = make()
    memory = torch.randn(6, 16)
    empty = value_decode(memory[:0], decoder, values)
    assert [list(t.shape) for t in empty] == [[0], [0, 19], [0]]
    want = value_decode(memory, decoder, values)
    for again in (memory.t().contiguous().t(), memory.repeat(1, 2)[:, :16]):
        assert all(map(torch.equal, want, value_decode(again, decoder, values)))
    assert all(map(torch.equal, want, value_decode(memory, decoder, values.numpy().astype(np.int64))))
    with torch.inference_mode():
        assert all(map(torch.equal, want, value_decode(memory, decoder, values)))
    decoder.train()  # taken without dropout all the same
    got = value_decode(memory.requires_grad_(), decoder, values)
    assert not any(t.requires_grad for t in got)
    assert all(map(torch.equal, want, got))
    decoder.linear.bias.data[5] = 100.0
    assert (value_decode(memory.detach(), decoder, values).tokens == 5).all()
    decoder.linear.weight = torch.nn.Parameter(torch.zeros(20, 16))
    decoder.linear.bias = torch.nn.Parameter(torch.zeros(20))
    assert (value_decode(memory.detach(), decoder, values).tokens == PAD).all()


@pytest.mark.registration
def test_opcheck():
    decoder, values = make(positions=6)
    weights, position = decoder.weights()[:2]
    args = (torch.randn(3, 16), values, [w.detach() for w in weights], position.detach(), torch.full((3,), 9.0), torch.arange(3), None,
            2, False, False, 1e-5, 5, 20, 1, True, 0.9, True, float("inf"), 4)  # fmt: skip
    torch.library.opcheck(torch.ops.ordkernels.value_decode.default, args)


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        (dict(decoder=torch.nn.Linear(16, 20)), TypeError, r"decoder: expected a ValueDecoder, .*, got Linear"),
        (dict(memory=torch.zeros(5, 1, 16)), ValueError, r"memory: expected \[B, M\] = \[5, 16\], got \[5, 1, 16\]"),
        (dict(memory=torch.zeros(5, 15)), ValueError, r"memory: expected \[B, M\] = \[5, 16\], got \[5, 15\]"),
        (dict(memory=torch.zeros(5, 16, dtype=torch.int64)), TypeError, r"memory: expected float32"),
        (dict(memory=torch.zeros(5, 16).double()), TypeError, r"decoder: expected the dtype of memory"),
        (dict(values=torch.zeros(19)), ValueError, r"values: expected \[V\] = \[20\], got \[19\]"),
        (dict(values=[0.0] * 20), TypeError, r"values: expected a tensor or an array, got list"),
        (dict(values=torch.zeros(20, dtype=torch.bool)), TypeError, r"values: expected numbers, got torch.bool"),
        (dict(max_tokens=1), ValueError, r"max_tokens: expected at least 2"),
        (dict(max_tokens=2.5), TypeError, r"max_tokens: "),
        (dict(max_tokens=14), ValueError, r"max_tokens: expected at most 13, the decoder's positions and one more, got 14"),
        (dict(window=-1), ValueError, r"window: expected at least 0, got -1"),
        (dict(mixup="all"), ValueError, r"mixup: expected None, 'window' or 'full', got 'all'"),
        (dict(readout="sum"), ValueError, r"readout: expected 'tokens' or 'windowed', got 'sum'"),
        (dict(temperature=-1.0), ValueError, r"temperature: "),
        (dict(temperature=float("nan")), ValueError, r"temperature: "),
        (dict(temperature="hot"), TypeError, r"temperature: expected a number, got str"),
        (dict(monotone=1), TypeError, r"monotone: expected a bool, got int"),
        (dict(capacity=-1), ValueError, r"capacity: expected 0 or more, got -1"),
        (dict(capacity=torch.tensor([1.0, 2, 3, 4, -5])), ValueError, r"capacity: expected 0 or more, got -5"),
        (dict(capacity=torch.ones(4)), ValueError, r"capacity: expected a number or a tensor of shape \[B\] = \[5\], got \[4\]"),
        (dict(capacity="much"), TypeError, r"capacity: "),
        (dict(row_ids=torch.zeros(4, dtype=torch.int64)), ValueError, r"row_ids: expected \[B\] = \[5\]"),
        (dict(draw_ids=torch.zeros(5)), TypeError, r"draw_ids: expected integers, got torch.float32"),
        (dict(seed="a"), TypeError, r"seed: "),
        (dict(max_tokens=2**31 + 1), ValueError, r"max_tokens: expected at most 2147483648, got 2147483649"),
    ],
)  # fmt: skip
def test_bad_input(change, kind, text):
    decoder, values = make(positions=12)
    args = dict(memory=torch.zeros(5, 16), decoder=decoder, values=values, max_tokens=13) | change
    with pytest.raises(kind, match=text):
        value_decode(args.pop("memory"), args.pop("decoder"), args.pop("values"), **args)


def test_what_reaches_the_kernel_unchecked_is_refused_there(native):
    decoder, values = make()
    weights = [w.detach() for w in decoder.weights()[0]]
    last = (None, None, None, None, 2, False, False, 1e-5, 5, 20, 0, False, 0.0, False, float("inf"), 0)
    call = torch.ops.ordkernels.value_decode.default
    for wrong in (
        weights[:-1],
        [*weights[:-1], torch.zeros(15)],
        [*weights[:5], torch.zeros(16), *weights[6:]],
        [w.double() for w in weights],
    ):
        with pytest.raises(RuntimeError, match="weights: "):
            call(torch.zeros(3, 16), values, wrong, *last)
    with pytest.raises(RuntimeError, match="heads: "):
        call(torch.zeros(3, 16), values, weights, *last[:4], 3, *last[5:])
    with pytest.raises(RuntimeError, match="row_ids: "):
        call(torch.zeros(3, 16), values, weights, *last[:12], 1.0, *last[13:])


def test_uniforms_of_one_stay_finite():
    assert torch.isfinite(reference.gumbel(torch.tensor([1.0, 1 - 2**-24, 2**-25]))).all()


TRITON = [
    pytest.mark.triton,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed"),
    pytest.mark.skipif(not (INTERPRET or GPU), reason="neither TRITON_INTERPRET=1 (before the first import) nor a GPU"),
]


@pytest.mark.parametrize("marks", [pytest.param(None, marks=TRITON)])
@pytest.mark.parametrize(
    ("size", "options"),
    [
        (dict(), dict()),
        (dict(V=40, d=24, heads=3, norm="pre", activation="gelu", positions=3), dict(temperature=0.8, seed=5, monotone=True)),
        (dict(norm="pre", memory_width=3), dict(mixup="window", readout="windowed", window=6, capacity=20.0)),
        (dict(V=7, heads=1, ffn=40, layers=1, activation="gelu"), dict(mixup="full", readout="windowed", temperature=1.3)),
    ],
)
def test_triton_equals_the_definition(marks, size, options):
    decoder, values = make(**size, eos=-1.0)
    memory, device = torch.randn(3, decoder.memory_width), "cuda" if GPU else "cpu"
    memory[1, 0] = torch.nan
    options |= dict(max_tokens=4, draw_ids=torch.tensor([0, 1, 2]))
    want = run("reference", memory, decoder, values, **options)
    options["draw_ids"] = options["draw_ids"].to(device)
    got = run("triton", memory.to(device), copy.deepcopy(decoder).to(device), values.to(device), **options)
    assert torch.equal(got.tokens.cpu(), want.tokens)
    assert torch.equal(got.lengths.cpu(), want.lengths)
    assert torch.allclose(got.value.cpu(), want.value, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert want.value.isnan().tolist() == [False, True, False]
    assert want.lengths.max() > 1


@pytest.mark.parametrize("marks", [pytest.param(None, marks=TRITON)])
def test_triton_says_what_it_cannot_do(marks):
    device = "cuda" if GPU else "cpu"
    for size, text in ((dict(d=96), r"expected d_model up to 64 .*got 2 x 64"), (dict(dtype=torch.float64), "float64 is not served")):
        decoder, values = make(**size)
        memory = torch.randn(2, decoder.d_model, dtype=decoder.linear.weight.dtype, device=device)
        with pytest.raises(RuntimeError, match=f"value_decode cannot run on the backend 'triton': {text}"):
            run("triton", memory, decoder.to(device), values.to(device))
