"""CRPS and group quantiles of other packages under ``swap_in("package")``: the same results, types, labels, errors and warnings."""

import importlib.util

import numpy as np
import pytest
import torch
from same_results import compare

_WITHOUT_NUMBA = importlib.util.find_spec("numba") is None
RNG = np.random.default_rng(0)


# --- CRPS


def ensembles(kind):
    y, x = RNG.normal(size=(5, 4)), RNG.normal(size=(5, 4, 7))
    return {
        "random": (y, x, {}),
        "axis": (y, np.moveaxis(x, -1, 0), {"axis": 0}),
        "inner axis": (y, np.moveaxis(x, -1, 1), {"axis": 1}),
        "sorted": (y, np.sort(x), {"sorted": True}),
        "tied": (np.round(y), np.round(x), {}),
        "strided": (y[::-1], x[::-1, :, ::2], {}),
        "one row": (y[0, 0], x[0, 0], {}),
        "fp32": (y.astype(np.float32), x.astype(np.float32), {}),
        "mixed": (y, x.astype(np.float32), {}),
    }[kind]


ENSEMBLES = ["random", "axis", "inner axis", "sorted", "tied", "strided", "one row", "fp32", "mixed"]


@pytest.mark.parametrize("kind", [*ENSEMBLES, "int"])
def test_properscoring(kind):
    ps = pytest.importorskip("properscoring")
    y, x, options = (RNG.integers(0, 9, 5), RNG.integers(0, 9, (5, 7)), {}) if kind == "int" else ensembles(kind)
    options = {"issorted" if k == "sorted" else k: v for k, v in options.items()}
    rtol = 1e-6 if kind == "fp32" else 1e-14
    served = kind != "mixed" or not _WITHOUT_NUMBA
    assert compare("properscoring", lambda: ps.crps_ensemble(y, x, **options), rtol) == served


def test_properscoring_left_to_the_original():
    ps = pytest.importorskip("properscoring")
    y, x, _ = ensembles("random")
    for call in (
        lambda: ps.crps_ensemble(y, np.where(x > 1, np.nan, x)),
        lambda: ps.crps_ensemble(np.where(y > 1, np.nan, y), x),
        lambda: ps.crps_ensemble(y, x, weights=np.abs(x)),
        lambda: ps.crps_ensemble(y, x[..., 0]),
        lambda: ps.crps_ensemble(y[1:], x),
        lambda: ps.crps_ensemble(y, x, axis=9),
        lambda: ps.crps_ensemble(y[:0], x[:0]),
        lambda: ps.crps_ensemble(y.astype(np.float16), x.astype(np.float16)),
    ):
        assert compare("properscoring", call) == 0


@pytest.mark.parametrize("estimator", ["nrg", "fair", "pwm", "qd", "int"])
@pytest.mark.parametrize("kind", ENSEMBLES)
def test_scoringrules(kind, estimator):
    sr = pytest.importorskip("scoringrules")
    y, x, options = ensembles(kind)
    if estimator == "int" and kind == "inner axis":
        x, options = np.moveaxis(x, 1, -1), {}
    options = {{"axis": "m_axis", "sorted": "sorted_ensemble"}[k]: v for k, v in options.items()}
    rtol = 1e-6 if kind == "fp32" else 1e-14

    def on(backend):
        return lambda: sr.crps_ensemble(y, x, estimator=estimator, backend=backend, **options)

    assert compare("scoringrules", on("numpy"), rtol) == (kind != "mixed")
    assert compare("scoringrules", on(None), rtol) == (kind != "mixed")
    y, x = torch.tensor(y.copy()), torch.tensor(x.copy())
    assert compare("scoringrules", on("torch"), rtol) == (kind != "mixed" and estimator != "int")


def test_scoringrules_left_to_the_original():
    sr = pytest.importorskip("scoringrules")
    y, x, _ = ensembles("random")
    t, s = torch.tensor(y, requires_grad=True), torch.tensor(x)
    for call in (
        lambda: sr.crps_ensemble(y, x, estimator="akr"),
        lambda: sr.crps_ensemble(y, x, estimator="akr_circperm"),
        lambda: sr.crps_ensemble(y, x, estimator="none"),
        lambda: sr.crps_ensemble(y, x, ens_w=np.abs(x)),
        lambda: sr.crps_ensemble(y, np.where(x > 1, np.nan, x)),
        lambda: sr.crps_ensemble(y[1:], x),
        lambda: sr.crps_ensemble(y, x, sorted_ensemble=True),
        lambda: sr.crps_ensemble(y, x[..., :1], estimator="fair"),
        lambda: sr.crps_ensemble(y.astype(int), x.astype(int)),
        lambda: sr.crps_ensemble(t, s, backend="torch", estimator="nrg"),
    ):
        assert compare("scoringrules", call) == 0


