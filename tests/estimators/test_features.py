"""Columns of a table as features: bins of numbers with many values, beside the standardised number itself."""

import numpy as np

from ordkernels.data import PiecewiseLinearEncoder
from ordkernels.estimators._columns import table_columns
from ordkernels.estimators._features import Features, Roles

N = 6000


def table():
    r = np.random.default_rng(0)
    size = r.normal(size=N)
    size[::7] = np.nan
    return {"size": size, "price": r.lognormal(0, 3, N), "kind": r.integers(0, 5, N), "sold": r.integers(0, 2, N) == 1}


def fitted(columns, rows=slice(None)):
    features = Features(Roles())
    part = {name: v[rows] for name, v in columns.items()}
    return features, features.fit(table_columns(part), np.ones(len(part["size"])))["dense"].numpy()


def test_numbers_with_many_values_have_bins():
    columns = table()
    features, dense = fitted(columns)
    names = [text for name, f in features.columns.items() for text in f.names(name)]
    bins = [f"bin {k}" for k in (1, 2, 3)]
    assert names == ["size", *(f"size {b}" for b in bins[:2]), "size missing", "price", *(f"price {b}" for b in bins), "kind", "sold"]
    assert dense.shape == (N, len(names))
    price = np.log1p(columns["price"])[:, None]
    np.testing.assert_array_equal(dense[:, 5:8], PiecewiseLinearEncoder(bins=3).fit_transform(price)[:, 1:])
    known = ~np.isnan(columns["size"])
    size = PiecewiseLinearEncoder(bins=2).fit(columns["size"][known, None])
    np.testing.assert_array_equal(dense[known, 1:3], size.transform(columns["size"][known, None])[:, 1:])
    np.testing.assert_array_equal(dense[~known, :4], np.tile(np.array([0, 0, 0, 1], np.float32), (int((~known).sum()), 1)))


def test_rows_to_score_are_read_by_the_bins_of_training():
    columns = table()
    features, dense = fitted(columns)
    few = {name: v[40:50] for name, v in columns.items()}
    np.testing.assert_array_equal(features.batch(table_columns(few), 10)["dense"], dense[40:50])


def test_few_rows_have_no_bins():
    features, dense = fitted(table(), slice(3000))
    assert dense.shape[1] == features.dense_width == 5
