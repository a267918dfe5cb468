"""`Predictor`: a row's bytes depend on the row, its id and the seed alone; containers, statistics, errors."""

import pickle

import numpy as np
import pytest
import torch
from test_model_dtypes import MODELS, prepare, table

import ordkernels
from ordkernels import Predictor, models
from ordkernels.models import GenerativeRegression

N = 150
GENERATIVE = ["FlowTime", "DiffoR", "GenerativeRegression", "IFusion"]


def rows_of(model, dtype=torch.float32):
    """N rows with features of their own, as NumPy arrays; a name for each is its id."""
    g = torch.Generator().manual_seed(1)
    rows = {name: c for name, c in table().items() if name not in ("y", "click", "row_ids")}
    rows = {name: c[torch.randint(len(c), (N,), generator=g)] for name, c in rows.items()}
    rows["dense"] = torch.randn(N, 3, generator=g)
    keys = [k for k in getattr(model, "batch_keys", rows) if k in rows]
    return {name: rows[name].numpy() for name in keys}


def made(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    prepare(model, table())
    return model.eval()


def of_default_width(name):
    sizes = {"n_users": 7, "n_items": 9, "dense_width": 3, "quantiles": 5}
    more = {"sessions": 3, "long": 6, "feedback_width": 2} if name == "IFusion" else {}
    torch.manual_seed(0)
    model = getattr(models, name)(**sizes, **more)
    model.prepare(table())
    return model.eval()


def chosen(rows, which):
    return {name: a[which] for name, a in rows.items()}


def same_bytes_however_split(predict, one_thread, rows, ids, **arguments):
    expected = predict(rows, row_ids=ids, **arguments)
    order = np.random.default_rng(2).permutation(N)
    assert predict(chosen(rows, order), row_ids=ids[order], **arguments).tobytes() == expected[order].tobytes()
    for size in (1, 7, 60):
        for start in (0, 49, N - size):
            part = slice(start, start + size)
            found = predict(chosen(rows, part), row_ids=ids[part], **arguments)
            assert found.tobytes() == expected[part].tobytes()
    assert one_thread(rows, row_ids=ids, **arguments).tobytes() == expected.tobytes()
    return expected


@pytest.mark.parametrize("name", GENERATIVE)
def test_bytes_belong_to_the_row(name):
    model, ids = of_default_width(name), np.arange(N) * 10**10 + 3
    rows = rows_of(model)
    with Predictor(model, 64, threads=2) as two, Predictor(model, 64, threads=1) as one:
        found = same_bytes_however_split(two, one, rows, ids, n=8, seed=5)
        quantiles = two(rows, row_ids=ids, quantiles=[0.2, 0.5], n=8, seed=5)
        samples = two(rows, row_ids=ids, statistic="samples", n=8, seed=5)
    x = {name: torch.from_numpy(a) for name, a in rows.items()}
    np.testing.assert_allclose(found, model.predict(x, 8, 5, torch.from_numpy(ids)).numpy(), rtol=2e-4, atol=1e-4)
    assert quantiles.shape == (N, 2)
    np.testing.assert_allclose(quantiles[:, 1], found, rtol=1e-6)
    assert samples.shape == (N, 8)


@pytest.mark.parametrize("name", ["ValueRegression", "CREAD", "TPM", "WLR", "D2Q", "EGMN", "TableRegression", "TableClassifier"])
def test_baselines(name):
    model = made(name)
    rows, ids = rows_of(model), np.arange(N)
    with Predictor(model, 64, threads=2) as two, Predictor(model, 64, threads=1) as one:
        found = same_bytes_however_split(two, one, rows, ids)
        with pytest.raises(ValueError, match=f"quantiles: expected None, {name} makes no draws"):
            two(rows, quantiles=[0.5])
    expected = model.predict({name: torch.from_numpy(a) for name, a in rows.items()})
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4)


@pytest.mark.parametrize("name", ["FlowTimeRegressor", "GRRegressor", "ValueRegressor"])
def test_estimators(name):
    estimators = pytest.importorskip("ordkernels.estimators")
    r = np.random.default_rng(0)
    rows = {"user": r.integers(0, 9, N), "when": np.sort(r.integers(0, 10**6, N)), "length": r.lognormal(3, 1, N),
            "kind": r.choice(["a", "b"], N)}  # fmt: skip
    model = getattr(estimators, name)(user="user", time="when", history=True, epochs=1, capacity="length").fit(rows, rows["length"] / 2)
    ids = np.arange(N) + 10**12
    with Predictor(model, 64, threads=2) as two, Predictor(model, 64, threads=1) as one:
        found = same_bytes_however_split(two, one, rows, ids)
        np.testing.assert_allclose(two(rows), model.predict(rows), rtol=1e-4)
        if name != "ValueRegressor":
            q = two(rows, quantiles=[0.1, 0.9], n=16)
            np.testing.assert_allclose(q, model.predict_quantiles(rows, [0.1, 0.9], n=16), rtol=1e-4)
    assert found.dtype == np.float64


