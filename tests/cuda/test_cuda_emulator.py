"""The emulator itself: every feature, every mistake that it is to find, and mistakes planted into the kernels' sources."""

import ctypes
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compile_cuda
import numpy as np
import pytest
import torch
from emulated import EMULATED
from torch.nn import functional as F

from ordkernels.reference import planar_flow as reference
from ordkernels.testing.inputs import flow_inputs

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not EMULATED, reason="ORDKERNELS_CUDA_EMULATE=1 is not set")]


def library(path: Path) -> ctypes.CDLL:
    lib = ctypes.CDLL(str(path))
    for name in ("selftest", "run"):
        if hasattr(lib, name):
            getattr(lib, name).restype = ctypes.c_char_p
    return lib


def pointer(a: Any) -> Any:
    return a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else a


@pytest.fixture(scope="module")
def selftest(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], Any]:
    lib = library(compile_cuda.emulated(compile_cuda.HERE / "selftest.cu", tmp_path_factory.mktemp("selftest") / "selftest.so"))

    def run(bug: int, n: int) -> Any:
        given, out, count = np.arange(n + 64, dtype=np.float32), np.full(64, np.nan, np.float32), np.zeros(1, np.int32)
        said = lib.selftest(bug, pointer(given), n, pointer(out), pointer(count))
        return said and said.decode(), given, out, count

    return run


def test_every_feature(selftest: Callable[[int, int], Any], order: int) -> None:
    said, given, out, count = selftest(-1, 1400)
    assert said is None
    assert out[:3].tolist() == [given[512 * b : min(512 * (b + 1), 1400)].sum() for b in range(3)]
    assert count[0] == 3 * 4 * 16


@pytest.mark.parametrize(
    ("bug", "message"),
    [
        (0, "race|nobody wrote"),
        (1, "elements 64 to 64 of an array of 64"),
        (2, "nobody wrote"),
        (3, "have returned|deadlock"),
        (4, "divergent|deadlock"),
        (5, "deadlock"),
        (6, "not in its mask"),
        (7, "not in the mask"),
        (8, "misaligned"),
        (9, "elements 64 to 64 of an array of 64"),
        (10, "nobody wrote|did not wait"),
        (11, "race"),
        (12, "race|nobody wrote"),
        (13, r"selftest.cu:\d+"),
        (14, "launched with 256"),
        (15, "have returned|deadlock"),
    ],
)
def test_every_mistake(selftest: Callable[[int, int], Any], order: int, bug: int, message: str) -> None:
    said = selftest(bug, 64)[0]
    assert said is not None
    assert re.search(message, said), said


def planar_flow(lib: ctypes.CDLL) -> str:
    """The message, or the largest error."""
    args = flow_inputs(6, 2, 64)
    outs = [torch.full(shape, torch.nan) for shape in ((6, 64), (6,), (6, 2))]
    said = lib.run(*(pointer(t.numpy()) for t in (*args, *outs)), 6, 2, 64)
    truth = reference.planar_flow(*(t.double() for t in args))
    errors = [(o.double() - t).abs().max().item() for o, t in zip(outs, truth, strict=True)]
    return said.decode() if said else f"error {max(errors):.1e}"


def denoise_chain(lib: ctypes.CDLL, streamed: int = 0) -> str:
    B, D, H, S, K = 70, 32, 128, 3, 2
    g = torch.Generator().manual_seed(1)
    shapes = ((B, D), 1), ((B, H), 1), ((S, H), 1), ((H, D), D**-0.5), ((D, H), H**-0.5), ((D,), 1), ((S, B, D), 1)
    x, shift, times, w_in, w_out, b_out, noise = (torch.randn(s, generator=g) * f for s, f in shapes)
    c = torch.tensor([[1.1, -0.5, 0.6, 0.5, 0.2, 0.3, 9 - s, s - 1] for s in range(S)], dtype=torch.float64)
    outs = [torch.full(shape, torch.nan) for shape in ((B, D), (B, K, D))]
    said = lib.run(*(pointer(t.numpy()) for t in (x, shift, times, w_in, w_out, b_out, c, noise, *outs)), B, S, K, streamed)
    expected, states = x.double(), []
    for s, (c0, c1, d0, d1, d2, sigma, _, place) in enumerate(c.tolist()):
        out = F.silu(expected @ w_in.double().T + (times[s] + shift)) @ w_out.double().T + b_out
        x0 = (c0 * expected + c1 * out).clamp(-2.5, 2.5)
        expected = d0 * x0 + d1 * expected + d2 * out + sigma * noise[s]
        states += [x0] if place >= 0 else []
    errors = [(o.double() - t).abs().max().item() for o, t in zip(outs, (expected, torch.stack(states, 1)), strict=True)]
    return said.decode() if said else f"error {max(errors):.1e}"


def streamed_chain(lib: ctypes.CDLL) -> str:
    return denoise_chain(lib, 1)


