"""Ops that take the weights of a network: modules and tuples are the same, tuples are checked, vmap."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ordkernels.nn import MLPDenoiser, SessionDenoiser, TransformerDenoiser, ValueDecoder
from ordkernels.ops import DecoderWeights, MLPWeights, SessionWeights, denoise_chain, fusion_chain, value_decode
from ordkernels.schedules import NoiseSchedule

B, D, C, H, K, V = 5, 6, 3, 8, 2, 12
SCHEDULE = NoiseSchedule.linear(10)
native = pytest.mark.native
GENERATOR = torch.Generator().manual_seed(1)
STATE, CONDITION, MEMORY = (torch.randn(B, n, generator=GENERATOR) for n in (D, C, 8))
G_CP, G_TF = (torch.randn(B, K, C, generator=GENERATOR) for _ in range(2))


def denoise(denoiser: Any, x: Tensor | None = None, **options: Any) -> tuple[Tensor, Tensor]:
    return denoise_chain(STATE if x is None else x, CONDITION, denoiser, SCHEDULE, **dict(steps=4, aligned=[10, 5]) | options)


def fuse(denoiser: Any, h: Tensor | None = None, **options: Any) -> Tensor:
    mask = torch.ones(B, K, dtype=torch.bool)
    return fusion_chain(STATE if h is None else h, G_CP, G_TF, mask, denoiser, SCHEDULE, **dict(steps=3) | options)


def decode(decoder: Any, memory: Tensor | None = None, **options: Any) -> Any:
    values = torch.cat((torch.zeros(3), torch.arange(V - 3.0, 0, -1)))
    return value_decode(MEMORY if memory is None else memory, decoder, values, **dict(max_tokens=5) | options)


def mlp() -> MLPDenoiser:
    return MLPDenoiser(D, cond_width=C, hidden=H, time_width=4)


def session() -> SessionDenoiser:
    return SessionDenoiser(D, cond_width=C, hidden=H, time_width=4)


def decoder(**options: Any) -> ValueDecoder:
    return ValueDecoder(V, d_model=8, heads=2, ffn=8, layers=1, **options)


@native
@pytest.mark.parametrize(
    ("run", "make", "kind"),
    [(denoise, mlp, MLPWeights), (fuse, session, SessionWeights), (decode, decoder, DecoderWeights)],
    ids=["denoise_chain", "fusion_chain", "value_decode"],
)
def test_a_module_and_its_weights_are_the_same(run: Any, make: Any, kind: Any) -> None:
    module = make()
    weights = module.weights()
    assert type(weights) is kind

    class Holder:
        def weights(self) -> Any:
            return weights

    expected = run(module)
    for source in (weights, Holder()):
        for found, want in zip(run(source), expected, strict=True):
            assert torch.equal(found, want)


@native
def test_a_decoder_with_every_option() -> None:
    module = decoder(norm="pre", activation="gelu", positions=9, norm_eps=1e-3)
    for found, want in zip(decode(module.weights(), mixup="window"), decode(module, mixup="window"), strict=True):
        assert torch.equal(found, want)


def test_no_module_is_imported_by_the_ops() -> None:
    import subprocess
    import sys

    code = "import sys, ordkernels.ops; print(sorted(m for m in sys.modules if m.startswith('ordkernels.nn')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (dict(b_in=torch.zeros(H + 1)), ValueError, r"denoiser.b_in: expected \[H\] = \[8\], got \[9\]"),
        (dict(w_in=torch.zeros(H, D)), ValueError, r"denoiser.w_in: expected \[H, D \+ E\] = \[8, 10\], got \[8, 6\]"),
        (dict(w_cond=torch.zeros(H + 1, C)), ValueError, r"denoiser.w_cond: expected \[H, C\] = \[8, 3\], got \[9, 3\]"),
        (dict(w_out=torch.zeros(D, H).double()), TypeError, "denoiser.w_out: expected the dtype of denoiser.w_in"),
        (dict(w_out=torch.zeros(D)), ValueError, r"denoiser.w_out: expected \[D, H\], got 1 dimensions"),
        (dict(frequencies=torch.zeros(2, dtype=torch.int64)), TypeError, "denoiser.frequencies: expected float32"),
        (dict(prediction="mu"), ValueError, "prediction: expected 'eps', 'x0' or 'v', got 'mu'"),
    ],
)
def test_tuples_are_checked(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        denoise(mlp().weights()._replace(**change))


def test_other_objects_are_named() -> None:
    with pytest.raises(TypeError, match=r"denoiser: expected an MLPDenoiser .*, MLPWeights or an object .*, got TransformerDenoiser"):
        denoise(TransformerDenoiser(D, cond_width=C, tokens=2, d_model=8, layers=1, heads=2))
    with pytest.raises(TypeError, match=r"denoiser: expected a SessionDenoiser, SessionWeights or an object .*, got MLPWeights"):
        fuse(mlp().weights())
    with pytest.raises(ValueError, match=r"denoiser.empty: expected \[C\] = \[3\], got \[2\]"):
        fuse(session().weights()._replace(empty=torch.zeros(2)))
    weights = decoder().weights()
    mixed = weights._replace(tensors=[weights.tensors[0], *(w.double() for w in weights.tensors[1:])])
    with pytest.raises(TypeError, match=r"decoder.tensors\[1\]: expected the dtype of decoder.tensors\[0\]"):
        decode(mixed)


@native
def test_the_denoiser_says_what_it_predicts() -> None:
    torch.manual_seed(3)
    plain = mlp()
    for prediction in ("eps", "x0", "v"):
        denoiser = MLPDenoiser(D, cond_width=C, hidden=H, time_width=4, prediction=prediction)
        denoiser.load_state_dict(plain.state_dict())
        expected = denoise(plain, prediction=prediction)
        assert torch.equal(denoise(denoiser)[0], expected[0])
        assert torch.equal(denoise(denoiser, prediction="x0")[0], denoise(plain, prediction="x0")[0])  # what is asked for counts
    assert torch.equal(denoise(plain)[0], denoise(plain, prediction="v")[0])
    with pytest.raises(ValueError, match="prediction: expected 'eps', 'x0' or 'v', got 'mu'"):
        MLPDenoiser(D, cond_width=C, prediction="mu")  # type: ignore[arg-type]


@native
def test_numpy_scalars_and_row_ids_of_any_kind() -> None:
    options = dict(eta=np.float32(0.5), clip=np.float64(2.0), seed=np.int64(7), steps=np.int32(4), aligned=np.array([10, 5]))
    expected = denoise(mlp_ := mlp(), eta=0.5, clip=2.0, seed=7, row_ids=torch.arange(B), draw_ids=torch.zeros(B, dtype=torch.int64))
    for ids in (list(range(B)), np.arange(B, dtype=np.int16), torch.arange(B, dtype=torch.int32), range(B), np.arange(B)[::-1][::-1]):
        assert torch.equal(denoise(mlp_, row_ids=ids, draw_ids=[0] * B, **options)[0], expected[0])
    model = session()
    found = fuse(
        model, gamma_cp=np.float32(2.0), gamma_tf=np.int64(1), steps=np.array([9, 4, 1]), seed=np.uint8(3), row_ids=[3, 1, 4, 1, 5]
    )
    assert torch.equal(found, fuse(model, steps=[9, 4, 1], seed=3, row_ids=torch.tensor([3, 1, 4, 1, 5])))
    network = decoder()
    found = decode(network, temperature=np.float32(0.5), max_tokens=np.int64(5), capacity=np.int32(20), seed=np.int8(2), row_ids=range(B))
    assert torch.equal(found.tokens, decode(network, temperature=0.5, capacity=20.0, seed=2).tokens)


def test_what_steps_are_does_not_depend_on_earlier_calls() -> None:
    denoiser = mlp()
    denoise(denoiser, steps=[10, 5, 2])
    for steps in ([10.0, 5.0, 2.0], [10, 5, True], [[10], 5]):
        with pytest.raises(TypeError, match="steps: expected an int, got"):
            denoise(denoiser, steps=steps)


@pytest.mark.registration
@native
@pytest.mark.parametrize(("run", "make", "width"), [(denoise, mlp, D), (fuse, session, D), (decode, decoder, 8)])
def test_vmap(run: Any, make: Any, width: int) -> None:
    """Batches of states, and of whole networks."""
    module = make()
    states = torch.randn(3, B, width)

    def tensors(out: Any) -> tuple[Tensor, ...]:
        return (out,) if isinstance(out, Tensor) else tuple(out)

    for dim in (0, 1):
        found = torch.vmap(lambda x: tensors(run(module, x)), in_dims=dim)(states.movedim(0, dim))
        for got, want in zip(found, zip(*(tensors(run(module, x)) for x in states), strict=True), strict=True):
            assert torch.equal(got, torch.stack(want))


@native
def test_vmap_over_networks() -> None:
    networks = [mlp() for _ in range(3)]
    weights = [n.weights() for n in networks]
    stacked = tuple(torch.stack(ts) for ts in zip(*(w[:5] for w in weights), strict=True))
    found = torch.vmap(lambda *ts: denoise(MLPWeights(*ts, weights[0].frequencies))[0])(*stacked)
    torch.testing.assert_close(found, torch.stack([denoise(n)[0] for n in networks]), rtol=1e-6, atol=1e-6)
    decoders = [decoder().weights() for _ in range(2)]
    tables = [torch.stack(ts) for ts in zip(*(w.tensors for w in decoders), strict=True)]
    found = torch.vmap(lambda ts: decode(decoders[0]._replace(tensors=ts)).value)(tables)
    torch.testing.assert_close(found, torch.stack([decode(w).value for w in decoders]))
