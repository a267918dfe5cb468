"""The ordinal tables: published sizes, splits that never change, standardised on the training rows alone, errors that help."""

import numpy as np
import pytest
import torch

from ordkernels.data import ordinal, ordinal_names

SIZES = {  # rows, features, classes, as published
    "abalone": (4177, 10, 28), "winequality_white": (4898, 11, 7), "winequality_red": (1599, 11, 6), "skill": (3337, 18, 7),
    "californiahousing": (20640, 8, 6), "cement_strength": (998, 8, 5), "stock_ord": (950, 9, 5), "bostonhousing_ord": (506, 13, 5),
    "machine_ord": (199, 6, 10), "auto_riskness": (160, 15, 6), "affairs": (265, 17, 6), "ERA": (1000, 4, 9), "ESL": (488, 4, 9),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SIZES))
def test_every_row_is_in_one_split(name):
    train, test = ordinal(name)
    N, F, classes = SIZES[name]
    assert torch.equal(torch.cat((train["row"], test["row"])).sort().values, torch.arange(N))
    assert len(test["y"]) == round(0.2 * N)
    assert train["dense"].shape[1] == test["dense"].shape[1] == F
    assert len(torch.cat((train["y"], test["y"])).unique()) == classes
    assert all(part[key].dtype == torch.float32 for part in (train, test) for key in ("dense", "y"))


def test_standardised_on_the_training_rows_alone():
    train, test = ordinal("abalone", split=3)
    mean, spread = train["dense"].double().mean(0), train["dense"].double().std(0, correction=0)
    assert mean.abs().max() < 1e-6
    assert torch.allclose(spread, torch.ones_like(spread), atol=1e-5)
    assert test["dense"].mean(0).abs().max() > 1e-3  # the test rows keep their own mean


def test_a_constant_training_column_is_zero_not_nan():
    train, test = ordinal("tae", split=0)
    assert all(torch.isfinite(part["dense"]).all() for part in (train, test))


def test_splits_are_fixed_and_differ_by_number():
    first, again, other = (ordinal("ESL", split=k)[1]["row"] for k in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first[:8].tolist() == FIRST_ROWS  # the same with every version of every library


FIRST_ROWS = [2, 4, 6, 18, 32, 33, 41, 42]


def test_published_splits():
    for name, rows in (("toy", 300), ("tae", 151), ("pasture", 36)):
        for split in (0, 29):
            train, test = ordinal(name, split=split)
            assert len(train["y"]) + len(test["y"]) == rows
    with pytest.raises(ValueError, match="split: expected 0 to 29 for toy"):
        ordinal("toy", split=30)


def test_aliases():
    assert torch.equal(ordinal("wine")[0]["y"], ordinal("winequality_white")[0]["y"])
    assert {"abalone", "wine", "wine_red", "toy"} <= set(ordinal_names())


def test_ordinal_errors(tmp_path):
    with pytest.raises(ValueError, match=r"name: expected one of ERA, ESL, abalone.*, got 'abalon'"):
        ordinal("abalon")
    np.savez(tmp_path / "orca_30holdout.npz", other=np.zeros(3))
    with pytest.raises(ValueError, match=r"expected the columns toy/0/train_X, .*toy/0/test_y, once each, got 'other'"):
        ordinal("toy", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no suite\.npz in .*pass the folder"):
        ordinal("abalone", tmp_path)
    with pytest.raises(ValueError, match="test_share: expected a share strictly between 0 and 1, got 1"):
        ordinal("abalone", test_share=1)
    with pytest.raises(ValueError, match="split: expected a number of at least 0, got -1"):
        ordinal("abalone", split=-1)