def test_containers():
    pa = pytest.importorskip("pyarrow")
    model = made("FlowTime")
    rows = rows_of(model)
    with Predictor(model, 64, threads=1) as predict:
        expected, q = predict(rows, n=8), predict(rows, quantiles=[0.1, 0.9], n=8)
        tensors = predict({name: torch.from_numpy(a) for name, a in rows.items()}, n=8)
        assert isinstance(tensors, torch.Tensor)
        np.testing.assert_array_equal(tensors.numpy(), expected)
        arrow = pa.table({name: a.tolist() for name, a in rows.items()})  # double, and lists
        assert predict(arrow, n=8).equals(pa.array(expected))
        assert predict(arrow, quantiles=[0.1, 0.9], n=8).to_pylist() == q.tolist()
        objects = {name: a if a.ndim == 1 else np.fromiter(iter(a), object, N) for name, a in rows.items()}
        np.testing.assert_array_equal(predict({**objects, "user": rows["user"].tolist()}, n=8), expected)
        assert predict(chosen(rows, slice(0, 0))).shape == (0,)
        assert predict(chosen(rows, slice(0, 0)), quantiles=[0.5]).shape == (0, 1)
        nulls = arrow.set_column(arrow.column_names.index("user"), "user", pa.array([None] * N, pa.int64()))
        with pytest.raises(ValueError, match=f"user: expected no missing values, got {N}"):
            predict(nulls)


def test_statistics_threads_and_copies():
    model = made("GenerativeRegression")
    rows = rows_of(model)
    before = torch.get_num_threads()
    with Predictor(model, batch_size=10, threads=2) as predict:
        assert predict.batch_size == 64
        assert predict.warm_up(chosen(rows, slice(0, 3)), n=8) is predict
        assert torch.get_num_threads() == before
        greedy = predict(rows, statistic="greedy")
        np.testing.assert_allclose(greedy, model.predict({k: torch.from_numpy(a) for k, a in rows.items()}, statistic="greedy"), rtol=1e-5)
        np.testing.assert_array_equal(predict(rows, n=1000), predict(rows, n=1000, row_ids=range(N)))
        mean = predict(rows, statistic="mean", n=8)
        with ordkernels.use_backend("reference"):
            np.testing.assert_allclose(predict(rows, statistic="greedy"), greedy, rtol=1e-3)
        with ordkernels.use_backend("cuda"), pytest.raises((RuntimeError, ValueError), match="cuda"):
            predict(rows)
        with pickle.loads(pickle.dumps(predict)) as copied:
            np.testing.assert_array_equal(copied(rows, statistic="mean", n=8), mean)
    assert not model.training


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"statistic": "mode"}, ValueError, "statistic: expected"),
        ({"statistic": "mean", "quantiles": [0.5]}, ValueError, "statistic: expected None with quantiles, got 'mean'"),
        ({"quantiles": [1.5]}, ValueError, "quantiles: expected"),
        ({"n": 0}, ValueError, "n: expected"),
        ({"row_ids": [1, 2]}, ValueError, r"row_ids: expected shape \[B\] = \[150\], got \[2\]"),
        ({"row_ids": np.zeros(N)}, TypeError, "row_ids: expected"),
    ],
)
def test_arguments(arguments, error, text):
    model = GenerativeRegression(dense_width=3)
    with Predictor(model, 64, threads=1) as predict, pytest.raises(error, match=text):
        predict(rows_of(model), **arguments)


def test_wrong_models_and_rows():
    with pytest.raises(TypeError, match=r"model: expected one of ordkernels\.models or a fitted estimator, got str"):
        Predictor("model")
    with pytest.raises(TypeError, match=r"model: expected one of ordkernels\.models or a fitted estimator, got Linear"):
        Predictor(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="batch_size: expected"):
        Predictor(GenerativeRegression(dense_width=3), 0)
    with Predictor(GenerativeRegression(dense_width=3), threads=1) as predict:
        with pytest.raises(TypeError, match="rows: expected a dict or Arrow table of columns, got int"):
            predict(3)
        with pytest.raises(TypeError, match="dense: expected numbers, as many in each row, got list"):
            predict({"dense": [[1.0, 2.0], [1.0]]})
        with pytest.raises(ValueError, match="capacity: expected 4 rows as in dense, got 3"):
            predict({"dense": np.zeros((4, 3)), "capacity": np.zeros(3)})
        with pytest.raises(ValueError, match="rows: expected at least one row to warm up with, got none"):
            predict.warm_up({"dense": np.zeros((0, 3))})
