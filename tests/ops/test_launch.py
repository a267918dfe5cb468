"""Launches of Triton kernels find the compiled kernel that Triton itself would take, on a GPU that is not there."""

import contextlib
import itertools
import math
import os

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("TRITON_INTERPRET=1 makes kernels plain Python; run this file in a process without it", allow_module_level=True)

import triton
import triton.language as tl
from triton.runtime import driver

from ordkernels._triton import _launch, rng
from ordkernels._triton._launch import launch, specialization
from ordkernels.testing.launches import fake_gpu


@triton.jit(do_not_specialize=["seed"])
def axpy_kernel(x, y, n, stride, scale, seed, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + i * stride, mask=i < n, other=0.0) * scale + seed
    if y is not None:
        v += tl.load(y + i, mask=i < n, other=0.0)
    tl.store(x + i * stride, v, mask=i < n)


@pytest.fixture
def launched():
    _launch._KERNELS.clear()
    with fake_gpu() as kernels:
        yield kernels
    _launch._KERNELS.clear()


MEMORY = torch.zeros(64)
TENSORS = [
    *(MEMORY[i : i + 16] for i in (0, 1, 2, 4, 8)),  # 4, 8, 16 and 32 bytes further
    *(MEMORY.view(dtype)[i : i + 8] for dtype in (torch.int64, torch.bfloat16, torch.float16, torch.float64, torch.bool) for i in (0, 1)),
    torch.nn.Parameter(MEMORY[1:9]), MEMORY[:0], None,
]  # fmt: skip
INTEGERS = [0, 1, 2, 3, 8, 15, 16, 17, 32, 48, -1, -16, -17, True, False]
EDGES = [sign * 2**power for sign in (1, -1) for power in (31, 32, 63)]
INTEGERS += [n + more for n in EDGES for more in (-17, -16, -1, 0, 1, 16) if -(2**63) <= n + more < 2**64]
NUMBERS = [*INTEGERS, 0.0, 1.0, 0.5, -16.0, math.inf, math.nan]


def of_triton(*args):
    """What Triton's own launcher makes of the arguments of `axpy_kernel`."""
    *_, binder = axpy_kernel.device_caches[driver.active.get_current_device()]
    return repr(binder(*args, debug=False)[1])


def test_what_triton_compiles_apart_has_keys_of_its_own(launched):
    tensor = MEMORY[:16]
    cases = [(x, y, 3, 3, 0.5, 3) for x, y in itertools.product(TENSORS[:-1], TENSORS)]
    cases += [(tensor, None, n, stride, 0.5, 3) for n, stride in itertools.product(INTEGERS, INTEGERS)]
    cases += [(tensor, tensor, 3, 2, scale, seed) for scale, seed in itertools.product(NUMBERS, INTEGERS)]
    found = {}
    for case in cases:
        found.setdefault(tuple(specialization(case)), set()).add(of_triton(*case, False, 16))
    assert all(len(kinds) == 1 for kinds in found.values())
    assert len(set.union(*found.values())) > 200  # and Triton does tell them apart


def test_numbers_that_triton_does_not_compile_in_share_a_key():
    for a, b in ((2, 7), (16, 2**20), (-3, 5), (2**40 + 1, 2**62 + 3), (0.5, math.nan)):
        assert specialization([a]) == specialization([b])
    assert specialization([MEMORY[:4]]) == specialization([MEMORY[4:16]])


def test_the_same_kernels_run_as_by_triton_and_no_more_are_compiled(launched):
    tensor, odd = MEMORY[:32], MEMORY[1:33]
    cases = [
        (x, y, n, stride, 0.5, seed, wide, 16)
        for x in (tensor, odd)
        for y in (tensor, None)
        for n, stride in ((16, 1), (16, 2), (2**31, 1))
        for seed in (1, 2**40)
        for wide in (False, True)
    ]
    for case in cases:
        axpy_kernel[(1,)](*case, num_warps=1)
    by_triton = list(launched)
    assert len(set(map(id, by_triton))) == 48
    for _ in range(2):  # the first time through Triton, the second from the keys
        launched.clear()
        for case in cases:
            launch(axpy_kernel, (1,), *case[:6], WIDE=case[6], BLOCK=16, num_warps=1)
        assert list(map(id, launched)) == list(map(id, by_triton))


