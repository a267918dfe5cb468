"""Tables as people have them: what is handled is said, and what is not raises an error with the column, the row and what was expected."""

import datetime

import numpy as np
import pytest
from sklearn.exceptions import DataConversionWarning

from ordkernels import Predictor
from ordkernels.estimators import DiffoRRegressor, FlowTimeRegressor, ValueRegressor

N = 60
ROLES = {"user": "user", "item": "item", "time": "when"}


def columns():
    r = np.random.default_rng(0)
    start = datetime.datetime(2024, 1, 1)
    return {
        "user": r.integers(0, 9, N), "item": [f"v{k}" for k in r.integers(0, 12, N)],
        "when": [start + datetime.timedelta(hours=k) for k in range(N)],
        "length": r.lognormal(3, 1, N), "kind": [f"k{k:02}" for k in r.integers(0, 99, N)],
        "day": [f"2024-01-{k % 28 + 1:02} 10:00" for k in range(N)], "one": np.ones(N), "none": [None] * N,
    }  # fmt: skip


def y():
    return np.random.default_rng(1).lognormal(1, 1, N)


def changed(column, row, value):
    table = columns()
    table[column] = np.array(table[column], dtype=object)
    table[column][row] = value
    table[column] = table[column].tolist()
    return table


@pytest.fixture(scope="module")
def fitted():
    return FlowTimeRegressor(**ROLES, history=True, epochs=1).fit(columns(), y())


@pytest.mark.parametrize(
    ("x", "target", "error", "text"),
    [
        (np.zeros((3, 0)), [1.0] * 3, ValueError, r"X: expected at least one column, got none: 0 feature\(s\)"),
        ({"a": []}, [], ValueError, "X: expected at least 2 rows to train on, got 0"),
        ({"a": [1.0]}, [1.0], ValueError, "X: expected at least 2 rows to train on, got 1 sample"),
        ({"a": [None, None], "b": [np.nan] * 2}, [1, 2], ValueError, "X: expected a value in at least one .* all 2 rows of 'a', 'b'"),
        ({"a": [1.0, np.inf]}, [1.0, 2.0], ValueError, "column 'a': expected finite numbers, got inf at row 1"),
        ({"a": [1, 2, "x"]}, [1.0] * 3, TypeError, r"column 'a': expected numbers.*, got numbers and text in it \('x' at row 2\)"),
        ({"a": [1, {}]}, [1.0] * 2, TypeError, r"column 'a': expected numbers.*, got dict and numbers in it \({} at row 1\)"),
        ({"a": [1j, 2]}, [1.0] * 2, TypeError, r"column 'a': expected numbers.* in it \(1j at row 0\)"),
        ({"a": [1, 2], 1: [1, 2], "1": [3, 4]}, [1.0] * 2, ValueError, "X: expected columns of different names, got '1' twice"),
        (np.zeros(4), [1.0] * 4, ValueError, r"X: expected a table .*, got an array of shape \[4\]. Reshape your data"),
        ({"a": [1, 2]}, None, ValueError, "y: expected a number for each row of X, got None"),
        ({"a": [1, 2]}, ["p", "q"], TypeError, r"y: expected numbers, got text \('p' at row 0\)"),
        ({"a": [1, 2]}, np.zeros((2, 3)), ValueError, r"y: expected one number a row, \[N\], got shape \[2, 3\]"),
        ({"a": [1, 2]}, "b", ValueError, r"y: expected the target, or the name of a column \('a'\), got 'b'"),
        ({"a": [1, 2]}, "a", ValueError, "X: expected at least one column besides the target, got 'a' alone"),
        ({"a": [1, 2]}, [0.5, None], ValueError, "y: expected finite numbers of at least 0, got a missing value at row 1"),
    ],
)
def test_tables_to_train_on(x, target, error, text):
    with pytest.raises(error, match=text):
        ValueRegressor(epochs=1).fit(x, target)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (
            {**columns(), "user": [None] * N},
            "column 'user': expected an id in at least one row, as the role user, got none",
        ),
        (changed("when", 7, None), "column 'when': expected a time in every row, got none at row 7"),
        (
            changed("when", 7, datetime.datetime(2924, 1, 1)),
            "column 'when': expected times of events that have.*, got 2924-.* at row 7",
        ),
        (changed("length", 5, -np.inf), "column 'length': expected finite numbers, got -inf at row 5"),
    ],
)
def test_roles(table, text):
    with pytest.raises(ValueError, match=text):
        FlowTimeRegressor(**ROLES, epochs=1).fit(table, y())


