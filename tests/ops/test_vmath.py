"""The native kernels' own exp, tanh, log, softplus and half conversions: stated ulp errors, NaN, infinities, every exponent."""

import pytest
import torch
from torch import Tensor

import ordkernels.ops  # noqa: F401  registers the ops
from ordkernels.testing.compare import ulp_error

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("native")]
INF, NAN = float("inf"), float("nan")


def sech2(x: Tensor) -> Tensor:
    e = torch.exp(-2 * x.abs())
    return 4 * e / (1 + e) ** 2


# number, truth in fp64, range of x, largest error in ulp: the figures that csrc/common/vmath.h states
FUNCTIONS = {
    "exp": (0, lambda x: torch.exp(-x.abs()), (-87, 87), 1.5),
    "tanh": (1, torch.tanh, (-1e4, 1e4), 3.0),
    "sech2": (2, sech2, (-43, 43), 6.0),
    "log": (3, torch.log, (1e-37, 3e38), 1.0),
    "log1p": (4, torch.log1p, (-0.99999994, 3e38), 1.0),
    "softplus": (5, lambda x: torch.nn.functional.softplus(x, threshold=700), (-87, 1e4), 3.0),
    "sigmoid": (6, torch.sigmoid, (-87, 1e4), 3.0),
}


def points(low: float, high: float) -> Tensor:
    """fp32 numbers of every exponent in [low, high], both signs, and dense ones near 0 and 1."""
    spread = torch.randint(0x00800000, 0x7F800000, (400_000,), dtype=torch.int32).view(torch.float32)
    x = torch.cat([spread, -spread, torch.randn(200_000), torch.randn(100_000) * 30, 1 + torch.randn(100_000) * 1e-3])
    return x[(x >= low) & (x <= high)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_ulp_error(name: str) -> None:
    which, truth, (low, high), bound = FUNCTIONS[name]
    x = points(low, high)
    assert x.numel() > 100_000
    assert ulp_error(torch.ops.ordkernels._vmath(x, which), truth(x.double())).max().item() <= bound


@pytest.mark.parametrize("name", FUNCTIONS)
def test_fp64_is_libm(name: str) -> None:
    which, truth, (low, high), _ = FUNCTIONS[name]
    x = points(low, high).double()[::50]
    torch.testing.assert_close(torch.ops.ordkernels._vmath(x, which), truth(x), rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("name", "at", "value"),
    [
        ("exp", INF, 0), ("exp", -INF, 0), ("exp", 0, 1), ("tanh", INF, 1), ("tanh", -INF, -1), ("tanh", 0, 0),
        ("sech2", INF, 0), ("sech2", 0, 1),
        ("log", 0, -INF), ("log", INF, INF), ("log1p", -1, -INF), ("log1p", INF, INF), ("log1p", -2, NAN), ("log1p", 0, 0),
        ("softplus", INF, INF), ("softplus", -INF, 0), ("sigmoid", INF, 1), ("sigmoid", -INF, 0), ("sigmoid", 0, 0.5),
    ],
)  # fmt: skip
def test_special_values(name: str, at: float, value: float, dtype: torch.dtype) -> None:
    which = FUNCTIONS[name][0]
    x = torch.full((37,), at, dtype=dtype)
    got = torch.ops.ordkernels._vmath(x, which)
    assert torch.equal(got.nan_to_num(7.0), torch.full_like(x, value).nan_to_num(7.0))


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nan_stays_in_its_lane(name: str, dtype: torch.dtype) -> None:
    x = torch.rand(67, dtype=dtype) + 0.5
    x[::3] = NAN
    got = torch.ops.ordkernels._vmath(x, FUNCTIONS[name][0])
    assert torch.equal(got.isnan(), x.isnan())


@pytest.mark.parametrize(("which", "dtype"), [(7, torch.bfloat16), (8, torch.float16)])
def test_half_conversions(which: int, dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).float()
    got = torch.ops.ordkernels._vmath(every, which)
    assert torch.equal(got.nan_to_num(7.0), every.nan_to_num(7.0))
    x = torch.randint(-(2**31), 2**31, (1_000_000,), dtype=torch.int64).to(torch.int32).view(torch.float32)
    near = every[every.isfinite()]
    x = torch.cat(
        [
            x,
            torch.randn(1_000_000),
            near * (1 + 2**-12),
            (near + torch.nextafter(near, torch.tensor(INF))) / 2,
            torch.tensor([65519.996, 65520, 65504, 1e30]),
        ]
    )
    got, want = torch.ops.ordkernels._vmath(x, which), x.to(dtype).float()
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.nan_to_num(7.0, 1e39, -1e39), want.nan_to_num(7.0, 1e39, -1e39))