def test_options_settings_and_devices_are_kept_apart(launched):
    args = MEMORY[:16], None, 5, 1, 0.5, 3, False, 16
    for options in ({"num_warps": 1}, {"num_warps": 2}, {"num_warps": 2, "num_stages": 1}, {"num_warps": 2, "maxnreg": 64}):
        for _ in range(2):
            launch(axpy_kernel, (1,), *args, **options)
    with triton.knobs.runtime.scope():
        triton.knobs.runtime.debug = True
        launch(axpy_kernel, (1,), *args, num_warps=1)
    first = [id(kernel) for kernel in launched]
    assert first[::2] == [*first[1::2], first[-1]]
    assert len(set(first)) == 5
    with fake_gpu(80) as others:
        launch(axpy_kernel, (1,), *args, num_warps=1)
    assert others[0].metadata.target.arch == 80


def test_grids_streams_and_arguments_arrive(launched, monkeypatch):
    seen = []
    monkeypatch.setattr(driver.active, "launcher_cls", lambda source, metadata: lambda *args: seen.append(args))
    monkeypatch.setattr(driver.active, "get_current_stream", lambda device: 77)
    counter, key, out = torch.zeros(8, 4, dtype=torch.int64), torch.zeros(8, 2, dtype=torch.int64), torch.zeros(8, 4, dtype=torch.int32)
    for grid in ((3,), (3, 2), (3, 2, 5)):
        for _ in range(2):
            launch(rng.philox_kernel, grid, counter, key, out, 8, 256, num_warps=4)
        (*by_triton,), (*by_key,) = seen[-2:]
        assert by_key[:4] == [*(*grid, 1, 1)[:3], 77]
        assert by_key[:6] == by_triton[:6]
        assert all(a is b for a, b in zip(by_key[-5:], (counter, key, out, 8, 256), strict=True))


def test_a_kernel_runs_on_the_device_of_its_first_tensor(launched, monkeypatch):
    class OnThird(torch.Tensor):
        def get_device(self):
            return 3

    current, streams = [0], []

    @contextlib.contextmanager
    def device(index):
        current.append(index)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(driver.active, "get_current_device", lambda: current[-1])
    monkeypatch.setattr(driver.active, "get_current_stream", lambda device: streams.append(device) or 77)
    for x in (MEMORY[:16].as_subclass(OnThird), MEMORY[:16]):
        for _ in range(2):
            launch(axpy_kernel, (1,), x, None, 5, 1, 0.5, 3, False, 16, num_warps=1)
    assert streams == [3, 3, 0, 0]
    assert current == [0]
    assert {key[0] for key in _launch._KERNELS[id(axpy_kernel)].compiled} == {0, 3}


def test_a_triton_that_was_not_looked_at_launches_by_itself(launched, monkeypatch):
    monkeypatch.setattr(triton, "__version__", "4.0.0")
    monkeypatch.setattr(_launch, "specialization", None)
    for _ in range(2):
        launch(axpy_kernel, (1,), MEMORY[:16], None, 5, 1, 0.5, 3, False, 16, num_warps=1)
    assert len(launched) == 2


def test_as_many_compiled_kernels_are_kept_as_said(launched, monkeypatch):
    monkeypatch.setattr(_launch, "MOST", 2)
    for n in (1, 2, 16, 1):
        launch(axpy_kernel, (1,), MEMORY[:16], None, n, 1, 0.5, 3, False, 16, num_warps=1)
        assert len(_launch._KERNELS[id(axpy_kernel)].compiled) <= 2
    assert launched[0] is launched[-1]


def test_arguments_that_do_not_fit_raise(launched):
    with pytest.raises(TypeError, match=r"axpy_kernel: expected constants among its arguments, got \['DEEP'\]"):
        launch(axpy_kernel, (1,), MEMORY, None, 5, 1, 0.5, 3, WIDE=False, BLOCK=16, DEEP=1, num_warps=1)

    @triton.jit
    def constant_first_kernel(x, N: tl.constexpr, m):
        tl.store(x + N, m)

    with pytest.raises(ValueError, match="constant_first_kernel: expected its constants after all other arguments"):
        launch(constant_first_kernel, (1,), MEMORY, 1, 2, num_warps=1)
