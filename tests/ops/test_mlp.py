"""mlp: against plain torch in fp64 and within its error in fp32; dropout; rows by index; what does not change its bits; wrong calls."""

from typing import Any

import pytest
import torch
from _gradients import assert_equal_to_rounding, with_gradients
from torch import Tensor, nn

import ordkernels
from ordkernels import ops
from ordkernels.reference._dropout import dropout_factors
from ordkernels.testing.compare import assert_within_budget, same_bits
from ordkernels.testing.inputs import strided

KERNEL = torch.ops.ordkernels
native = pytest.mark.native
REASONS = "; ".join(ordkernels.available_backends("mlp")["triton"])
TRITON = pytest.param("triton", marks=[pytest.mark.triton, pytest.mark.skipif(bool(REASONS), reason=REASONS or "-")])
each_backend = pytest.mark.parametrize("backend", ["reference", pytest.param("cpu", marks=native), TRITON])
SIZES = [(0, 5, 7, 3), (1, 64, 64, 64), (127, 3, 65, 1), (128, 64, 256, 64), (129, 70, 130, 66), (700, 16, 20, 5), (600, 129, 33, 200)]


def network(D: int, H: int, O: int, *G: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:  # noqa: E741
    shapes = ((*G, H, D), (*G, H), (*G, O, H), (*G, O))
    return [(torch.randn(s, dtype=torch.float64) / s[-1] ** 0.5).to(dtype) for s in shapes]


def plain(x: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor, added: Any = 0, factors: Any = 1) -> Tensor:
    """Of one network, or of each of G."""
    h = torch.einsum("...d,...hd->...h", x, w_in) + b_in + added
    return torch.einsum("...h,...oh->...o", nn.functional.silu(h) * factors, w_out) + b_out


@each_backend
@pytest.mark.parametrize(("R", "D", "H", "O"), SIZES)
def test_one_network(backend: str, R: int, D: int, H: int, O: int) -> None:  # noqa: E741
    inputs = [torch.randn(R, D, dtype=torch.float64), *network(D, H, O)]
    with ordkernels.use_backend(backend):
        got = with_gradients(ops.mlp, *inputs)
    assert_equal_to_rounding(got, with_gradients(plain, *inputs))


@each_backend
@pytest.mark.parametrize(
    ("R", "G", "D", "H", "O"), [(0, 2, 3, 4, 1), (129, 8, 64, 64, 1), (400, 3, 70, 65, 4), (5, 2, 9, 130, 70), (3, 1, 4, 5, 1)]
)
@pytest.mark.parametrize("one_input", [False, True])
def test_networks_side_by_side(backend: str, R: int, G: int, D: int, H: int, O: int, one_input: bool) -> None:  # noqa: E741
    inputs = [torch.randn(R, 1 if one_input else G, D, dtype=torch.float64), *network(D, H, O, G)]
    with ordkernels.use_backend(backend):
        got = with_gradients(ops.mlp, *inputs)
        assert_equal_to_rounding(got, with_gradients(plain, *inputs))
        dropped = ops.mlp(*inputs, dropout=0.4, seed=1)
    assert_equal_to_rounding([dropped], [plain(*inputs, factors=dropout_factors(torch.arange(R), H, 1, 0.4)[:, None])])


@each_backend
@pytest.mark.parametrize(("R", "H"), [(0, 3), (1, 64), (129, 70), (700, 256)])
def test_rows_by_index_and_dropout(backend: str, R: int, H: int) -> None:
    x, weights = torch.randn(R, 9, dtype=torch.float64), network(9, H, 6)
    cond, index, ids = torch.randn(5, H, dtype=torch.float64), torch.randint(5, (R,)), torch.randint(-(2**60), 2**60, (R,))
    factors = dropout_factors(ids, H, 3, 0.3)
    for time, time_index in ((torch.randn(R, H), None), (torch.randn(1, H), None), (torch.randn(7, H), torch.arange(R) % 7)):
        rows = [cond, time.double()]

        def ours(x: Tensor, c: Tensor, t: Tensor, *w: Tensor, at: Any = time_index) -> Tensor:
            return ops.mlp(x, *w, cond=c, cond_index=index, time=t, time_index=at, dropout=0.3, seed=3, row_ids=ids)

        def theirs(x: Tensor, c: Tensor, t: Tensor, *w: Tensor, at: Any = time_index) -> Tensor:
            return plain(x, *w, added=c[index] + (t if at is None else t[at]), factors=factors)

        with ordkernels.use_backend(backend):
            got = with_gradients(ours, x, *rows, *weights)
        assert_equal_to_rounding(got, with_gradients(theirs, x, *rows, *weights))


@native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("R", "D", "H", "O"), SIZES)
def test_within_the_error_of_plain_torch(dtype: torch.dtype, R: int, D: int, H: int, O: int) -> None:  # noqa: E741
    inputs = [torch.randn(R, D).to(dtype), *network(D, H, O, dtype=dtype)]
    truth = with_gradients(plain, *(t.double() for t in inputs))
    eager = with_gradients(plain, *inputs)
    assert_within_budget(with_gradients(ops.mlp, *inputs), eager, truth, ulps=8, scale=1)


