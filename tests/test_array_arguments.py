"""One set of array checks: the same kinds of arrays are accepted, and rejected with the same words, wherever arrays are arguments."""

import warnings

import numpy as np
import pytest
import torch
from array_kinds import FLOATS, IDS, INTEGERS, MISSING, NUMBERS, REFUSED, flat, read_only, same

from ordkernels import data, metrics, quantiles, scores
from ordkernels.scores.streaming import BinnedXAUC, GroupedJSD, SampleScores
from ordkernels.vocabulary import ValueVocabulary

TAKEN = {  # by these arguments nonetheless: of any shape, with an order, or in order to infer shapes
    "matrix": ["tokens"], "two dimensions": ["tokens"], "data frame": ["tokens"], "durations": ["time"], "meta tensor": ["row_ids"],
}  # fmt: skip


def expect_same(calls, kind):
    for c in calls:
        expected = flat(c.call(np.array(c.values)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "leave_one_out_quantiles: ")  # it always warns
            found = flat(c.call(kind(c.values)))
        assert same(found, expected), (c.argument, found, expected)


def expect_refusal(calls, kind, taken=()):
    for c in calls:
        if c.argument in taken:
            continue
        with pytest.raises((TypeError, ValueError), match=f"^{c.argument}: expected "):
            c.call(kind(c.values))


@pytest.mark.parametrize("kind", INTEGERS)
def test_integers_of_every_kind_are_taken_everywhere(kind):
    expect_same(NUMBERS + IDS, INTEGERS[kind])


@pytest.mark.parametrize("kind", FLOATS)
def test_floats_of_every_kind_are_taken_where_numbers_are(kind):
    expect_same(NUMBERS, FLOATS[kind])
    expect_refusal(IDS, FLOATS[kind])


@pytest.mark.parametrize("kind", MISSING)
def test_missing_values_are_refused_everywhere(kind):
    expect_refusal(NUMBERS + IDS, MISSING[kind])


@pytest.mark.filterwarnings("ignore:.*(ested tensors|the matrix subclass)")
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_column_of_numbers_is_refused_by_name(kind):
    expect_refusal(NUMBERS + IDS, REFUSED[kind], TAKEN.get(kind, ()))


@pytest.mark.parametrize(
    "kind",
    [
        np.array,
        list,
        lambda x: np.array(x, object),
        torch.tensor,
        lambda x: pytest.importorskip("pandas").Series(x, dtype="boolean"),
        lambda x: pytest.importorskip("polars").Series(x),
        lambda x: pytest.importorskip("pyarrow").array(x),
    ],
)
def test_bools_are_0_and_1_in_data_and_nothing_else(kind):
    for c in NUMBERS:
        if c.argument in ("y", "prediction", "weight", "lower", "upper"):
            values = [bool(i % 2) for i in range(len(c.values))]
            assert same(flat(c.call(kind(values))), flat(c.call(np.array(values, int)))), c.argument
    no_data = [c for c in NUMBERS if c.argument in ("levels", "values", "time")]
    expect_refusal(no_data + IDS, lambda x: kind([True] * len(x)))


def test_settings_are_copies():
    for setting, make in (
        (np.array([0.0, 2.0, 5.0]), GroupedJSD),
        (np.array([0.0, 2.0, 5.0]), lambda x: BinnedXAUC(x, x)),
        (np.array([0.25, 0.5]), SampleScores),
        (np.array([0.25, 0.5]), metrics.Pinball),
        (np.array([1, 5, 20]), ValueVocabulary),
    ):
        made = make(setting)
        held = getattr(
            made, "edges", getattr(made, "y_edges", getattr(made, "levels", getattr(made, "values", getattr(made, "config", None))))
        )
        assert not np.shares_memory(np.asarray(held), setting)


@pytest.mark.parametrize("ids", [np.array([2**64 - 1, 1], np.uint64), np.array([-1, 1]), torch.tensor([-1, 1]), [-1, 1]])
def test_ids_are_any_integers_of_64_bits(ids):
    assert scores.xauc([1, 2], [1, 2], group=ids).pairs == 0
    assert GroupedJSD([0, 1]).update([1, 2], [1, 2], ids).state()["_ids"].tolist() == [-1, 1]
    assert np.isnan(quantiles.history_quantiles([1.0, 2.0], ids, [0, 1], [0.5])).all()


def test_samples_are_taken_like_columns():
    want = SampleScores().update([[0.0, 2.0]], [1.0]).result()
    for kind in (torch.tensor, lambda x: torch.tensor(x).bfloat16(), lambda x: np.array(x, ">f4"), read_only):
        assert SampleScores().update(kind([[0.0, 2.0]]), kind([1.0])).result() == want


def test_loaders_check_sizes_with_the_same_words():
    for call in (
        lambda: data.kuairand(quantiles=0),
        lambda: data.kuairand_sessions(items=0),
        lambda: data.movielens("", long=0),
    ):
        with pytest.raises(ValueError, match=r"(quantiles|items|long): expected a whole number of at least 1, got 0"):
            call()
