"""What nested_min and encode_increments share in CUDA C++."""

from torch import Tensor

MAX_TILES = 160 << 10  # bytes of shared memory for 32 rows in three tiles: an A100 has 163 KB


def width_reasons(rows: Tensor, K: int) -> list[str]:
    """Why rows of K columns do not fit."""
    most = MAX_TILES // (32 * 3 * max(rows.element_size(), 4)) - 1
    return [f"expected K up to {most}, got {K}: whole rows go through shared memory"] if most < K else []