@pytest.mark.parametrize(
    ("weight", "text"),
    [
        ([1.0] * (N - 1), r"sample_weight: expected shape \[N\] = \[60\], got \[59\]"),
        ([1.0] * 9 + [-1.0] + [1.0] * (N - 10), "sample_weight: expected finite numbers of at least 0, got -1 at row 9"),
        ([0.0] * N, "sample_weight: expected a positive weight"),
    ],
)
def test_weights(weight, text):
    with pytest.raises(ValueError, match=text):
        ValueRegressor(epochs=1).fit(columns(), y(), weight)


def test_equal_weights_change_nothing():
    a, b = (ValueRegressor(epochs=2).fit(columns(), y(), w).predict(columns()) for w in (None, [3.0] * N))
    np.testing.assert_array_equal(a, b)


def test_only_weighted_rows_are_trained_on():
    table, target = {"a": np.arange(40.0)}, np.where(np.arange(40) % 2, 5.0, 500.0)
    model = ValueRegressor(epochs=1, validation_fraction=0).fit(table, target, np.arange(40) % 2)
    assert float(model.model_.largest) == 5.0


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"length": None}, ValueError, "X: expected the column 'length', as in training, got 'user', 'item'"),
        ({"user": ["u"] * N}, TypeError, r"column 'user': expected numbers, as in training, got text \('u' at row 0\)"),
        ({"item": np.arange(N)}, TypeError, r"column 'item': expected text, as in training, got numbers \(.*0.* at row 0\)"),
        (
            {"length": columns()["when"]},
            TypeError,
            r"column 'length': expected numbers, as in training, got times \('2024.*' at row 0",
        ),
        ({"length": [1.0] * 3 + [np.nan, np.inf] + [1.0] * 55}, ValueError, "column 'length': expected finite numbers, got inf at row 4"),
        ({"length": [1.0]}, ValueError, "column 'length': expected 60 rows, as 'user' has, got 1"),
    ],
)
def test_tables_to_score(fitted, change, error, text):
    table = {name: c for name, c in {**columns(), **change}.items() if c is not None}
    with pytest.raises(error, match=text):
        fitted.predict(table)


def test_rows_are_those_of_the_table():
    r = np.random.default_rng(0)
    table = {"user": r.integers(0, 9, 900), "when": np.arange(900.0)[::-1], "most": np.full(900, 50.0)}
    model = DiffoRRegressor(user="user", time="when", capacity="most", history=True, epochs=1)
    for column, value, text in (
        ("most", -2.0, "expected a capacity of at least 0 in every row, got -2"),
        ("when", np.nan, "expected a time"),
    ):
        bad = {**table, column: np.where(np.arange(900) == 777, value, table[column])}
        with pytest.raises(ValueError, match=f"column '{column}': {text}.* at row 777"):
            model.fit(bad, r.random(900))
    model.fit(table, r.random(900))
    for column, value in (("most", np.nan), ("when", np.nan)):
        with pytest.raises(ValueError, match=f"column '{column}': expected .* at row 777"):
            model.predict({**table, column: np.where(np.arange(900) == 777, value, table[column])})


def test_what_is_handled_when_scoring(fitted, capsys):
    table = changed("kind", 3, "never")
    table["user"] = [None, 77, *table["user"][2:].tolist()]
    table["length"] = np.where(np.arange(N) < 2, np.nan, table["length"]).astype(np.float32)
    assert np.isfinite(fitted.predict({**table, "more": [{}] * N})).all()
    assert fitted.table_report({**table, "more": table["length"]}) == [
        "'user': 1 of 60 rows with a new user, which counts as unknown",
        "'user': 1 of 60 rows without a value",
        "'length': 2 of 60 rows without a value",
        "not read: 'one', 'none', 'more'",
    ]
    fitted.verbose = True
    fitted.predict(table)
    fitted.verbose = False
    assert "'length': 2 of 60 rows without a value" in capsys.readouterr().out
    few = ValueRegressor(epochs=1).fit({"kind": ["a", "b"] * 30}, y())
    assert few.table_report({"kind": ["a", "c", None]}) == [
        "'kind': 1 of 3 rows with a new category, which counts as unknown, as 'c'", "'kind': 1 of 3 rows without a value",
    ]  # fmt: skip


