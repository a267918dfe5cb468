"""Long histories and sessions: nothing of a row's own moment or later in them, by brute force."""

import csv
from pathlib import Path

import numpy as np
import pytest

from ordkernels.data import kuairand_sessions, n_ids
from ordkernels.data._kuairand_features import USER_COLUMNS, VIDEO_COLUMNS
from ordkernels.data.sessions import user_log

REAL = Path(__file__).resolve().parents[2] / "bench" / "data" / "kuairand_pure"
LOG = ["user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "play_time_ms", "duration_ms", "tab"]
HOUR = 3_600_000


def log(n, seed, users=5):
    """Ties in time, gaps of every length, in no order."""
    rng = np.random.default_rng(seed)
    time = np.cumsum(rng.choice([0, 1000, HOUR // 2, HOUR // 2 + 1, HOUR], n, p=[0.2, 0.4, 0.1, 0.1, 0.2]))
    order = rng.permutation(n)
    return rng.integers(0, users, n), rng.integers(0, 30, n), time[order], rng.random((n, 2))


def brute(row, user, item, time, signals, past, sessions, items, long, current, grow):
    """Of one row, from the definition."""
    mine = np.flatnonzero(user == user[row])
    mine = mine[np.argsort(time[mine], kind="stable")]
    cut, groups = [], []
    for i in mine:
        if not cut or time[i] - time[cut[-1]] > HOUR // 2:
            cut = []
            groups.append(cut)
        cut.append(i)
    own = next(g for g in groups if row in g)
    seen = [[i for i in g if time[i] < time[row]] for g in groups if current or g is not own]
    seen = [g for g in seen if g][-sessions:]
    ids, feedback = np.zeros((sessions, items)), np.zeros((sessions, items, 3))
    for k, g in enumerate(seen, start=sessions - len(seen)):
        for j, i in enumerate(g[-items:]):
            ids[k, j] = item[i] + 1
            feedback[k, j] = [*signals[i], np.log1p((time[row] - time[i]) / HOUR)]
    history = [*past, *(item[i] for i in mine if grow and time[i] < time[row])][-long:]
    return ids, feedback, history


@pytest.mark.parametrize(("current", "grow"), [(True, True), (False, True), (True, False)])
def test_histories_and_sessions_by_brute_force(current, grow):
    user, item, time, signals = log(150, 1)
    past_user, past_item = np.array([3, 0, 3, 3, 4]), np.array([40, 41, 42, 43, 44])
    how = {"sessions": 3, "items": 2, "long": 6}
    out = user_log(user, item, time, signals, past_user, past_item, current=current, grow=grow, **how)
    for row in range(len(user)):
        past = past_item[past_user == user[row]]
        ids, feedback, history = brute(row, user, item, time, signals, past, *how.values(), current, grow)
        np.testing.assert_array_equal(out["sessions"][row], ids)
        np.testing.assert_allclose(out["feedback"][row], feedback, rtol=1e-5)
        assert out["long_length"][row] == len(history)
        assert out["long"][row].tolist() == [i + 1 for i in history] + [0] * (6 - len(history))


def test_nothing_at_the_rows_own_moment_or_later_is_read():
    user, item, time, signals = log(120, 2, users=2)
    how = {"sessions": 3, "items": 4, "long": 20}
    before = user_log(user, item, time, signals, **how)
    row = int(np.argsort(time)[70])
    later = time >= time[row]
    other = np.where(later, item + 50, item)
    after = user_log(user, other, time, np.where(later[:, None], 7.0, signals), **how)
    for name in before:
        np.testing.assert_array_equal(before[name][row], after[name][row])
    assert any((before["long"][i] != after["long"][i]).any() for i in np.flatnonzero(later))


def test_logs_of_one_row_and_of_none():
    one = user_log(np.array([0]), np.array([3]), np.array([5]), np.ones((1, 2)), sessions=2, items=2, long=3)
    assert not one["sessions"].any()
    assert not one["long"].any()
    none = np.zeros(0, dtype=np.int64)
    out = user_log(none, none, none, np.zeros((0, 2)), sessions=2, items=3, long=4)
    assert {k: v.shape for k, v in out.items()} == {
        "sessions": (0, 2, 3), "feedback": (0, 2, 3, 3), "long_length": (0,), "long": (0, 4),
    }  # fmt: skip
    with pytest.raises(ValueError, match="long: expected a whole number of at least 1, got 0"):
        user_log(none, none, none, np.zeros((0, 2)), sessions=1, items=1, long=0)


def write(file, header, rows):
    with open(file, "w", newline="") as f:
        csv.writer(f).writerows([header, *rows])


@pytest.fixture
def folder(tmp_path):
    """KuaiRand's original layout: the days before the training days are the histories."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(300):
        day = 20220423 + min(i // 30, 7) if i < 240 else 20220501
        rows.append([int(rng.integers(0, 6)), 100 + int(rng.integers(0, 20)), day, 1200, 10_000 + i // 2 * 400_000, i % 2,
                     int(rng.integers(0, 60_000)), 9000, i % 15])  # fmt: skip
    write(tmp_path / "log_standard_all.csv", LOG, rows)
    user = {"user_id": 0, "user_active_degree": "full_active"} | {column.name: 1 for column in USER_COLUMNS[1:]}
    write(tmp_path / "user_features_pure.csv", list(user), [[u, *list(user.values())[1:]] for u in range(6)])
    video = {"video_id": 0, "upload_type": "Web"} | {column.name: 1 for column in VIDEO_COLUMNS[1:]}
    write(tmp_path / "video_features_basic_pure.csv", list(video), [[v, *list(video.values())[1:]] for v in range(100, 120)])
    return tmp_path


def test_kuairand_in_its_own_layout(folder):
    train, test = kuairand_sessions(folder, sessions=2, items=3, long=8)
    assert len(train["y"]) == 180
    assert len(test["y"]) == 60
    with open(folder / "log_standard_all.csv") as f:
        rows = [[int(v) for v in line] for line in list(csv.reader(f))[1:]]
    video = {int(i): int(v) for part in (train, test) for i, v in zip(part["item"], part["video_id"], strict=True)}
    for part in (train, test):
        for b in range(0, len(part["y"]), 7):
            user, time = int(part["user_id"][b]), int(part["time_ms"][b])
            want = [r[1] for r in rows if r[0] == user and r[4] < time][-8:]
            got = [video.get(int(i) - 1) for i in part["long"][b] if i > 0]
            assert len(got) == len(want)
            assert all(g in (w, None) for g, w in zip(got, want, strict=True))
            mine = next(r for r in rows if r[0] == user and r[4] == time and r[1] == int(part["video_id"][b]))
            assert float(part["click"][b]) in {r[5] for r in rows if r[:2] == mine[:2] and r[4] == time}
    users, items = n_ids(train, test)
    assert items >= max(int(train["long"].max()), int(test["sessions"].max()))
    assert users == 6


@pytest.mark.skipif(not (REAL / "interactions.npz").is_file(), reason="bench/data/kuairand_pure is not there")
def test_packed_histories_must_not_hold_the_future():
    with pytest.raises(ValueError, match="train_dates: expected 20220425 or later"):
        kuairand_sessions(REAL, train_dates=(20220424, 20220430), sessions=1, items=1, long=1)
