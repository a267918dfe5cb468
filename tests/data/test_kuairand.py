"""The KuaiRand loader: nothing of a row's own or later labels in its inputs, both layouts, errors that help."""

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from ordkernels.data import kuairand, kuairand_features, n_ids

REAL = Path(__file__).resolve().parents[2] / "bench" / "data" / "kuairand_pure"
LOG = ["user_id", "video_id", "date", "hourmin", "time_ms", "is_click", "play_time_ms", "duration_ms", "tab"]
USER = [
    "user_id",
    "user_active_degree",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num",
    "fans_user_num",
    "friend_user_num",
    "register_days",
] + [f"onehot_feat{i}" for i in range(18)]
VIDEO = ["video_id", "author_id", "video_type", "upload_dt", "upload_type", "server_width", "server_height", "music_type", "tag"]


def write(file: Path, header: list[str], rows: list[list]) -> None:
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "wt", newline="") as f:
        csv.writer(f).writerows([header, *rows])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small data set in the original CSV layout: two log files, ties in time, unknown users and videos, gaps."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(400):
        day = 20220423 + i // 40 if i < 320 else 20220501 + (i - 320) // 40  # 23 and 24 April are out of range
        user, video = int(rng.integers(0, 12)), 100 + int(rng.integers(0, 9))
        rows.append([user, video, day, 1200, 10_000 + i // 2, i % 2, int(rng.integers(0, 60_000)), int(rng.integers(0, 90_000)), i % 15])
    write(tmp_path / "log_standard_4_08_to_4_21_pure.csv", LOG, rows[:150])
    write(tmp_path / "log_standard_4_22_to_5_08_pure.csv", LOG, rows[150:])
    users = [[u, "full_active", -124, 1, 5, 6, 7, 800, *([1] * 4), "", *([0.0] * 13)] for u in range(11)]  # user 11 is missing
    write(tmp_path / "user_features_pure.csv", USER, users)
    videos = [[v, 1, "NORMAL", "2022-04-10", "Web", 720.0, 1280.0, "", "9,39" if v % 2 else ""] for v in range(100, 109)]
    write(tmp_path / "video_features_basic_pure.csv.gz", VIDEO, videos)
    return tmp_path


def brute_force_history(both: dict[str, torch.Tensor], side: str, row: int, levels: np.ndarray) -> np.ndarray | None:
    earlier = (both[side] == both[side][row]) & (both["time_ms"] < both["time_ms"][row])
    y = both["y"][earlier].double().numpy()
    return np.quantile(y, levels) if len(y) else None


def joined(train: dict[str, torch.Tensor], test: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k: torch.cat((train[k], test[k])) for k in train}


def check_histories(train: dict[str, torch.Tensor], test: dict[str, torch.Tensor], rows: range | np.ndarray) -> None:
    both = joined(train, test)
    L = both["q_user"].shape[1]
    levels = (np.arange(L) + 0.5) / L
    overall = np.quantile(train["y"].double().numpy(), levels)
    for row in rows:
        for side in ("user", "item"):
            want = brute_force_history(both, side, int(row), levels)
            assert bool(both[f"has_{side}"][row]) == (want is not None)
            np.testing.assert_allclose(both[f"q_{side}"][row], overall if want is None else want, rtol=1e-5, atol=1e-5)


def test_histories_hold_strictly_earlier_events_alone(folder: Path) -> None:
    train, test = kuairand(folder)
    assert 0 < float(train["has_user"].mean()) < 1
    check_histories(train, test, range(len(train["y"]) + len(test["y"])))


def test_no_input_depends_on_the_row_or_on_later_labels(folder: Path) -> None:
    """Change the labels of one moment and of everything after it: the inputs up to then stay the same, bit for bit."""
    train, test = kuairand(folder)
    moment = int(test["time_ms"][30])
    for file in folder.glob("log_*.csv"):
        header, *rows = csv.reader(file.open())
        at, label = header.index("time_ms"), header.index("play_time_ms")
        for row in rows:
            if int(row[at]) >= moment:
                row[label] = str(999_000)
        write(file, header, rows)
    changed_train, changed_test = kuairand(folder)
    assert not torch.equal(changed_test["y"], test["y"])
    for before, after in ((train, changed_train), (test, changed_test)):
        known = before["time_ms"] <= moment
        for key in before.keys() - {"y"}:
            assert torch.equal(before[key][known], after[key][known]), key
        late = before["time_ms"] > moment
        assert torch.equal(before["dense"][late], after["dense"][late])  # no label in the dense features at all


def test_layout_and_values(folder: Path) -> None:
    train, test = kuairand(folder, quantiles=5)
    assert train["q_user"].shape == (len(train["y"]), 5)
    assert train["dense"].shape[1] == test["dense"].shape[1] == len(kuairand_features())
    assert n_ids(train, test) == (12, 9)
    both = joined(train, test)
    assert sorted(set(both["user"].tolist())) == list(range(12))
    assert sorted(set(both["item"].tolist())) == list(range(9))
    assert both["user"].dtype == both["item"].dtype == torch.int64
    for key in ("dense", "q_user", "q_item", "has_user", "has_item", "y", "duration"):
        assert both[key].dtype == torch.float32
        assert torch.isfinite(both[key]).all(), key
    mean, deviation = train["dense"].mean(0), train["dense"].std(0, correction=0)
    torch.testing.assert_close(mean, torch.zeros_like(mean), atol=1e-4, rtol=0)
    assert float(deviation.max()) < 1.001
    assert (test["dense"] <= train["dense"].max(0).values + 1e-6).all()
    duration = train["dense"][:, kuairand_features().index("log_duration")]
    assert float(torch.corrcoef(torch.stack((duration, torch.log1p(train["duration"]))))[0, 1]) > 0.9999


def test_rows_outside_the_dates_are_left_out(folder: Path) -> None:
    short, _ = kuairand(folder)
    longer, _ = kuairand(folder, train_dates=(20220401, 20220430))
    assert len(longer["y"]) == 320 > len(short["y"])


def test_both_layouts_of_the_same_data_agree(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = [r for file in sorted(folder.glob("log_*.csv")) for r in list(csv.reader(file.open()))[1:]]
    packed = tmp_path_factory.mktemp("packed")
    np.savez(packed / "interactions.npz", **{n: np.array([int(r[i]) for r in rows]) for i, n in enumerate(LOG)})
    for name in ("user_features_pure.csv", "video_features_basic_pure.csv.gz"):
        (packed / name).write_bytes((folder / name).read_bytes())
    for a, b in zip(kuairand(folder), kuairand(packed), strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert torch.equal(a[key], b[key]), key


def test_byte_order_marks_and_blank_lines_do_not_matter(folder: Path) -> None:
    before = kuairand(folder)
    for file in folder.glob("*.csv"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes() + b"\n\n")
    for a, b in zip(before, kuairand(folder), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)


def test_missing_data_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no interactions\.npz.*kuairand\.com.*path="):
        kuairand(tmp_path)


def test_missing_feature_file_and_column_are_named(folder: Path) -> None:
    (folder / "user_features_pure.csv").rename(folder / "elsewhere.csv")
    with pytest.raises(FileNotFoundError, match=r"user_features_pure\.csv"):
        kuairand(folder)
    (folder / "elsewhere.csv").rename(folder / "user_features_pure.csv")
    write(folder / "log_standard_4_22_to_5_08_pure.csv", LOG[:-2], [[1] * (len(LOG) - 2)])
    with pytest.raises(ValueError, match="expected the columns duration_ms, tab, once each, got 'user_id'"):
        kuairand(folder)


def test_features_are_read_by_name_and_refused_without_one(folder: Path) -> None:
    before = kuairand(folder)
    file = folder / "user_features_pure.csv"
    header, *rows = csv.reader(file.open())
    write(file, header[::-1], [row[::-1] for row in rows])
    for a, b in zip(before, kuairand(folder), strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    write(file, header[:2], [row[:2] for row in rows])
    with pytest.raises(ValueError, match=r"expected the columns is_live_streamer, .*follow_user_num, .*onehot_feat17, once each"):
        kuairand(folder)
    write(file, header, [[*row[:7], "many", *row[8:]] for row in rows])
    with pytest.raises(ValueError, match="register_days: expected numbers, got 'many' in row 0"):
        kuairand(folder)


def test_a_log_that_lies_there_twice_is_read_once(folder: Path) -> None:
    before = kuairand(folder)
    for file in list(folder.glob("log_*.csv")):
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        (folder / f"{file.name}.bak").write_bytes(file.read_bytes())
    for _ in range(2):
        for a, b in zip(before, kuairand(folder), strict=True):
            assert all(torch.equal(a[key], b[key]) for key in a)
        for file in folder.glob("log_*.csv"):
            file.unlink()


@pytest.mark.parametrize(("cell", "message"), [("", "a missing one"), ("1.5", "expected whole numbers, got 1.5"), ("1_0", "got '1_0'")])
def test_cells_of_the_log_that_are_no_whole_numbers_are_named(folder: Path, cell: str, message: str) -> None:
    file = folder / "log_standard_4_22_to_5_08_pure.csv"
    header, *rows = csv.reader(file.open())
    rows[3][header.index("duration_ms")] = cell
    write(file, header, rows)
    with pytest.raises(ValueError, match=f"duration_ms: .*{message}.* in row 3"):
        kuairand(folder)


def test_bad_arguments_are_named(folder: Path) -> None:
    with pytest.raises(ValueError, match="quantiles: expected a whole number of at least 1, got 0"):
        kuairand(folder, quantiles=0)
    with pytest.raises(ValueError, match="train_dates"):
        kuairand(folder, train_dates=(20220425, 20220503))
    with pytest.raises(ValueError, match="train_dates: expected dates that occur"):
        kuairand(folder, train_dates=(20210101, 20210102))


@pytest.mark.slow
@pytest.mark.skipif(not REAL.is_dir(), reason="the real data is not in this checkout")
def test_real_data_against_known_facts() -> None:
    train, test = kuairand(REAL)
    assert (len(train["y"]), len(test["y"])) == (94_784, 133_545)
    assert n_ids(train, test) == (25_156, 6_361)
    both = joined(train, test)
    assert float((both["y"] == 0).double().mean()) == pytest.approx(0.0975, abs=5e-5)
    assert float(both["y"].double().median()) == pytest.approx(4.611, abs=1e-3)
    assert float(train["has_user"].mean()) == pytest.approx(0.77, abs=0.01)
    assert float(test["has_user"].mean()) == pytest.approx(0.97, abs=0.01)
    tab_median = {int(t): float(train["y"][train["tab"] == t].double().quantile(0.5)) for t in train["tab"].unique()}
    overall = float(train["y"].median())
    guess = torch.tensor([tab_median.get(t, overall) for t in test["tab"].tolist()])
    assert float((guess - test["y"]).abs().mean()) == pytest.approx(19.29, abs=0.01)
    check_histories(train, test, np.random.default_rng(1).integers(0, len(both["y"]), 60))