def test_what_is_handled_in_training(fitted, capsys):
    table = {**columns(), "seconds": y()}
    model = FlowTimeRegressor(**ROLES, history=True, epochs=1, verbose=True).fit(table, "seconds")
    assert model.report_ == [
        "60 rows: 54 to train on, 6 to validate (the latest ones)",
        "'seconds' is the target, and no feature",
        f"'user' is the user; {len(set(columns()['user'][:54]))} ids",
        f"'item' is the item; {len(set(columns()['item'][:54]))} ids",
        "'when' is the time",
        "'when': times",
        "'length': numbers",
        f"'kind': {len(set(columns()['kind'][:54]))} categories; the 32 most frequent have a feature each",
        "'day': times",
        "'one': left out, the same in all rows",
        "'none': left out, missing in all rows",
    ]
    assert "'day': times" in capsys.readouterr().out
    np.testing.assert_array_equal(model.predict(columns()), fitted.predict(columns()))
    assert model.score(table, "seconds") == fitted.score(columns(), y())
    assert model.target_ == "seconds"


def test_a_named_target_is_no_feature():
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({**columns(), "seconds": y()})
    model = ValueRegressor(epochs=1).fit(table, table["seconds"])
    assert "seconds" not in model.features_.columns
    assert model.predict(table.drop(columns="seconds")).tolist() == model.predict(table).tolist()


def test_one_value_is_learned():
    table, same = columns(), np.full(N, 7.0)
    for model in (ValueRegressor(epochs=3), FlowTimeRegressor(**ROLES, epochs=3)):
        assert np.isfinite(model.fit(table, same).predict(table)).all()


def test_columns_by_place():
    r = np.random.default_rng(0)
    x = r.normal(size=(40, 3))
    pd = pytest.importorskip("pandas")
    frame, target = pd.DataFrame(x, columns=["a", "b", "c"]), np.exp(x[:, 0])
    named, plain = ValueRegressor(epochs=2).fit(frame, target), ValueRegressor(epochs=2).fit(x, target)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        np.testing.assert_array_equal(named.predict(x), plain.predict(x))
    with pytest.warns(UserWarning, match="X has feature names, but ValueRegressor was fitted without"):
        np.testing.assert_array_equal(plain.predict(frame), plain.predict(x))
    with pytest.raises(ValueError, match="X has 2 features, but ValueRegressor is expecting 3 features as input"):
        plain.predict(x[:, :2])
    np.testing.assert_array_equal(plain.predict({"2": x[:, 2], "0": x[:, 0], "1": x[:, 1]}), plain.predict(x))
    assert not hasattr(plain, "feature_names_in_")
    with pytest.warns(DataConversionWarning):
        ValueRegressor(epochs=1).fit(x, target[:, None])
    numbered = pd.DataFrame(x)
    np.testing.assert_array_equal(ValueRegressor(epochs=2).fit(numbered, target).predict(numbered), plain.predict(x))


@pytest.mark.parametrize("make", ["pandas", "pyarrow"])
def test_columns_of_one_name(make):
    module = pytest.importorskip(make)
    table = module.DataFrame([[1, 2]] * 3, columns=["a", "a"]) if make == "pandas" else module.table([[1, 2], [3, 4]], names=["a", "a"])
    with pytest.raises(ValueError, match="X: expected columns of different names, got 'a' twice"):
        ValueRegressor(epochs=1).fit(table, [1.0] * len(table))


def test_sparse_tables():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match="X: expected a dense table, got csr_matrix: sparse data is not supported"):
        ValueRegressor(epochs=1).fit(sparse.csr_matrix(np.eye(3)), [1.0] * 3)


def test_a_rows_bytes_depend_on_its_id_and_the_seed_alone():
    table = {**columns(), "id": np.arange(N) * 10**12 + 7}
    many = {name: [c[k % N] for k in range(1000)] for name, c in table.items()}
    many["id"], many["length"] = np.arange(1000), np.random.default_rng(3).lognormal(3, 1, 1000)
    model = FlowTimeRegressor(**ROLES, row_id="id", history=True, epochs=1).fit(table, y())
    whole = model.predict_quantiles(many, n=16, seed=2)
    order = np.random.default_rng(4).permutation(1000)

    def of(rows):
        return model.predict_quantiles({name: [c[k] for k in rows] for name, c in many.items()}, n=16, seed=2)

    assert of(order).tobytes() == whole[order].tobytes()
    assert of(range(1, 8)).tobytes() == whole[1:8].tobytes()
    assert of([999]).tobytes() == whole[999:].tobytes()
    for threads in (1, 2):
        with Predictor(model, 256, threads=threads) as predict:
            assert predict(many, quantiles=[0.1, 0.5, 0.9], n=16, seed=2).tobytes() == whole.tobytes()
    assert (model.predict_quantiles(many, n=16, seed=3) != whole).any()


def test_no_rows(fitted):
    none = {name: np.asarray(c)[:0] for name, c in columns().items()}
    assert fitted.predict(none).shape == (0,)
    assert fitted.predict_quantiles(none).shape == (0, 3)