@native
def test_large_inputs_saturate() -> None:
    x = torch.tensor([[1e4], [-1e4], [90.0], [-90.0], [1e30], [-1e30], [0.0]])
    one = torch.ones(1, 1)
    out, gx, *_ = with_gradients(lambda x: ops.mlp(x, one, None, one, None), x)
    assert_equal_to_rounding([out], [nn.functional.silu(x)], 1e-6)
    slope = torch.tensor([1.0, 0, 1, 0, 1, 0, 0.5])[:, None]
    assert_equal_to_rounding([gx], [slope * torch.linspace(-1, 2, 7)[:, None]], 1e-6)


@each_backend
def test_dropout_keeps_the_mean_and_drops_its_share(backend: str) -> None:
    R, H, p = 400, 200, 0.3
    ones = [torch.zeros(R, 1), torch.zeros(H, 1), torch.full((H,), 1.0), torch.eye(H), None]
    with ordkernels.use_backend(backend):
        kept = ops.mlp(*ones, dropout=p, seed=11) / nn.functional.silu(torch.ones(()))  # each unit on its own: 0 or 1 / (1 - p)
    assert torch.all((kept == 0) | ((kept - 1 / (1 - p)).abs() < 1e-4))
    share = (kept == 0).double()
    sigma = (p * (1 - p)) ** 0.5
    assert abs(share.mean() - p) < 5 * sigma / (R * H) ** 0.5
    assert (share.mean(0) - p).abs().max() < 5 * sigma / R**0.5
    assert (share.mean(1) - p).abs().max() < 5 * sigma / H**0.5
    for shifted in (share[1:] * share[:-1], share[:, 1:] * share[:, :-1], share[:, 16:] * share[:, :-16]):  # neighbours are independent
        assert abs(shifted.mean() - p * p) < 5 / shifted.numel() ** 0.5


@each_backend
def test_dropout_belongs_to_the_row(backend: str) -> None:
    x, weights, ids = torch.randn(150, 8), network(8, 70, 3, dtype=torch.float32), torch.randint(2**62, (150,))
    some = torch.randperm(150)[:31]
    keyed: dict[str, Any] = {"dropout": 0.5, "seed": 2**63 + 5}
    with ordkernels.use_backend(backend):
        whole = ops.mlp(x, *weights, **keyed, row_ids=ids)
        torch.testing.assert_close(ops.mlp(x[some], *weights, **keyed, row_ids=ids[some]), whole[some])
        assert not torch.allclose(ops.mlp(x, *weights, **keyed), whole)
        torch.testing.assert_close(ops.mlp(x, *weights, dropout=0.5, seed=torch.tensor(5 - 2**63), row_ids=ids), whole)
        torch.manual_seed(3)
        first, second = (ops.mlp(x, *weights, dropout=0.5) for _ in range(2))
        torch.manual_seed(3)
        assert same_bits([ops.mlp(x, *weights, dropout=0.5)], [first])
        assert not torch.equal(first, second)
        assert same_bits([ops.mlp(x, *weights, dropout=2**-20, seed=1)], [ops.mlp(x, *weights)])


