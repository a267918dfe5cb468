"""Estimators on tables of every kind: the same numbers whatever the container, roles, unknown and missing values, errors."""

import datetime

import numpy as np
import pytest

from ordkernels.estimators import DiffoRRegressor, FlowTimeRegressor, GRRegressor, PredictedDistribution, ValueRegressor

N = 90


def columns():
    r = np.random.default_rng(0)
    start = datetime.datetime(2024, 1, 1)
    return {
        "user": r.integers(0, 9, N) + 10**17, "video": [f"v{k}" for k in r.integers(0, 12, N)],
        "when": [start + datetime.timedelta(seconds=int(s)) for s in np.sort(r.integers(0, 10**6, N))],
        "length": r.lognormal(3, 1, N), "kind": r.choice(["a", "b", "c"], N).tolist(), "new": (r.random(N) < 0.5).tolist(),
    }  # fmt: skip


def target():
    c, r = columns(), np.random.default_rng(1)
    return c["length"] * r.random(N) * np.where(np.array(c["kind"]) == "a", 2, 1)


def pandas():
    return pytest.importorskip("pandas").DataFrame(columns())


def polars():
    return pytest.importorskip("polars").DataFrame(columns())


def arrow():
    return pytest.importorskip("pyarrow").table(columns())


ROLES = {"user": "user", "item": "video", "time": "when", "history": True}


@pytest.fixture(scope="module")
def fitted():
    return FlowTimeRegressor(**ROLES, epochs=2).fit(columns(), target())


@pytest.mark.parametrize("make", [pandas, polars, arrow])
def test_the_same_numbers_from_every_container(make, fitted):
    table = make()
    other = FlowTimeRegressor(**ROLES, epochs=2).fit(table, target())
    np.testing.assert_array_equal(other.predict(table), fitted.predict(columns()))
    assert other.feature_names_in_.tolist() == list(columns())


def test_distributions(fitted):
    q = fitted.predict_quantiles(columns(), [0.1, 0.5, 0.9])
    assert q.shape == (N, 3)
    assert (np.diff(q, axis=1) >= 0).all()
    d = fitted.predict_proba(columns())
    np.testing.assert_array_equal(d.ppf([0.1, 0.5, 0.9]), q)
    np.testing.assert_array_equal(fitted.predict_interval(columns(), 0.8), d.interval(0.8))
    assert len(d[:3]) == 3
    assert isinstance(d, PredictedDistribution)
    assert ((d.cdf(d.ppf(0.5)) >= 0.5 - 1 / 128) & (d.cdf(d.ppf(0.5)) <= 0.5 + 1 / 128)).all()


def test_a_rows_draws_belong_to_its_id():
    table = {**columns(), "id": np.arange(N) * 7 + 10**12}
    model = DiffoRRegressor(row_id="id", epochs=1).fit(table, target())
    whole = model.predict_proba(table).draws
    order = np.random.default_rng(2).permutation(N)
    part = {name: np.asarray(c, dtype=object)[order[:20]] if name == "video" else np.asarray(c)[order[:20]] for name, c in table.items()}
    np.testing.assert_allclose(model.predict_proba(part).draws, whole[order[:20]], rtol=1e-4)


def test_gr_takes_whole_numbers_and_draws_them():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 2)), rng.integers(0, 30, 300)
    estimator = GRRegressor(epochs=1, options={"hidden": 8, "layers": 1, "attention_heads": 2, "ffn": 8}).fit(X, y)
    draws = estimator.predict_proba(X[:20], n=16).draws
    assert np.array_equal(draws, np.rint(draws))
    assert draws.std() > 1


def test_unknown_ids_and_missing_values(fitted):
    table = pandas()
    table.loc[:5, "user"], table.loc[3:8, "video"] = -1, "never seen"
    table.loc[10:12, "length"], table.loc[11:13, "kind"] = np.nan, None
    assert np.isfinite(fitted.predict(table)).all()


def test_only_earlier_events_are_in_a_history(fitted):
    table = columns()
    late = np.arange(N) >= 80
    before = fitted.predict(table)
    changed = FlowTimeRegressor(**ROLES, epochs=2, validation_fraction=0.0)
    y, other = target(), target()
    other[late] *= 50
    a, b = (changed.fit(table, v).features_.events["y"] for v in (y, other))
    assert (a[:80] == b[:80]).all()
    q = [changed.fit(table, v).features_.batch(_table(table), N)["q_user"][:80].numpy() for v in (y, other)]
    np.testing.assert_array_equal(*q)
    assert np.isfinite(before).all()


def _table(table):
    from ordkernels.estimators._columns import table_columns

    return table_columns(table)


def test_same_seed_same_model():
    a, b = (DiffoRRegressor(epochs=1, random_state=3).fit(columns(), target()).predict(columns()) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert (DiffoRRegressor(epochs=1, random_state=4).fit(columns(), target()).predict(columns()) != a).any()


def test_early_stopping_keeps_the_best_epoch():
    model = ValueRegressor(epochs=40, patience=2, learning_rate=0.05).fit(columns(), target())
    scores = [e["valid"] for e in model.history_]
    best = int(np.argmin(scores))
    assert len(scores) in (best + 3, 40)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"user": "nobody"}, ValueError, "user: expected the name of a column .*, got 'nobody'"),
        ({"history": True}, ValueError, "history: expected time= with it"),
        ({"history": True, "time": "when"}, ValueError, "history: expected user= or item="),
        ({"validation_fraction": 1.5}, ValueError, "validation_fraction: expected a share"),
        ({"capacity": "kind"}, TypeError, "column 'kind': expected numbers as capacities, got text"),
    ],
)
def test_wrong_roles(change, error, text):
    with pytest.raises(error, match=text):
        DiffoRRegressor(epochs=1, **change).fit(columns(), target())


@pytest.mark.parametrize(
    ("x", "y", "error", "text"),
    [
        ({}, [], ValueError, "X: expected at least one column, got none"),
        ({"a": [1.0, 2.0]}, [1.0], ValueError, "y: expected 2 rows, as X has, got 1"),
        ({"a": [1.0, 2.0]}, [1.0, np.nan], ValueError, "y: expected finite numbers of at least 0, got a missing value at row 1"),
        ({"a": [1.0, 2.0]}, [-1.0, 2.0], ValueError, "y: .* got a negative value at row 0: -1"),
        ({"a": [1.0, 2.0]}, [np.inf, 2.0], ValueError, "y: .* got an infinite value at row 0: inf"),
        ({"a": [1.0, 2.0]}, ["x", "y"], TypeError, "y: expected numbers, got text"),
        ({"a": [1.0, 2.0], "b": [1.0]}, [1.0, 2.0], ValueError, "column 'b': expected 2 rows, as 'a' has, got 1"),
        ({"a": [1.0, "x"]}, [1.0, 2.0], TypeError, "column 'a': expected numbers, booleans, .* got numbers and text in it"),
        ({"a": [1.0]}, [1.0], ValueError, "X: expected at least 2 rows to train on, got 1 sample"),
        (3, [1.0], TypeError, "X: expected a table .*, got int"),
    ],
)
def test_bad_tables(x, y, error, text):
    with pytest.raises(error, match=text):
        ValueRegressor(epochs=1).fit(x, y)


def test_other_columns_than_in_training(fitted):
    table = columns()
    with pytest.raises(ValueError, match="X: expected the column 'length', as in training"):
        fitted.predict({name: c for name, c in table.items() if name != "length"})
    with pytest.raises(TypeError, match="column 'user': expected numbers, as in training, got text"):
        fitted.predict({**table, "user": ["u"] * N})
