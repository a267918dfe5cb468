"""Histories and sessions of a table's own log: strictly earlier training events alone, whatever rows are scored together."""

import pickle

import numpy as np
import pytest

from ordkernels.data.sessions import user_log
from ordkernels.estimators import FlowTimeRegressor, IFusionRegressor
from ordkernels.estimators._columns import table_columns
from ordkernels.estimators._past import Pasts

N = 200
UNKNOWN = 6


def log():
    r = np.random.default_rng(0)
    return {
        "user": r.integers(0, 8, N), "item": r.integers(0, 20, N), "time": np.sort(r.integers(0, 40_000, N)), "length": r.random(N),
        "click": r.integers(0, 2, N),
    }  # fmt: skip


def target():
    return np.random.default_rng(1).lognormal(1, 1, N)


def ifusion(**options):
    return IFusionRegressor(user="user", item="item", time="time", epochs=1, options={"latent": 8, "attention_heads": 2, **options})


def batch(model, table):
    return model.features_.batch(table_columns(table), N)


def test_quantiles_of_every_past():
    r = np.random.default_rng(0)
    group, time, y = r.integers(0, 7, 300), r.integers(0, 50, 300), r.random(300)
    pasts, levels = Pasts(group, time, UNKNOWN), np.array([0.1, 0.5, 0.9])
    of_group, of_time = r.integers(0, 7, 150), np.where(np.arange(150) % 3, r.uniform(-2, 53, 150), r.integers(0, 50, 150))
    found = pasts.quantiles(pasts.table(y, levels), of_group, of_time)
    for k in range(150):
        past = y[(group == of_group[k]) & (time < of_time[k])]
        none = of_group[k] == UNKNOWN or not len(past)
        np.testing.assert_allclose(found[k], [np.nan] * 3 if none else np.quantile(past, levels), rtol=1e-6)


def test_no_events_no_past():
    none = np.zeros(0, dtype=np.int64)
    pasts = Pasts(none, none, 0)
    assert np.isnan(pasts.quantiles(pasts.table(none.astype(float), np.array([0.5])), np.array([0]), np.array([3]))).all()


@pytest.mark.parametrize("current", [True, False])
def test_rows_see_the_log_as_if_each_were_its_last_event(current):
    r = np.random.default_rng(2)
    how = {"sessions": 3, "items": 2, "long": 4, "gap_ms": 20, "current": current}
    user, item, time, signals = r.integers(0, 4, 60), r.integers(0, 9, 60), r.integers(0, 400, 60), r.random((60, 2))
    of_user, of_time = r.integers(-1, 6, 40), r.integers(-5, 450, 40)
    found = user_log(user, item, time, signals, **how, of_user=of_user, of_time_ms=of_time)
    for k in range(40):
        one = user_log(
            np.append(user, of_user[k]), np.append(item, 0), np.append(time, of_time[k]), np.append(signals, np.zeros((1, 2)), 0), **how
        )
        for name, column in one.items():
            np.testing.assert_array_equal(found[name][k], column[-1])


def test_one_of_two_is_refused():
    none = np.zeros(0, dtype=np.int64)
    with pytest.raises(ValueError, match="of_user, of_time_ms: expected both or neither"):
        user_log(none, none, none, np.zeros((0, 1)), sessions=1, items=1, long=1, of_user=none)


def test_sessions_are_of_strictly_earlier_events():
    table, y = log(), target()
    model = ifusion()
    model.validation_fraction = 0.0
    found = batch(model.fit(table, y), table)
    ids, row = model.features_.ids, N - 1
    past = [k for k in range(N) if table["user"][k] == table["user"][row] and table["time"][k] < table["time"][row]]
    expected = [ids["item"][str(table["item"][k])] + 1 for k in past]
    assert found["long"][row][: len(past)].tolist() == expected[-50:]
    session = [past[-1]]
    while len(session) < len(past) and table["time"][session[0]] - table["time"][past[-len(session) - 1]] <= 1800:
        session.insert(0, past[-len(session) - 1])
    session = session[-5:]
    assert found["sessions"][row, -1, : len(session)].tolist() == [ids["item"][str(table["item"][k])] + 1 for k in session]
    np.testing.assert_allclose(found["feedback"][row, -1, : len(session), 0], np.log1p(y[session] / y.mean()), rtol=1e-6)
    hours = (table["time"][row] - table["time"][session]) / 3600
    np.testing.assert_allclose(found["feedback"][row, -1, : len(session), 1], np.log1p(hours), rtol=1e-5)


def test_later_targets_change_nothing():
    table, y, other = log(), target(), target()
    late = table["time"] >= table["time"][150]
    other[late] *= 3
    a, b = ifusion(), ifusion()
    a.validation_fraction = b.validation_fraction = 0.0
    a, b = batch(a.fit(table, y), table), batch(b.fit(table, other), table)
    early = ~late
    np.testing.assert_array_equal(a["sessions"][early], b["sessions"][early])
    np.testing.assert_allclose(a["feedback"][early, ..., 0] * 0 + a["feedback"][early, ..., 1], b["feedback"][early, ..., 1])


@pytest.mark.parametrize("make", [ifusion, lambda: FlowTimeRegressor(user="user", item="item", time="time", history=True, epochs=1)])
def test_rows_are_scored_alike_alone_and_together(make):
    table = log()
    model = make().fit(table, target())
    whole = batch(model, table)
    part = model.features_.batch({name: c.rows([7, 190]) for name, c in table_columns(table).items()}, 2)
    for name, values in part.items():
        np.testing.assert_array_equal(values, whole[name][[7, 190]], err_msg=name)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(table), model.predict(table))


def test_clicks_where_asked_for():
    table = log()
    model = ifusion(click="click").fit(table, target())
    assert "click" not in model.features_.columns
    without = {name: c for name, c in table.items() if name != "click"}
    p = model.predict_click(without)
    assert p.shape == (N,)
    assert ((p > 0) & (p < 1)).all()
    with pytest.raises(ValueError, match="options: expected the column 'click' in training"):
        ifusion().fit(without, target()).predict_click(without)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"sessions": 0}, "sessions: expected a whole number of at least 1, got 0"),
        ({"session_items": "x"}, "session_items: expected a whole number of at least 1, got 'x'"),
        ({"session_gap": -1}, "session_gap: expected seconds above 0, got -1"),
        ({"click": "none"}, "click: expected the name of a column .*, got 'none'"),
        ({"click": "item"}, "column 'item': expected 0 or 1 in every row, got [0-9]+ at row 0"),
    ],
)
def test_wrong_options(options, text):
    with pytest.raises(ValueError, match=text):
        ifusion(**options).fit(log(), target())


def test_the_log_is_kept_on_disk(tmp_path):
    pytest.importorskip("safetensors")
    model = ifusion(click="click").fit(log(), target())
    model.predict(log())
    model.save_pretrained(tmp_path / "model")
    again = IFusionRegressor.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(again.predict(log()), model.predict(log()))
