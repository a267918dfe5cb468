"""sequence_layer: against torch's own modules in fp64 and within their error in fp32; dropout; hostile lengths; wrong calls."""

from typing import Any

import pytest
import torch
from _gradients import assert_equal_to_rounding, with_gradients
from torch import Tensor
from torch.nn import functional as F

import ordkernels
from ordkernels import ops
from ordkernels.nn.transformer import TransformerLayer
from ordkernels.ops import SequenceWeights
from ordkernels.reference._dropout import dropout_factors
from ordkernels.testing.compare import assert_within_budget, same_bits
from ordkernels.testing.inputs import strided

KERNEL = torch.ops.ordkernels
native = pytest.mark.native
REASONS = "; ".join(ordkernels.available_backends("sequence_layer")["triton"])
TRITON = pytest.param("triton", marks=[pytest.mark.triton, pytest.mark.skipif(bool(REASONS), reason=REASONS or "-")])
ON_CPU = ["reference", pytest.param("cpu", marks=native)]
each_backend = pytest.mark.parametrize("backend", [*ON_CPU, TRITON])
on_triton = pytest.mark.parametrize("backend", [TRITON])
LENGTHS: list[list[int]] = [[], [0], [0, 0, 0], [1], [64], [20, 3, 1, 5, 0, 17, 33, 2, 64, 0, 1, 16, 50], [4] * 70, [100, 2], [1] * 33]
WIDTHS = [(16, 1, 32), (64, 4, 128), (24, 3, 40), (64, 8, 64), (7, 7, 5), (130, 2, 70)]  # W, heads, F
# The interpreter takes a millisecond for a line of a kernel.
FEW = [5, 0, 18, 1]
SHORT = [*LENGTHS[:4], [33], [17, 3, 1, 0, 33, 0, 2], [4] * 20, [70, 2], [1] * 33]


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def random_weights(W: int, F_: int, memory: bool = False, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    def matrix(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.float64) / shape[-1] ** 0.5

    def norm() -> list[Tensor]:
        return [1 + 0.3 * torch.randn(W, dtype=torch.float64), 0.3 * torch.randn(W, dtype=torch.float64)]

    def bias(n: int) -> Tensor:
        return 0.3 * torch.randn(n, dtype=torch.float64)

    parts = [*norm(), matrix(3 * W, W), bias(3 * W), matrix(W, W), bias(W), *norm(), matrix(F_, W), bias(F_), matrix(W, F_), bias(W)]
    return [t.to(dtype) for t in (*parts, *(norm() if memory else []))]


def inputs_of(
    lengths: list[int], W: int, F_: int, norm: str = "pre", memory: bool = False, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """x, then the memory if there is one, then the weights."""
    first = [torch.randn(sum(lengths), W, dtype=torch.float64).to(dtype)]
    first += [torch.randn(len(lengths), W, dtype=torch.float64).to(dtype)] if memory else []
    return first + random_weights(W, F_, memory and norm == "post", dtype)


def ours(lengths: list[int], memory: bool, **options: Any) -> Any:
    offsets = offsets_of(lengths)

    def run(x: Tensor, *rest: Tensor) -> Tensor:
        m, weights = (rest[0], rest[1:]) if memory else (None, rest)
        return ops.sequence_layer(x, offsets, SequenceWeights(*weights), memory=m, **options)

    return run


def plain(
    lengths: list[int], memory: bool, heads: int, norm: str = "pre", activation: str = "silu", causal: bool = False, eps: float = 1e-5
) -> Any:
    """Sequence by sequence, by torch's functions."""

    def attend(x: Tensor, w: SequenceWeights) -> Tensor:
        q, k, v = F.linear(x, w.qkv_weight, w.qkv_bias).view(len(x), 3, heads, -1).permute(1, 2, 0, 3)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return F.linear(a.transpose(0, 1).flatten(1), w.out_weight, w.out_bias)

    def feed(x: Tensor, w: SequenceWeights) -> Tensor:
        return F.linear(getattr(F, activation)(F.linear(x, w.linear1_weight, w.linear1_bias)), w.linear2_weight, w.linear2_bias)

    def one(x: Tensor, m: Any, w: SequenceWeights) -> Tensor:
        def normed(t: Tensor, which: int) -> Tensor:
            return F.layer_norm(t, t.shape[1:], getattr(w, f"norm{which}_weight"), getattr(w, f"norm{which}_bias"), eps)

        if norm == "pre":
            x = x + attend(normed(x, 1), w)
            x = x + m
            return x + feed(normed(x, 2), w)
        x = normed(x + attend(x, w), 1)
        x = normed(x + m, 3) if memory else x
        return normed(x + feed(x, w), 2)

    def run(x: Tensor, *rest: Tensor) -> Tensor:
        ms, weights = (rest[0], rest[1:]) if memory else (torch.zeros(len(lengths), 1, dtype=x.dtype), rest)
        w = SequenceWeights(*weights)
        parts = [one(t, m, w) for t, m in zip(x.split(lengths), ms, strict=True) if len(t)]
        return torch.cat(parts) if parts else x * w.qkv_weight.sum() + sum(t.sum() for t in weights) + ms.sum()

    return run


def name_of(lengths: Any) -> str:
    return f"{len(lengths)}x{max(lengths, default=0)}" if isinstance(lengths, list) else str(lengths)


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("lengths", LENGTHS, ids=name_of)
@pytest.mark.parametrize(("W", "heads", "F_"), WIDTHS)
def test_like_torch_on_each_sequence(backend: str, lengths: list[int], W: int, heads: int, F_: int) -> None:
    check_like_torch(backend, lengths, W, heads, F_)


@on_triton
@pytest.mark.parametrize(
    ("lengths", "W", "heads", "F_"), [*((x, *WIDTHS[0]) for x in SHORT), *((FEW, *widths) for widths in WIDTHS[1:])], ids=name_of
)
def test_triton_like_torch_on_each_sequence(backend: str, lengths: list[int], W: int, heads: int, F_: int) -> None:
    check_like_torch(backend, lengths, W, heads, F_)


def check_like_torch(backend: str, lengths: list[int], W: int, heads: int, F_: int) -> None:
    inputs = inputs_of(lengths, W, F_)
    with ordkernels.use_backend(backend):
        got = with_gradients(ours(lengths, False, heads=heads), *inputs)
    assert_equal_to_rounding(got, with_gradients(plain(lengths, False, heads), *inputs))


@each_backend
@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("activation", ["silu", "relu", "gelu"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_every_kind_of_layer(backend: str, norm: str, activation: str, causal: bool, memory: bool) -> None:
    options = dict(norm=norm, activation=activation, causal=causal, eps=1e-3)
    full = ((LENGTHS[5], WIDTHS[1]), (LENGTHS[6], WIDTHS[2]), (LENGTHS[2], WIDTHS[0]))
    for lengths, (W, heads, F_) in full if backend != "triton" else ((FEW, (16, 2, 20)), full[2]):
        inputs, options = inputs_of(lengths, W, F_, norm, memory), options | dict(heads=heads)
        with ordkernels.use_backend(backend):
            got = with_gradients(ours(lengths, memory, **options), *inputs)
        assert_equal_to_rounding(got, with_gradients(plain(lengths, memory, **options), *inputs))


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("W", "heads", "F_"), WIDTHS)
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_within_the_error_of_plain_torch(dtype: torch.dtype, W: int, heads: int, F_: int, norm: str) -> None:
    for lengths, memory in ((LENGTHS[5], True), ([1, 7], False)):
        check_error(lengths, inputs_of(lengths, W, F_, norm, memory, dtype), memory, heads=heads, norm=norm)


@on_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_triton_within_the_error_of_plain_torch(backend: str, dtype: torch.dtype, norm: str) -> None:
    W, heads, F_ = WIDTHS[2]
    with ordkernels.use_backend(backend):
        check_error(FEW, inputs_of(FEW, W, F_, norm, True, dtype), True, heads=heads, norm=norm)


def check_error(lengths: list[int], inputs: list[Tensor], memory: bool, **options: Any) -> None:
    truth = with_gradients(plain(lengths, memory, **options), *(t.double() for t in inputs))
    eager = with_gradients(plain(lengths, memory, **options), *inputs)
    assert_within_budget(with_gradients(ours(lengths, memory, **options), *inputs), eager, truth, ulps=16, scale=1)


def dropped(lengths: list[int], ids: Tensor, p: float, seed: int, layer: int, heads: int, norm: str) -> Any:
    """With a memory, by the definition's factors."""
    offsets, W = offsets_of(lengths), WIDTHS[2][0]
    blocks = -(-W // 64) * 64

    def factors(site: int) -> Tensor:
        stream = dropout_factors(ids, 64 * blocks, seed, p, 3 * layer + site).view(len(ids), 64, blocks)[..., :W]
        return torch.cat([stream[s, :n] for s, n in enumerate(lengths)]) if site < 2 else stream[:, 0]

    def run(x: Tensor, m: Tensor, *weights: Tensor) -> Tensor:
        w = SequenceWeights(*weights)
        of = torch.repeat_interleave(torch.arange(len(lengths)), offsets.diff())
        seen = of[:, None] == of

        def normed(t: Tensor, which: int) -> Tensor:
            return F.layer_norm(t, (W,), getattr(w, f"norm{which}_weight"), getattr(w, f"norm{which}_bias"))

        def attend(x: Tensor) -> Tensor:
            q, k, v = F.linear(x, w.qkv_weight, w.qkv_bias).view(len(x), 3, heads, -1).permute(1, 2, 0, 3)
            a = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
            return factors(0) * F.linear(a.transpose(0, 1).flatten(1), w.out_weight, w.out_bias)

        def feed(x: Tensor) -> Tensor:
            return factors(1) * F.linear(F.silu(F.linear(x, w.linear1_weight, w.linear1_bias)), w.linear2_weight, w.linear2_bias)

        m = (factors(2) * m)[of]
        if norm == "pre":
            x = x + attend(normed(x, 1)) + m
            return x + feed(normed(x, 2))
        x = normed(normed(x + attend(x), 1) + m, 3)
        return normed(x + feed(x), 2)

    return run


@each_backend
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_dropout_follows_the_definition(backend: str, norm: str) -> None:
    W, heads, F_ = WIDTHS[2]
    for lengths in (LENGTHS[5], [3] * 40, [64, 0, 1]) if backend != "triton" else (FEW, [3] * 7):
        ids = torch.randint(-(2**60), 2**60, (len(lengths),))
        inputs = inputs_of(lengths, W, F_, norm, True)
        with ordkernels.use_backend(backend):
            got = with_gradients(ours(lengths, True, heads=heads, norm=norm, dropout=0.3, seed=5, row_ids=ids, layer=2), *inputs)
        assert_equal_to_rounding(got, with_gradients(dropped(lengths, ids, 0.3, 5, 2, heads, norm), *inputs))


@each_backend
@pytest.mark.parametrize("W", [3, 16, 32, 100, 130])
def test_dropout_of_every_width(backend: str, W: int) -> None:
    x, m, *weights = inputs_of(FEW, W, 5, "post", True)
    run = ours(FEW, True, heads=1, norm="post", dropout=0.4, seed=-7, layer=1)
    found = []
    for name in (backend, "reference"):
        with ordkernels.use_backend(name):
            found.append(run(x, m, *weights))
    torch.testing.assert_close(*found)


@each_backend
def test_dropout_keeps_the_mean_and_drops_its_share(backend: str) -> None:
    W, p, lengths = 100, 0.3, [20] * (40 if backend != "triton" else 8)
    N = sum(lengths)
    w = SequenceWeights(*random_weights(W, 8))  # what is added: the feed-forward part's bias alone
    ones, zeros = torch.ones(W).double(), torch.zeros(W).double()
    w = w._replace(out_weight=w.out_weight * 0, out_bias=zeros, linear2_weight=w.linear2_weight * 0, linear2_bias=ones)
    with ordkernels.use_backend(backend):
        kept = ops.sequence_layer(torch.zeros(N, W).double(), offsets_of(lengths), w, heads=1, dropout=p, seed=11)
    torch.testing.assert_close(kept.unique(), torch.tensor([0, 1 / (1 - p)]).double(), rtol=1e-4, atol=0)
    share = (kept == 0).double()
    sigma = (p * (1 - p)) ** 0.5
    assert abs(share.mean() - p) < 5 * sigma / (N * W) ** 0.5
    assert (share.mean(0) - p).abs().max() < 5 * sigma / N**0.5
    assert (share.mean(1) - p).abs().max() < 5 * sigma / W**0.5
    for shifted in (share[1:] * share[:-1], share[20:] * share[:-20], share[:, 1:] * share[:, :-1], share[:, 64:] * share[:, :-64]):
        assert abs(shifted.mean() - p * p) < 5 / shifted.numel() ** 0.5


@each_backend
def test_dropout_belongs_to_the_sequence(backend: str) -> None:
    lengths = [5, 0, 17, 1, 40, 3]
    (x, m, *weights), ids = inputs_of(lengths, 16, 20, "post", True, torch.float32), torch.randint(2**62, (6,))
    options: dict[str, Any] = dict(heads=2, norm="post", dropout=0.5)
    with ordkernels.use_backend(backend):
        whole = ours(lengths, True, seed=2**63 + 5, row_ids=ids, **options)(x, m, *weights)
        for s, part in enumerate(x.split(lengths)):
            alone = ours([lengths[s]], True, seed=torch.tensor(5 - 2**63), row_ids=ids[s : s + 1], **options)(part, m[s : s + 1], *weights)
            torch.testing.assert_close(alone, whole.split(lengths)[s])
        others = [ours(lengths, True, **(dict(seed=5, row_ids=ids, layer=0) | change), **options)(x, m, *weights) for change in (
            dict(seed=6), dict(row_ids=None), dict(layer=1))]  # fmt: skip
        assert not any(torch.allclose(t, whole) for t in others)
        torch.manual_seed(3)
        first, second = (ours(lengths, True, **options)(x, m, *weights) for _ in range(2))
        torch.manual_seed(3)
        assert same_bits([ours(lengths, True, **options)(x, m, *weights)], [first])
        assert not torch.equal(first, second)


@each_backend
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e30])
def test_a_nan_stays_in_its_sequence(backend: str, norm: str, value: float) -> None:
    lengths = [5, 1, 17, 0, 1, 30]
    x, *rest = inputs_of(lengths, 16, 20, norm, True, torch.float32)
    spoilt, sequences = x.clone(), torch.tensor([0, *lengths]).cumsum(0)
    rows = torch.zeros(len(x), dtype=torch.bool)
    for s, token in ((1, 0), (2, 11)):
        spoilt[sequences[s] + token, 3] = value
        rows[sequences[s] : sequences[s + 1]] = True
    with ordkernels.use_backend(backend):
        run = ours(lengths, True, heads=2, norm=norm, dropout=0.1, seed=1)
        clean, got = with_gradients(run, x, *rest)[:2], with_gradients(run, spoilt, *rest)[:2]
    for a, b in zip(clean, got, strict=True):
        torch.testing.assert_close(a[~rows], b[~rows])
    if value != 1e30:
        assert got[0][rows].isnan().any(1).sum() >= 2


@native
def test_bits_depend_on_no_thread_batch_or_stride() -> None:
    lengths = torch.randint(0, 40, (400,)).tolist()
    inputs = inputs_of(lengths, 64, 128, "post", True, torch.float32)
    options: dict[str, Any] = dict(heads=4, norm="post", causal=True, dropout=0.1, seed=4)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(with_gradients(ours(lengths, True, **options), *inputs))
    finally:
        torch.set_num_threads(before)
    assert same_bits(found[0], found[1])
    assert same_bits(found[0], found[2])
    some, n = lengths[:131], sum(lengths[:131])
    x, m, *weights = inputs
    assert same_bits([ours(some, True, **options)(x[:n], m[:131], *weights)], [found[0][0][:n]])
    assert same_bits(with_gradients(ours(lengths, True, **options), *(strided(t) for t in inputs)), found[0])
    with torch.no_grad():  # saves nothing
        assert same_bits([ours(lengths, True, **options)(*inputs)], found[0][:1])


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("W", "heads"), [(16, 1), (64, 8), (64, 4), (48, 2), (35, 7)])
def test_a_sequence_has_the_same_bits_alone(W: int, heads: int, causal: bool, dtype: torch.dtype) -> None:
    """Many short ones share vectors, a lane each; one alone has its queries in the lanes."""
    lengths = [9] * 17 + torch.randint(1, 27, (60,)).tolist() + [4] * 40
    x, m, *weights = inputs_of(lengths, W, 20, memory=True, dtype=dtype)
    g = torch.randn_like(x)

    def run(lengths: list[int], *inputs: Tensor) -> tuple[Tensor, ...]:
        x, m, g = inputs
        leaves = [x.detach().requires_grad_(), m.detach().requires_grad_()]
        y = ours(lengths, True, heads=heads, causal=causal)(*leaves, *weights)
        return y, *torch.autograd.grad(y, leaves, g)

    def split(tokens: Tensor, others: Tensor, memories: Tensor) -> list[tuple[Tensor, ...]]:
        return list(zip(tokens.split(lengths), others.split(lengths), memories.split(1), strict=True))

    for L, (x_of, g_of, m_of), expected in zip(lengths, split(x, g, m), split(*run(lengths, x, m, g)), strict=True):
        assert same_bits(run([L], x_of, m_of, g_of), expected)


@pytest.mark.parametrize("backend", [ON_CPU[1], TRITON])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_only_the_gradients_that_are_asked_for(backend: str, norm: str) -> None:
    lengths = [5, 0, 30, 2]
    inputs = inputs_of(lengths, 16, 20, norm, True, torch.float32)
    run = ours(lengths, True, heads=2, norm=norm)
    g = torch.linspace(-1, 2, 37 * 16).view(37, 16)
    with ordkernels.use_backend(backend):
        every = with_gradients(run, *inputs)
        for i in range(len(inputs)) if backend != "triton" else (0, 1, 5, 12):
            leaves = [t.detach().requires_grad_(i == j) for j, t in enumerate(inputs)]
            (got,) = torch.autograd.grad(run(*leaves), leaves[i], g)
            assert same_bits([got], [every[1 + i]])
        with torch.no_grad():  # saves nothing
            assert same_bits([run(*inputs)], every[:1])
        assert same_bits([run(*(strided(t) for t in inputs))], every[:1])


@pytest.mark.registration
@native
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_gradcheck_and_opcheck(norm: str) -> None:
    lengths, pre = [2, 0, 3], norm == "pre"
    inputs = [t.requires_grad_() for t in inputs_of(lengths, 4, 3, norm, True)]
    for activation in ("silu", "gelu"):
        run = ours(lengths, True, heads=2, norm=norm, dropout=0.3, seed=1, activation=activation)
        assert torch.autograd.gradcheck(run, inputs)
    tensors = [*inputs, *([None, None] if pre else []), offsets_of(lengths), torch.tensor(9), None]
    constants = (2, 0, pre, True, 1e-5, 0.3, 0)
    torch.library.opcheck(KERNEL.sequence_layer.default, (*tensors, *constants, 1))
    detached = [t.detach() if isinstance(t, Tensor) else t for t in tensors]
    for grad_mask in (0, 1, 2, 8, 2**16 - 1):
        out = KERNEL._sequence_layer(*detached, *constants, 1)
        torch.library.opcheck(KERNEL._sequence_layer.default, (*detached, *constants, grad_mask))
        torch.library.opcheck(
            KERNEL.sequence_layer_backward.default, (*detached, *out[1:], torch.randn(5, 4).double(), *constants, grad_mask)
        )


@pytest.mark.registration
def test_compiled_with_a_seed_of_torch() -> None:
    """A training step draws its seed inside the compiled code."""
    layer, x, offsets = TransformerLayer(8, 2, 0.5), torch.randn(6, 8), offsets_of([4, 2])
    compiled = torch.compile(
        lambda x, o: ops.sequence_layer(x, o, layer.weights(), heads=2, dropout=0.5), fullgraph=True, backend="aot_eager"
    )
    first, second = (compiled(x, offsets) for _ in range(2))
    assert not torch.equal(first, second)


@each_backend
@pytest.mark.parametrize("lengths", [FEW, [0, 0], []], ids=name_of)
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_tokens_behind_the_last_sequence_are_in_none(backend: str, norm: str, lengths: list[int]) -> None:
    inputs, others = inputs_of(lengths, 16, 20, norm, memory=True), 9

    def run(x: Tensor, memory: Tensor, *weights: Tensor) -> Tensor:
        x = torch.cat((x, torch.full((others, 16), torch.nan)))
        options = dict(heads=2, norm=norm, dropout=0.3, seed=5, padded=True)
        y = ops.sequence_layer(x, offsets_of(lengths), SequenceWeights(*weights), memory=memory, **options)  # type: ignore[arg-type]
        assert not y[len(x) - others :].any()
        return y[: len(x) - others]

    if backend == "triton" and not lengths:
        pytest.skip("tokens without a sequence have no row id there")
    with ordkernels.use_backend(backend):
        got = with_gradients(run, *inputs)
        want = with_gradients(ours(lengths, True, heads=2, norm=norm, dropout=0.3, seed=5), *inputs)
    assert_equal_to_rounding(got, want)


@native
def test_the_kernel_checks_again() -> None:
    x, *weights = inputs_of([2, 3], 4, 6, dtype=torch.float32)

    def call(
        x: Tensor = x, offsets: Any = (0, 2, 5), heads: int = 2, memory: Any = None, p: float = 0.0, seed: Any = None, pre: bool = True
    ) -> Any:
        return KERNEL.sequence_layer(
            x, memory, *weights, None, None, torch.tensor(offsets), seed, None, heads, 0, pre, False, 1e-5, p, 0, 0
        )

    for arguments, text in (
        (dict(x=x[0]), "x: expected"),
        (dict(x=x[:, :2]), "norm1_weight: expected shape"),
        (dict(offsets=(0, 6)), "offsets: expected to rise from 0 to at most N = 5"),
        (dict(offsets=(0, 4, 2, 5)), "offsets: expected to rise"),
        (dict(offsets=(0.0, 5.0)), "offsets: expected int64"),
        (dict(heads=3), "heads: expected a divisor of W = 4, got 3"),
        (dict(memory=torch.zeros(3, 4)), "memory: expected shape"),
        (dict(memory=torch.zeros(2, 4), pre=False), "norm3_weight: expected a tensor"),
        (dict(p=0.5), "seed: expected one"),
        (dict(p=1.0), "dropout: expected"),
    ):
        with pytest.raises(RuntimeError, match=text):
            call(**arguments)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (dict(x=[1.0]), TypeError, "x: expected a torch.Tensor, got list"),
        (dict(x=torch.zeros(5)), ValueError, r"x: expected \[N, W\], got 1 dim"),
        (dict(x=torch.zeros(5, 3)), ValueError, "heads: expected a divisor of W = 3, got 2"),
        (dict(x=torch.zeros(5, 6)), ValueError, r"norm1_weight: expected \[W\] = \[6\], got \[4\]"),
        (dict(x=torch.zeros(5, 4).double()), TypeError, "linear1_weight: expected the dtype of x"),
        (dict(offsets=[0, 5]), TypeError, "offsets: expected an int64 tensor, got list"),
        (dict(offsets=torch.tensor([0, 4])), ValueError, r"offsets: expected to rise from 0 to 5, got \[0, 4\]"),
        (dict(offsets=torch.tensor([0, 6]), padded=True), ValueError, "offsets: expected to rise from 0 to at most 5"),
        (dict(padded=1), TypeError, "padded: expected a bool, got int"),
        (dict(offsets=torch.tensor([0, 3, 2, 5])), ValueError, "offsets: expected to rise from 0 to 5"),
        (dict(offsets=torch.zeros(1, 2).long()), ValueError, r"offsets: expected \[B \+ 1\], got \[1, 2\]"),
        (dict(heads=0), ValueError, "heads: expected a divisor of W = 4, got 0"),
        (dict(heads=2.5), TypeError, "heads: expected an int"),
        (dict(weights=None), TypeError, "weights: expected the weights of a Transformer layer"),
        (dict(norm="none"), ValueError, "norm: expected 'pre' or 'post', got 'none'"),
        (dict(activation="tanh"), ValueError, "activation: expected 'silu', 'relu' or 'gelu', got 'tanh'"),
        (dict(causal=1), TypeError, "causal: expected a bool, got int"),
        (dict(memory=torch.zeros(3, 4)), ValueError, r"memory: expected \[S, W\] = \[2, 4\], got \[3, 4\]"),
        (dict(memory=torch.zeros(2, 4), norm="post"), ValueError, "norm3_weight: expected a tensor, for the memory, got NoneType"),
        (dict(eps=-1.0), ValueError, "eps: expected a finite number"),
        (dict(dropout=1.0), ValueError, r"dropout: expected a probability in \[0, 1\), got 1.0"),
        (dict(dropout=0.5, seed=1.5), TypeError, "seed: expected an int"),
        (dict(dropout=0.5, row_ids=torch.arange(5)), ValueError, r"row_ids: expected \[B\] = \[2\]"),
        (dict(layer=-1), ValueError, "layer: expected"),
    ],
)  # fmt: skip
def test_wrong_calls_say_what_was_expected(change: dict[str, Any], error: type[Exception], text: str) -> None:
    x, *weights = inputs_of([2, 3], 4, 6, dtype=torch.float32)
    arguments: dict[str, Any] = dict(x=x, offsets=torch.tensor([0, 2, 5]), weights=SequenceWeights(*weights), heads=2) | change
    x, offsets, weights = (arguments.pop(name) for name in ("x", "offsets", "weights"))
    with pytest.raises(error, match=text):
        ops.sequence_layer(x, offsets, weights, **arguments)