@native
def test_bits_depend_on_no_thread_batch_or_stride() -> None:
    x, weights, cond = torch.randn(1000, 70), network(70, 200, 66, dtype=torch.float32), torch.randn(7, 200)
    index = torch.randint(7, (1000,))

    def ours(x: Tensor, cond: Tensor, *weights: Tensor) -> Tensor:
        return ops.mlp(x, *weights, cond=cond, cond_index=index[: len(x)], dropout=0.1, seed=4)

    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(with_gradients(ours, x, cond, *weights))
    finally:
        torch.set_num_threads(before)
    assert same_bits(found[0], found[1])
    assert same_bits(found[0], found[2])
    assert same_bits([ours(x[:131], cond, *weights)], [found[0][0][:131]])
    assert same_bits(with_gradients(ours, *(strided(t) for t in (x, cond, *weights))), found[0])
    wide = torch.cat((weights[0], torch.full((200, 3), torch.nan)), 1)  # columns of a wider matrix are read in place
    assert same_bits([ours(x, cond, wide[:, :70], *weights[1:])], found[0][:1])


@native
def test_only_the_gradients_that_are_asked_for() -> None:
    inputs = [torch.randn(300, 5), torch.randn(4, 9), *network(5, 9, 3, dtype=torch.float32)]

    def ours(x: Tensor, cond: Tensor, *weights: Tensor) -> Tensor:
        return ops.mlp(x, *weights, cond=cond, cond_index=torch.arange(300) % 4)

    every = with_gradients(ours, *inputs)[1:]
    g = torch.linspace(-1, 2, 900).view(300, 3)
    for i in range(len(inputs)):
        leaves = [t.detach().requires_grad_(i == j) for j, t in enumerate(inputs)]
        (got,) = torch.autograd.grad(ours(*leaves), leaves[i], g)
        assert same_bits([got], [every[i]])


@pytest.mark.registration
@native
def test_gradcheck_and_opcheck() -> None:
    x, cond, seed = torch.randn(5, 3, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64), torch.tensor(9)
    weights, index = network(3, 6, 2), torch.tensor([0, 1, 1, 0, 1])
    leaves = [t.detach().requires_grad_() for t in (x, cond, *weights)]
    assert torch.autograd.gradcheck(lambda x, c, *w: ops.mlp(x, *w, cond=c, cond_index=index, dropout=0.3, seed=1), leaves)
    grouped = [t.detach().requires_grad_() for t in (torch.randn(5, 2, 3, dtype=torch.float64), *network(3, 4, 1, 2))]
    assert torch.autograd.gradcheck(ops.mlp, grouped)
    w_in, b_in, w_out, b_out = (t.requires_grad_() for t in weights)
    call = (x.requires_grad_(), w_in, b_in, cond.requires_grad_(), None, w_out, b_out, index, None, seed, None, 0.3)
    torch.library.opcheck(KERNEL.mlp.default, call)
    detached = tuple(t.detach() if isinstance(t, Tensor) else t for t in call)
    torch.library.opcheck(KERNEL._mlp.default, detached)
    for grad_mask in (0, 1, 2, 8, 127):
        arguments = (*detached[:-1], torch.randn(5, 2, dtype=torch.float64), 0.3, grad_mask)
        torch.library.opcheck(KERNEL.mlp_backward.default, arguments)


@pytest.mark.registration
def test_compiled_with_a_seed_of_torch() -> None:
    """A training step draws its seed inside the compiled code."""
    x, weights = torch.randn(6, 3), network(3, 8, 2, dtype=torch.float32)
    compiled = torch.compile(lambda x, *w: ops.mlp(x, *w, dropout=0.5), fullgraph=True, backend="aot_eager")
    first, second = (compiled(x, *weights) for _ in range(2))
    assert not torch.equal(first, second)


