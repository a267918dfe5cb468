"""The estimators as skpro regressors: skpro's own checks, and its distributions against ours."""

import numpy as np
import pytest

from ordkernels.estimators import FlowTimeRegressor, ValueRegressor

pd = pytest.importorskip("pandas")
pytest.importorskip("skpro", reason="skpro is not installed: pip install 'ordkernels[skpro]'")

from ordkernels.adapters.skpro import ProbaRegressor  # noqa: E402

N = 30


def table():
    r = np.random.default_rng(0)
    X = pd.DataFrame({"length": r.lognormal(1, 1, N), "kind": r.choice(["a", "b"], N)}, index=np.arange(N) + 100)
    return X, pd.DataFrame({"seconds": X["length"] * r.random(N)})


def test_skpros_checks():
    from skpro.utils import check_estimator

    found = check_estimator(ProbaRegressor, verbose=False)
    assert {name: result for name, result in found.items() if result != "PASSED"} == {}
    assert len(found) > 40


def test_its_distributions_are_our_draws():
    X, y = table()
    model = ProbaRegressor(FlowTimeRegressor(epochs=1), n=64, seed=3).fit(X, y)
    ours = FlowTimeRegressor(epochs=1).fit(X, y.to_numpy()[:, 0]).predict_proba(X, n=64, seed=3)
    d = model.predict_proba(X)
    assert d.index.equals(X.index)
    assert list(d.columns) == ["seconds"]
    np.testing.assert_allclose(d.mean().to_numpy()[:, 0], ours.mean())
    q = d.ppf(0.3).to_numpy()[:, 0]
    assert (np.abs(ours.draws - q[:, None]).min(axis=1) < 1e-12).all()
    np.testing.assert_allclose(ours.cdf(q), np.ceil(0.3 * 64) / 64, atol=1 / 64)
    interval = model.predict_interval(X, coverage=[0.8])
    assert interval.shape == (N, 2)
    assert (interval.iloc[:, 0] <= interval.iloc[:, 1]).all()


def test_estimators_without_draws():
    with pytest.raises(TypeError, match="estimator: expected a GenerativeRegressor, got ValueRegressor"):
        ProbaRegressor(ValueRegressor()).fit(*table())
