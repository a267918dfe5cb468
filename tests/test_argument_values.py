"""What the shared checks of arguments make of numbers, lists and keywords at the edges of what they take."""

import dataclasses
import fractions
from typing import Any

import numpy as np
import pytest
import torch

from ordkernels import scores
from ordkernels._validation.arrays import as_tensor
from ordkernels._validation.flags import reject_unknown, with_flags
from ordkernels._validation.numbers import boolean, number, real


@dataclasses.dataclass(frozen=True)
class Config:
    width: int = 64


@pytest.mark.parametrize(
    ("x", "text"),
    [
        ([1, None], "expected no NaN, got 1 of 2 missing, the first at index 1"),
        ([3, -(2**63) - 1], "expected numbers of at most 64 bits, got -9223372036854775809"),
        ([2**64, 3], "expected numbers of at most 64 bits, got 18446744073709551616"),
        (np.array([1, "1e400"], np.longdouble), "expected numbers in the range of float64, got 1e[+]400 at index 1"),
    ],
)
def test_the_first_wrong_number_of_a_list_is_named(x: Any, text: str) -> None:
    with pytest.raises(ValueError, match=f"^y: {text}"):
        scores.mae(x, [1, 2])


def test_the_least_integers_of_64_bits_are_taken() -> None:
    assert scores.mae([-(2**63), 2**63 - 1], [-(2**63), 2**63 - 1]) == 0


def test_missing_values_of_arrow_are_counted() -> None:
    pa = pytest.importorskip("pyarrow")
    with pytest.raises(ValueError, match=r"^y: expected no NaN, got 2 of 3 missing, the first at index 1"):
        scores.mae(pa.array([1, None, None]), [1, 2, 3])


def test_frames_of_polars_are_no_columns() -> None:
    frame = pytest.importorskip("polars").DataFrame({"a": [1, 2]})
    with pytest.raises(ValueError, match=r"^y: expected shape \[N\]"):
        scores.mae(frame, [1, 2])


@pytest.mark.parametrize("x", [-np.inf, np.inf, np.nan])
def test_finite_numbers_alone(x: float) -> None:
    with pytest.raises(ValueError, match=r"^x: expected a finite number, got "):
        real("x", x)


def test_infinite_bounds_where_they_are_taken() -> None:
    assert (real("x", -np.inf, finite=False), real("x", np.inf, finite=False)) == (-np.inf, np.inf)


def test_scalars_of_numpy() -> None:
    assert boolean("x", np.True_) is True
    assert type(number("x", np.int64(3))) is float
    for x in (np.timedelta64(5, "ns"), np.timedelta64(5, "D"), np.datetime64("2020-01-01")):  # the first one's item is an int
        with pytest.raises(TypeError, match=r"^x: expected a number, got "):
            number("x", x)


def test_a_fraction_beyond_floats_is_no_wrong_type() -> None:
    with pytest.raises(ValueError, match=r"^x: expected a number, got Fraction"):
        number("x", fractions.Fraction(10**400))


def test_tensors_share_memory_where_torch_can() -> None:
    rows = np.lib.stride_tricks.as_strided(np.arange(3.0), (4, 3), (0, 8))
    assert as_tensor("x", rows).stride() == (0, 1)
    assert torch.equal(as_tensor("x", rows[:, ::-1]), torch.tensor([[2.0, 1.0, 0.0]] * 4, dtype=torch.float64))


def test_renamed_keywords_name_the_new_one() -> None:
    renamed = {"size": "width"}
    assert with_flags({"width": 8}, Config(), renamed=renamed) == (Config(width=8),)
    with pytest.raises(TypeError, match=r"^size: this argument is now called 'width'"):
        with_flags({"size": 8}, Config(), renamed=renamed)
    with pytest.raises(TypeError, match=r"^size: this argument is now called 'width'"):
        reject_unknown({"size": 8}, renamed)
    with pytest.raises(TypeError, match=r"^depth: got an unexpected keyword"):
        reject_unknown({"depth": 8}, renamed)