@native
def test_the_kernel_checks_again() -> None:
    x, weights = torch.randn(5, 3), network(3, 6, 2, dtype=torch.float32)

    def call(x: Tensor, w_in: Tensor, cond: Any = None, index: Any = None, seed: Any = None, p: float = 0.0) -> Tensor:
        return KERNEL.mlp(x, w_in, weights[1], cond, None, weights[2], weights[3], index, None, seed, None, p)

    for arguments, text in (
        ((x, weights[0][:, :2]), "w_in: expected shape"),
        ((x[0], weights[0]), "x: expected"),
        ((x, weights[0], torch.zeros(2, 6)), "cond: expected 1 or R = 5 rows, got 2"),
        ((x, weights[0], torch.zeros(2, 6), torch.full((5,), 2)), "cond_index: expected 0 to 1, got 2"),
        ((x, weights[0], None, None, None, 0.5), "seed: expected one"),
        ((x, weights[0], None, None, None, 1.0), "dropout: expected"),
    ):
        with pytest.raises(RuntimeError, match=text):
            call(*arguments)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (dict(x=[1.0]), TypeError, "x: expected a torch.Tensor, got list"),
        (dict(x=torch.zeros(5)), ValueError, r"x: expected \[R, 3\] for w_in \[6, 3\], got \[5\]"),
        (dict(x=torch.zeros(5, 4)), ValueError, r"x: expected \[R, 3\] for w_in \[6, 3\], got \[5, 4\]"),
        (dict(w_in=torch.zeros(6)), ValueError, r"w_in: expected \[H, D\] or \[G, H, D\], got 1 dim"),
        (dict(w_in=torch.zeros(0, 3)), ValueError, "w_in: expected sizes of at least 1"),
        (dict(w_in=torch.zeros(2, 6, 3)), ValueError, r"x: expected \[R, 2, 3\] or \[R, 1, 3\] for w_in \[2, 6, 3\], got \[5, 3\]"),
        (dict(w_out=torch.zeros(2, 5)), ValueError, r"w_out: expected \[O, H\] = \[2, 6\], got \[2, 5\]"),
        (dict(w_out=torch.zeros(2, 6).double()), TypeError, "w_out: expected the dtype of x"),
        (dict(w_out=torch.zeros(0, 6), b_out=None), ValueError, "w_out: expected sizes of at least 1"),
        (dict(b_in=torch.zeros(5)), ValueError, r"b_in: expected \[H\] = \[6\], got \[5\]"),
        (dict(b_out=torch.zeros(1)), ValueError, r"b_out: expected \[O\] = \[2\], got \[1\]"),
        (dict(cond=torch.zeros(2, 6)), ValueError, "cond: expected 1 or R = 5 rows without cond_index, got 2"),
        (dict(cond=torch.zeros(2, 5)), ValueError, r"cond: expected \[T, H\] = \[2, 6\], got \[2, 5\]"),
        (dict(cond_index=torch.zeros(5).long()), ValueError, "cond_index: expected None without cond"),
        (dict(cond=torch.zeros(2, 6), cond_index=torch.tensor([0, 1, 2, 0, 0])), ValueError, "cond_index: .* from 0 to 1, got 2"),
        (dict(time=torch.zeros(2, 6), time_index=torch.tensor([0, -1, 1, 0, 0])), ValueError, "time_index: .* from 0 to 1, got -1"),
        (dict(time=torch.zeros(2, 6), time_index=torch.zeros(4).long()), ValueError, r"time_index: expected \[B\] = \[5\]"),
        (dict(dropout=1.0), ValueError, r"dropout: expected a probability in \[0, 1\), got 1.0"),
        (dict(dropout=-0.1), ValueError, "dropout: expected a finite number"),
        (dict(dropout=0.5, seed=1.5), TypeError, "seed: expected an int"),
        (dict(dropout=0.5, seed=torch.zeros(2).long()), TypeError, r"seed: expected an int or an int64 tensor \[\] on the CPU"),
        (dict(dropout=0.5, row_ids=torch.arange(4)), ValueError, r"row_ids: expected \[B\] = \[5\]"),
    ],
)  # fmt: skip
def test_wrong_calls_say_what_was_expected(change: dict[str, Any], error: type[Exception], text: str) -> None:
    names = ("w_in", "b_in", "w_out", "b_out")
    arguments = dict(x=torch.zeros(5, 3), **dict(zip(names, network(3, 6, 2, dtype=torch.float32), strict=True)))
    with pytest.raises(error, match=text):
        ops.mlp(**(arguments | change))


def test_rows_are_for_one_network() -> None:
    with pytest.raises(ValueError, match="cond: expected None for several networks"):
        ops.mlp(torch.zeros(5, 2, 3), *network(3, 6, 1, 2, dtype=torch.float32), cond=torch.zeros(5, 6))