def test_xskillscore():
    xs, xr = pytest.importorskip("xskillscore"), pytest.importorskip("xarray")
    y, x, _ = ensembles("random")
    y = xr.DataArray(y, dims=("lead", "cell"), coords={"cell": list("abcd")}, attrs={"unit": "s"})
    x = xr.DataArray(x, dims=("lead", "cell", "member"), coords={"cell": list("abcd")})
    hollow = x.where(x < 1)
    weights = xr.DataArray(np.arange(1.0, 5), dims="cell")

    def values(f):
        def call():
            out = f()
            assert isinstance(out, (xr.DataArray, xr.Dataset))
            return repr(out.dims), repr(dict(out.attrs)), *(np.asarray(v) for v in (out.values() if hasattr(out, "data_vars") else [out]))

        return call

    assert compare("xskillscore", values(lambda: xs.crps_ensemble(y, x)), 1e-14) == 1
    assert compare("xskillscore", values(lambda: xs.crps_ensemble(y, x, dim="lead", keep_attrs=True)), 1e-14) == 1
    assert compare("xskillscore", values(lambda: xs.crps_ensemble(y, x, dim=[])), 1e-14) == 1
    assert compare("xskillscore", values(lambda: xs.crps_ensemble(y, x, dim="cell", weights=weights)), 1e-14) == 1
    sets = xr.Dataset({"a": y, "b": y + 1}), xr.Dataset({"a": x, "b": x})
    assert compare("xskillscore", values(lambda: xs.crps_ensemble(*sets, dim="lead")), 1e-14) == 1
    assert compare("xskillscore", values(lambda: xs.crps_ensemble(y, hollow)), 1e-14) == 0
    assert compare("xskillscore", lambda: xs.crps_ensemble(y, x, member_dim="none")) == 0


# --- pandas


def frame(pd, n=300):
    return pd.DataFrame(
        {
            "user": RNG.integers(0, 20, n),
            "day": pd.Categorical(RNG.choice(list("abc"), n), categories=list("abcd")),
            "x": np.where(RNG.random(n) < 0.1, np.nan, RNG.normal(size=n)),
            "n": RNG.integers(0, 9, n),
        }
    )


@pytest.mark.parametrize(
    "of",
    [
        lambda f: f.groupby("user").x.quantile(),
        lambda f: f.groupby("user").x.quantile([]),
        lambda f: f.groupby("user").x.quantile([0.9, 0.1, 0.5]),
        lambda f: f.groupby("user")[["x", "n"]].quantile([0.25, 1.0]),
        lambda f: f.groupby(["user", "day"], observed=True)[["n", "x"]].quantile(0.3),
        lambda f: f.groupby("day", observed=False).x.quantile([0.0, 0.5]),
        lambda f: f.groupby("user", sort=False, as_index=False).n.quantile(0.7),
        lambda f: f.groupby(f.user.where(f.user > 3)).x.quantile(0.7),
        lambda f: f.groupby(f.user.where(f.user > 3), dropna=False).x.quantile(0.7),
        lambda f: f.groupby("user").quantile(0.5, numeric_only=True),
        lambda f: f.assign(x=f.x.where(f.user > 3)).groupby("user").x.quantile([0.2, 0.4]),
        lambda f: f.iloc[:0].groupby("user").x.quantile(0.5),
        lambda f: f.groupby("user").rolling(3).x.mean().groupby("user").quantile(0.5),
    ],
)
def test_pandas(of):
    pd = pytest.importorskip("pandas")
    table = frame(pd)
    assert compare("pandas", lambda: of(table), 1e-14) == 1


@pytest.mark.parametrize(
    "of",
    [
        lambda f: f.groupby("user").x.quantile(0.5, interpolation="lower"),
        lambda f: f.groupby("user").n.quantile(0.5, interpolation="nearest"),
        lambda f: f.groupby("user").x.quantile(1.5),
        lambda f: f.groupby("user").x.quantile("half"),
        lambda f: f.groupby("user").day.quantile(0.5),
        lambda f: f.groupby("user").quantile(0.5),
        lambda f: f.assign(x=f.x.astype("Float64"), n=f.n.astype("Int64")).groupby("user")[["x", "n"]].quantile([0.2, 0.4]),
        lambda f: f.assign(x=f.x.astype(np.float32)).groupby("user").x.quantile(0.5),
        lambda f: f.assign(x=f.x.where(f.x < 1, np.inf)).groupby("user").x.quantile(0.5),
        lambda f: f.assign(n=f.n.astype(np.int8)).groupby("user").n.quantile(0.5),
        lambda f: f.assign(n=f.n + 2**60).groupby("user").n.quantile(0.5),
        lambda f: f.assign(x=f.x > 0).groupby("user").x.quantile(0.5),
        lambda f: f.assign(x=f.x.fillna(0).astype("timedelta64[ns]")).groupby("user").x.quantile(0.5),
    ],
)
def test_pandas_left_to_the_original(of):
    pd = pytest.importorskip("pandas")
    table = frame(pd)
    assert compare("pandas", lambda: of(table)) == 0
