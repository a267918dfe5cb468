"""segment_quantiles against numpy.quantile, on both backends and every instruction set."""

import os
import subprocess
import sys

import numpy as np
import pytest
from quantile_cases import HOSTILE, LEVELS, by_numpy, ragged

from ordkernels._backend import host_module
from ordkernels.quantiles import segment_quantiles

pytestmark = pytest.mark.usefixtures("numpy_empty_is_nan")


@pytest.mark.parametrize("kind", ["normal", "duplicates", "constant", "zeros", "denormal", "sorted", "descending"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_segment_equals_numpy(host_backend, dtype, kind):
    rng = np.random.default_rng(1)
    values, offsets = ragged(rng, rng.permutation(HOSTILE + [40] * 20), dtype, kind)
    out = segment_quantiles(values, offsets, LEVELS)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, by_numpy(values, offsets, LEVELS))


@pytest.mark.parametrize("n", HOSTILE)
def test_segment_single_group(host_backend, n):
    values, offsets = ragged(np.random.default_rng(n), [n], np.float32)
    np.testing.assert_array_equal(segment_quantiles(values, offsets, LEVELS), by_numpy(values, offsets, LEVELS))


@pytest.mark.parametrize("n", range(70))
def test_every_small_size_of_the_network(n):
    """Zeros and ones are all that a sorting network has to get right; every size, full and partly filled tiles."""
    rng = np.random.default_rng(n)
    for groups in (1, 7, 8, 9):
        values, offsets = ragged(rng, [n] * groups, np.float32)
        values = (values > rng.normal(size=values.shape)).astype(np.float32)
        np.testing.assert_array_equal(segment_quantiles(values, offsets, LEVELS), by_numpy(values, offsets, LEVELS))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_infinities(host_backend, dtype):
    inf = np.inf
    values = np.array([inf, inf, -inf, 3.0, 3.0, inf, -inf, inf, -inf, -inf], dtype)
    out = segment_quantiles(values, [0, 2, 4, 6, 8, 10], [0.0, 0.25, 0.5, 0.75, 1.0])
    nan = np.nan  # the middle of (-inf, inf) alone
    expected = [
        [inf] * 5,
        [-inf, -inf, -inf, -inf, 3.0],
        [3.0, inf, inf, inf, inf],
        [-inf, nan, nan, nan, inf],
        [-inf] * 5,
    ]
    np.testing.assert_array_equal(out, np.array(expected, dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gap_that_overflows_stays_inside(host_backend, dtype):
    big = np.finfo(dtype).max
    out = segment_quantiles(np.array([big, -big], dtype), [0, 2], [0.25, 0.5, 0.75])
    np.testing.assert_allclose(out, [[-big / 2, 0.0, big / 2]], rtol=4 * np.finfo(dtype).eps)


@pytest.mark.skipif(host_module() is None, reason="the compiled module is not built")
@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
def test_every_instruction_set_gives_the_same(isa):
    """The variable is read once for each process."""
    code = """if True:
        import numpy as np
        from ordkernels.quantiles import segment_quantiles
        rng = np.random.default_rng(8)
        sizes = rng.integers(0, 1100, 200)
        for dtype in (np.float32, np.float64):
            x, offsets = rng.normal(size=sizes.sum()).astype(dtype), np.concatenate([[0], np.cumsum(sizes)])
            out = segment_quantiles(x, offsets, [0.1, 0.5, 0.77])
            for g in range(200):
                if sizes[g]:
                    q = np.quantile(x[offsets[g] : offsets[g + 1]].astype(float), [0.1, 0.5, 0.77])
                    assert (out[g] == q.astype(dtype)).all(), g
        print("same")
    """
    env = {**os.environ, "ORDKERNELS_ISA": isa, "MALLOC_PERTURB_": "1"}  # no memory starts as zeros
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "same", done.stderr


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint16, np.uint64])
def test_integers_become_fp64(host_backend, dtype):
    out = segment_quantiles(np.array([1, 4, 2], dtype), np.array([0, 3], np.uint8), [0.25, 0.5])
    assert out.dtype == np.float64
    np.testing.assert_array_equal(out, [[1.5, 2.0]])


def test_half_precision_is_rounded_once(host_backend):
    x = np.array([1.0, 1.001, 7.0], np.float16)
    out = segment_quantiles(x, [0, 3], [0.3])
    assert out.dtype == np.float16
    np.testing.assert_array_equal(out[0], np.quantile(x.astype(np.float64), [0.3]).astype(np.float16))
