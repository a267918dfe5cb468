"""Mixing embeddings of value tokens: specials, gradients, bad input."""

from typing import Any

import pytest
import torch
from _tokens import KERNEL, NATIVE_AND_REFERENCE, TABLE, X, inputs, native, on
from torch.autograd import forward_ad

import ordkernels
from ordkernels.ops import embedding_mixup


@native
@NATIVE_AND_REFERENCE
def test_a_special_argmax_stands_alone_and_specials_are_never_mixed_in(backend: str | None) -> None:
    e = torch.eye(8)
    x = torch.zeros(4, 8)
    x[0, 1], x[1, 3], x[2, 7], x[3, 5] = 9.0, 9.0, 9.0, 9.0
    with on(backend):
        mixed = embedding_mixup(x, e, window=6)
    assert torch.equal(mixed[0], e[1])
    assert (mixed[1:, :3] == 0).all()
    assert (mixed[1] > 0).tolist() == [False] * 3 + [True] * 4 + [False]
    assert (mixed[2] > 0).tolist() == [False] * 4 + [True] * 4
    assert (mixed[3] > 0).tolist() == [False] * 3 + [True] * 5
    torch.testing.assert_close(mixed.sum(1), torch.ones(4))


@native
def test_gradients_that_are_not_asked_for_are_empty() -> None:
    x, e, _ = inputs(6, 9, 4)
    for mask, empty in ((1, 1), (2, 0)):
        grads = KERNEL._embedding_mixup_backward(x, e, torch.ones(6, 4), 4, 3, mask)
        assert grads[empty].numel() == 0


@native
@pytest.mark.parametrize("window", [4, 0, None])
def test_gradcheck(window: int | None) -> None:
    x, e, _ = (t.requires_grad_() for t in inputs(6, 12, 5, torch.float64))
    with torch.no_grad():
        x += torch.rand_like(x) * 0.1  # no ties: there the argmax changes
    assert torch.autograd.gradcheck(lambda x, t: embedding_mixup(x, t, window=window), (x, e))


@pytest.mark.registration
@native
def test_opcheck() -> None:
    x, e, _ = inputs(5, 9, 4)
    for window in (4, -1):
        torch.library.opcheck(KERNEL.embedding_mixup.default, (x.clone().requires_grad_(), e.clone().requires_grad_(), window, 3))
        torch.library.opcheck(KERNEL._embedding_mixup.default, (x, e, window, 3))
        for mask in (1, 2, 3):
            torch.library.opcheck(KERNEL.embedding_mixup_backward.default, (x, e, torch.rand(5, 4), window, 3, mask))


@native
def test_second_derivatives_and_forward_mode_raise() -> None:
    x, e, _ = inputs(3, 9, 4)
    leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(embedding_mixup(leaf, e, window=4).pow(2).sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match=r"twice"):
        torch.autograd.grad(g.sum(), leaf)
    with forward_ad.dual_level(), pytest.raises((RuntimeError, NotImplementedError)):
        forward_ad.unpack_dual(embedding_mixup(forward_ad.make_dual(x, torch.ones_like(x)), e, window=4))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: embedding_mixup([1.0], TABLE, window=2), TypeError, "logits: expected a torch.Tensor, got list"),
        (lambda: embedding_mixup(X.int(), TABLE, window=2), TypeError, "logits: expected float32, float64"),
        (lambda: embedding_mixup(torch.ones(()), TABLE, window=2), ValueError, r"logits: expected \[..., V\] .* 1, got shape \[\]"),
        (lambda: embedding_mixup(torch.ones(2, 0), TABLE, window=2), ValueError, r"logits: .* got shape \[2, 0\]"),
        (lambda: embedding_mixup(X, TABLE[:4], window=2), ValueError, r"embedding: expected \[V, E\] with V = 5 as logits, got \[4, 3\]"),
        (lambda: embedding_mixup(X, TABLE[:, :0], window=2), ValueError, r"embedding: .*E at least 1, got \[5, 0\]"),
        (lambda: embedding_mixup(X, TABLE[:, 0], window=2), ValueError, r"embedding: expected \[V, E\], got 1 dimensions"),
        (lambda: embedding_mixup(X, TABLE.double(), window=2), TypeError, "embedding: expected float32 with logits of torch.float32"),
        (lambda: embedding_mixup(X.half(), TABLE.bfloat16(), window=2), TypeError, "embedding: expected float16 or float32"),
        (lambda: embedding_mixup(X, TABLE, window=-2), ValueError, "window: expected at least 0, got -2"),
        (lambda: embedding_mixup(X, TABLE, window=2.0), TypeError, "window: expected an int, got float"),
        (lambda: embedding_mixup(X, TABLE, window=True), TypeError, "window: expected an int, got bool"),
        (lambda: embedding_mixup(X, TABLE, window=2, first_value_token=None), TypeError, "first_value_token: expected an int, got N"),
        (lambda: embedding_mixup(X, TABLE, window=2, first_value_token=-1), ValueError, "first_value_token: expected at least 0, got -1"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize("op", ["embedding_mixup"])
def test_backends_are_listed(op: str) -> None:
    listed = ordkernels.available_backends(op)
    assert listed["reference"] == []
    assert any("no CUDA C++ kernel" in reason for reason in listed["cuda"])
