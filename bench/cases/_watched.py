"""Labels and predictions as of watch times."""

import numpy as np

Array = np.ndarray


def watched(N: int, seed: int = 0) -> tuple[Array, Array]:
    """Labels and predictions, fp32, log-normal and related, with hardly a tie."""
    rng = np.random.default_rng(seed)
    y = rng.lognormal(2, 1, N)
    return y.astype(np.float32), (y * rng.lognormal(0, 0.7, N)).astype(np.float32)
