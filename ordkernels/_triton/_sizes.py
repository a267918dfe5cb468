"""Sizes of grids and tiles in plain integers: Triton's own functions of these names take ten times as long, on every launch."""


def cdiv(n: int, d: int) -> int:
    return -(-n // d)


def next_power_of_2(n: int) -> int:
    """The least power of 2 that is n or more, 1 for n < 1."""
    return 1 << max(n - 1, 0).bit_length()