WRONG = r"error ([^e]*$|.*e\+|.*e-0[12]|nan)"
LEAVES = "if (row >= B) {\n    return;  //"  # the rows past the end
LOADED = "    __syncthreads();\n    for (int s = 0; s < a.S; ++s) {"
UPDATED = "      });\n      __syncthreads();\n    }\n  }\n  net.finish"
NO_WAIT = "if (w.resident) {\n      cp_async_wait<"
CHUNK_WAIT = "cp_async_wait<0>();\n        __sync"
SIZE = "WN * share_row) * 4"
TAIL = "if (row >= a.B) {\n          return;\n        }"
SHARED = "    __syncthreads();\n  }\n  __device__ __forceinline__ Vec<float, 4> output"
# name: kernel, header, old, new, what is said
MISTAKES = {
    "none (planar flow)": ("planar_flow", "planar_flow", "kWarps = 4;  // of a block\n", "kWarps = 2;\n", r"error \d\.\de-0[67]"),
    "a shuffle without the upper lanes": ("planar_flow", "numbers", "sync(kAll", "sync(0xFFFF", r"lane \d+ is not in its mask"),
    "a butterfly with a step too few": ("planar_flow", "numbers", "m = 16", "m = 8", WRONG),
    "lanes past the row leave early": ("planar_flow", "planar_flow", LEAVES, LEAVES.replace("B)", "B || lane > 29)"), "deadlock"),
    "a row too many": ("planar_flow", "planar_flow", LEAVES, LEAVES.replace(">=", ">"), r"reads elements \d+ to \d+ of an array"),
    "a layer twice": ("planar_flow", "planar_flow", "k + 1 < K ? k + 1 : k", "k", WRONG),
    "none (chain)": ("denoise_chain", "mlp", "buffer = 0", "buffer = 0 ", r"error \d\.\de-0[67]"),
    "none (streamed chain)": ("streamed_chain", "mlp", "buffer = 0", "buffer = 1 - 1", r"error \d\.\de-0[67]"),
    "no barrier behind the state": ("denoise_chain", "chain", LOADED, LOADED.partition("\n")[2], "nobody wrote|race"),
    "no barrier before the shares are added": ("denoise_chain", "mlp", SHARED, SHARED.partition("\n")[2], "nobody wrote|race"),
    "no barrier behind the update": ("denoise_chain", "chain", UPDATED, UPDATED.replace("      __syncthreads();\n", ""), "race"),
    "no wait for the weights": ("denoise_chain", "mlp", NO_WAIT + "0>", NO_WAIT + "9>", "nobody wrote|did not wait|race"),
    "no wait for a chunk": ("streamed_chain", "mlp", CHUNK_WAIT, CHUNK_WAIT.replace("0", "1"), "nobody wrote|did not wait|race"),
    "a chunk into the buffer in use": ("streamed_chain", "mlp", "buffer ^ 1);", "buffer);", "nobody wrote|race"),
    "no barrier before a chunk": ("streamed_chain", "mlp", "wait<0>();\n        __syncthreads();", "wait<0>();", "nobody wrote|race"),
    "off by one in a fragment": ("denoise_chain", "mlp", "* kIn + k) * 32 + lane)", "* kIn + k) * 32 + (lane ^ 1))", WRONG),
    "off by a row in shared memory": ("denoise_chain", "mlp", "(8 * share_row +", "(9 * share_row +", "race|writes elements"),
    "a misaligned row": ("denoise_chain", "mlp", "x_row = D + 16", "x_row = D + 2", "misaligned"),
    "another unit's column": ("denoise_chain", "mlp", "column / 2 * 4 + 2 * p + column % 2", "8 * p + column", WRONG),
    "too little shared memory": ("denoise_chain", "mlp", SIZE, SIZE.replace("4", "3"), r"takes \d+ bytes of dynamic shared"),
    "a row past the end is stored": ("denoise_chain", "chain", TAIL, "", "(reads|writes) elements"),
}  # fmt: skip
RUNS: dict[str, Callable[[ctypes.CDLL], str]] = {
    "planar_flow": planar_flow,
    "denoise_chain": denoise_chain,
    "streamed_chain": streamed_chain,
}


@pytest.mark.parametrize("name", MISTAKES)
def test_planted_mistakes_show(name: str, tmp_path: Path) -> None:
    kernel, header, old, new, message = MISTAKES[name]
    csrc = shutil.copytree(compile_cuda.CSRC / "cuda", tmp_path / "cuda").parent
    path = csrc / "cuda/kernels" / f"{header}.h"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    so = compile_cuda.emulated(
        compile_cuda.HERE / "planted.cu", tmp_path / "planted.so", f"-D{kernel.replace('streamed', 'denoise').upper()}", csrc=csrc
    )
    said = RUNS[kernel](library(so))
    assert re.search(message, said), said
