"""Triton launchers on a GPU that is not there: what Triton makes of their real arguments compiles, spills nothing, loads vectors."""

import os
import re

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("TRITON_INTERPRET=1 makes kernels plain Python; run this file in a process without it", allow_module_level=True)

from every_op import SCHEDULE

from ordkernels import _backend, nn, ops, rng, use_backend
from ordkernels.testing.aot import usage_of
from ordkernels.testing.launches import fake_gpu


@pytest.fixture
def launched(monkeypatch):
    """The kernels that are launched; as in the interpreter, tensors lie on the CPU."""
    monkeypatch.setattr(_backend, "interpreting", lambda: True)
    with fake_gpu() as kernels, use_backend("triton"):
        yield kernels


def fusion(B, K, D, hidden, steps, **options):
    denoiser = nn.SessionDenoiser(D, hidden=hidden).eval().requires_grad_(False)
    g = torch.randn(B, K, D)
    return ops.fusion_chain(torch.randn(B, D), g, g, torch.ones(B, K, dtype=torch.bool), denoiser, SCHEDULE, steps=steps, **options)


def denoise(B, D, hidden, steps, aligned, **options):
    denoiser = nn.MLPDenoiser(D, 3, hidden).eval().requires_grad_(False)
    return ops.denoise_chain(torch.randn(B, D), torch.randn(B, 3), denoiser, SCHEDULE, steps=steps, aligned=aligned, **options)


def decode(B, layers, max_tokens):
    decoder = nn.ValueDecoder(40, 64, 4, 128, layers).eval().requires_grad_(False)
    return ops.value_decode(torch.randn(B, 64), decoder, torch.arange(40.0), max_tokens=max_tokens)


def flow(K, D, dtype):
    return ops.planar_flow(*(torch.randn(64, *shape, dtype=dtype) for shape in ((D,), (K, D), (K, D), (K,))))


def layer(lengths, width, heads, dtype=torch.float32, seed=1, backward=True, **options):
    """A Transformer layer forward, and backward, with all that it may have."""
    weights = [torch.ones(shape, dtype=dtype, requires_grad=True) for shape in layer_shapes(width)]
    x, m = (torch.ones(n, width, dtype=dtype, requires_grad=True) for n in (sum(lengths), len(lengths)))
    offsets, weights = torch.tensor([0, *lengths]).cumsum(0), weights[: 14 if options.get("norm") == "post" else 12]
    options = {"memory": m, "dropout": 0.3, "seed": seed, "row_ids": torch.arange(len(lengths))} | options
    with torch.set_grad_enabled(backward):
        y = ops.sequence_layer(x, offsets, ops.SequenceWeights(*weights), heads=heads, **options)
    if backward:
        y.sum().backward()


def layer_shapes(W):
    norm = (W,), (W,)
    return (*norm, (3 * W, W), (3 * W,), (W, W), (W,), *norm, (2 * W, W), (2 * W,), (W, 2 * W), (W,), *norm)


LAYERS = {
    "narrow heads": lambda: layer([3, 0, 20], 64, 4, norm="post", causal=True),
    "heads of 32": lambda: layer([3, 0, 20], 64, 2, activation="gelu"),
    "heads of 64, odd width": lambda: layer([40], 130, 2, norm="post", activation="relu"),
    "one token, one feature": lambda: layer([1], 1, 1, dropout=0.0, memory=None),
    "wide": lambda: layer([5], 1024, 8),
    "fp64": lambda: layer([3, 0, 20], 64, 4, torch.float64, norm="post"),
    "fp64, heads of 64": lambda: layer([3, 0, 20], 64, 1, torch.float64, causal=True),
}
CHAINS = {
    "fusion_chain: one session, one branch": lambda: fusion(64, 1, 64, 256, 3, gamma_cp=0.0, gamma_tf=0.0),
    "fusion_chain: one row, one column, one step": lambda: fusion(1, 1, 1, 16, 1, seed=3),
    "denoise_chain: one step": lambda: denoise(64, 64, 256, 1, [20]),
    "denoise_chain: one row, one column": lambda: denoise(1, 1, 1, 4, [16], eta=1.0),
    "value_decode: one layer, one token": lambda: decode(1, 1, 2),
}
# Vector loads and stores at least, and at most so many others.
VECTORS = {
    "planar_flow": (lambda: flow(4, 64, torch.float32), 9, 1, 4),
    "planar_flow of 16 layers": (lambda: flow(16, 64, torch.float32), 5, 1, 2),
    "planar_flow in bf16": (lambda: flow(4, 64, torch.bfloat16), 9, 1, 4),
    "nested_min of 8": (lambda: ops.nested_min(torch.rand(64, 8), torch.rand(64, 8), torch.rand(64)), 8, 2, 1),
    "crps of 20": (lambda: ops.crps(torch.rand(64, 20), torch.rand(64)), 1, 0, 1),
    "pinball of 20": (lambda: ops.pinball(torch.rand(64, 20), torch.rand(64), torch.rand(20).sort().values), 4, 2, 2),
    "rng.normal of 64": (lambda: rng.normal(3, torch.arange(64), 1, 64), 0, 2, 2),
}  # fmt: skip


