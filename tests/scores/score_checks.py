"""What the tests of the scores share."""

import numpy as np

import ordkernels


def check_compiled(score, *args, **options):
    """A score's compiled kernel gives its reference's result, whatever the number of threads."""
    with ordkernels.use_backend("reference"):
        expected = score(*args, **options)
    one, two = (score(*args, **options, num_threads=n) for n in (1, 2))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, expected, rtol=1e-12, atol=1e-14)