@pytest.mark.aot
@pytest.mark.parametrize("case", CHAINS)
def test_chains_spill_nothing_where_a_loop_runs_once(case, launched):
    CHAINS[case]()
    assert launched
    for kernel in launched:
        usage = usage_of(kernel)
        assert usage.spills == 0, usage[:4]
        assert usage.shared <= 99 * 1024, usage[:4]


@pytest.mark.aot
@pytest.mark.parametrize("case", LAYERS)
def test_sequence_layers_spill_nothing(case, launched):
    LAYERS[case]()
    assert len(launched) >= 10
    for kernel in {id(kernel): kernel for kernel in launched}.values():
        usage = usage_of(kernel)
        assert usage.spills == 0, (kernel.metadata.name, *usage[:4])
        assert usage.shared <= 99 * 1024, usage[:4]


@pytest.mark.aot
def test_one_compiled_sequence_layer_serves_any_tokens_sequences_and_seeds(launched):
    kernels = []
    for seed, lengths in enumerate(([20, 1, 0, 7], [1], [16] * 4, [2] * 40), 2**40):
        layer(lengths, 16, 1, seed=seed, layer=len(lengths))
        kernels.append(set(map(id, launched)))
    assert kernels[0] == kernels[-1]


@pytest.mark.aot
@pytest.mark.parametrize("case", VECTORS)
def test_rows_are_loaded_16_bytes_at_a_time(case, launched):
    call, loads, stores, others = VECTORS[case]
    call()
    (kernel,) = launched
    ptx = kernel.asm["ptx"]
    assert usage_of(kernel).spills == 0
    assert len(re.findall(r"ld\.global\S*\.v4", ptx)) >= loads
    assert len(re.findall(r"st\.global\S*\.v4", ptx)) >= stores
    assert len(re.findall(r"ld\.global(?!\S*\.v[24])", ptx)) <= others


@pytest.mark.aot
def test_planar_layers_are_loaded_before_anything_is_stored_and_their_strides_widened(launched):
    flow(4, 64, torch.float32)
    asm = launched[0].asm
    assert re.fullmatch("(ld)+(st)+", "".join(re.findall(r"(ld|st)\.global", asm["ptx"])))
    assert len(re.findall(r"arith\.extsi %[uw]_k", asm["ttir"])) == 2  # before k times it


@pytest.mark.aot
def test_one_compiled_chain_serves_any_number_of_rows_steps_and_sessions(launched):
    for B, K, steps in ((1, 1, 2), (5, 2, 3), (16, 1, 4), (32, 16, 16)):
        fusion(B, K, 4, 8, steps)
        denoise(B, 4, 8, steps, [20] if steps < 4 else [20, 8])
    assert len(set(map(id, launched))) == 2


@pytest.mark.aot
def test_one_compiled_step_serves_every_eta_clip_and_gamma(launched):
    x = torch.randn(8, 4)
    for number in (0.3, 1.0, 2.0):
        ops.reverse_step(x, x, 0.5, 0.7, eta=number / 2, clip=number, seed=1, step=2)
        ops.guided_posterior_step(x, x, x, x, 0.3, 0.7, gamma_cp=number, gamma_tf=-number, seed=1, step=2)
    assert len(launched) == 6
    assert len(set(map(id, launched))) == 2
