"""`fit`, `score` and `report` as a person runs them: from a folder of their own, on files of every format, and with every mistake."""

import json
import os
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ordkernels.__main__ import main

pytest.importorskip("narwhals")
pytest.importorskip("sklearn")
pytest.importorskip("safetensors")
pa = pytest.importorskip("pyarrow")
parquet, csv, feather = (pytest.importorskip(f"pyarrow.{name}") for name in ("parquet", "csv", "feather"))

ROOT = Path(__file__).parents[1]
N = 1500


def command(*args):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return [sys.executable, "-m", "ordkernels", *map(str, args)], env


def run(*args, cwd):
    argv, env = command(*args)
    return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def table(seed=0, rows=N):
    """Watch times, as a log of a small service has them."""
    rng = np.random.default_rng(seed)
    item = rng.integers(0, 12, rows)
    return pa.table(
        {
            "event": np.arange(rows) + 10**6 * (seed + 1),
            "user": np.array([f"u{k}" for k in rng.integers(0, 40, rows)]),
            "video": item,
            "when": np.datetime64("2024-03-01", "us") + np.sort(rng.integers(0, 30 * 86400, rows)) * 10**6 + seed * 30 * 86400 * 10**6,
            "device": pa.array([None if k == 3 else ("tv", "phone, old", "1")[k] for k in rng.integers(0, 4, rows)]),
            "age": pa.array([None if k < 20 else float(k) for k in rng.integers(15, 70, rows)]),
            "paid": rng.random(rows) < 0.3,
            "seconds": rng.gamma(2, 2 + item),
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two months of a log, and a model of the first."""
    path = tmp_path_factory.mktemp("commands")
    parquet.write_table(table(), path / "may.parquet", row_group_size=400)
    csv.write_csv(table(1), path / "june.csv")
    done = run(
        "fit", "may.parquet", "--target", "seconds", "--user", "user", "--item", "video", "--time", "when", "--row-id", "event", "--epochs",
        2, "--out", "model", cwd=path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path / "printed").write_text(done.stdout)
    return path


@pytest.fixture(scope="module")
def expected(folder):
    """What the estimator itself predicts for the second month."""
    from ordkernels.estimators import FlowTimeRegressor

    return FlowTimeRegressor.from_pretrained(folder / "model").predict_quantiles(table(1), [0.1, 0.5, 0.9])


def test_fit_compares_with_the_median_and_gradient_boosting_on_later_rows(folder):
    printed = (folder / "printed").read_text()
    assert "1,200 rows to train on, 300 later ones" in printed
    scores = json.loads((folder / "model" / "validation.json").read_text())
    assert list(scores) == ["flowtime", "median", "gradient boosting"]
    held_out = table()["seconds"].to_numpy()[1200:]
    constant = np.median(table()["seconds"].to_numpy()[:1200])
    assert scores["median"]["MAE"] == pytest.approx(np.abs(held_out - constant).mean())
    assert scores["median"]["bias"] == pytest.approx((constant - held_out).mean())
    assert scores["median"]["XAUC"] == 0.5
    for name, found in scores.items():
        assert set(found) == {"MAE", "RMSE", "bias", "XAUC", "pinball", "80% covers", "width"}
        assert name in printed
        assert f"{found['MAE']:.4g}" in printed
    assert scores["gradient boosting"]["pinball"] < scores["median"]["pinball"]
    Page(folder / "model" / "validation.html").check(charts=4)


def test_a_model_of_points_trained_again_on_all_rows(tmp_path, capsys):
    csv.write_csv(table(rows=200), tmp_path / "t.csv")
    argv = ["fit", str(tmp_path / "t.csv"), "--target", "seconds", "--ignore", "event", "user", "--model", "cread", "--epochs", "1"]
    argv += ["--out", str(tmp_path / "model")]
    assert main(argv) == 0
    weights = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert main([*argv, "--overwrite", "--refit"]) == 0
    assert "trained again on all rows" in capsys.readouterr().out
    assert (tmp_path / "model" / "model.safetensors").read_bytes() != weights
    assert set(json.loads((tmp_path / "model" / "validation.json").read_text())["cread"]) == {"MAE", "RMSE", "bias", "XAUC"}
    Page(tmp_path / "model" / "validation.html").check(charts=2)
    score = ["score", str(tmp_path / "model"), str(tmp_path / "t.csv"), str(tmp_path / "p.tsv")]
    assert main([*score, "--quantiles", "0.5"]) == 2
    assert "--quantiles: expected none, CREAD predicts one number a row" in capsys.readouterr().err
    assert main(score) == 0
    assert main(["report", str(tmp_path / "p.tsv"), "--truth", "seconds"]) == 0
    page = Page(tmp_path / "p.html")
    page.check(charts=2)
    assert "There are no quantiles" in page.text


@pytest.mark.parametrize("form", ["csv", "csv.gz", "parquet", "arrow", "npz", "folder of parquet", "folder of csv"])
def test_score_reads_every_format(form, folder, expected, tmp_path):
    from ordkernels.estimators import TableRegressor

    new = table(1)
    path = tmp_path / f"june.{form.split()[-1]}"
    if form.startswith("folder"):
        path.mkdir()
        for k in range(3):
            part = new.slice(k * 500, 500)
            (parquet.write_table if form.endswith("parquet") else csv.write_csv)(part, path / f"{k}.{form.split()[-1]}")
    elif form == "csv.gz":
        with pa.CompressedOutputStream(str(path), "gzip") as file:
            csv.write_csv(new, file)
    elif form == "npz":
        arrays = {name: new[name].to_numpy() for name in new.column_names if name != "device"}
        arrays["user"] = arrays["user"].astype(str)
        arrays["device"] = np.array([v or "other" for v in new["device"].to_pylist()])  # NumPy has no missing text
        np.savez(path, **arrays)
        expected = TableRegressor.from_pretrained(folder / "model").predict_quantiles(arrays, [0.1, 0.5, 0.9])
    else:
        {"csv": csv.write_csv, "parquet": parquet.write_table, "arrow": feather.write_feather}[form](new, str(path))
    assert main(["score", str(folder / "model"), str(path), str(tmp_path / "out.npz"), "--part-rows", "400"]) == 0
    with np.load(tmp_path / "out.npz") as found:
        assert list(found) == ["event", "seconds", "prediction", "q0.1", "q0.5", "q0.9"]
        np.testing.assert_array_equal(found["event"], new["event"].to_numpy())
        np.testing.assert_array_equal(found["seconds"], new["seconds"].to_numpy())
        np.testing.assert_allclose(np.stack([found[f"q{q}"] for q in (0.1, 0.5, 0.9)], axis=1), expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(found["prediction"], found["q0.5"])


@pytest.mark.parametrize("form", ["csv", "csv.gz", "tsv", "parquet", "arrow", "feather", "npz"])
def test_score_writes_every_format(form, folder, expected, tmp_path):
    from ordkernels._tables.blocks import Table, as_array

    argv = ["score", folder / "model", folder / "june.csv", tmp_path / "out.parquet", "--samples", "2", "--keep", "device", "when"]
    assert main([*map(str, argv)]) == 0
    assert main([*map(str, [*argv[:3], tmp_path / f"out2.{form}", *argv[4:], "--part-rows", "400"])]) == 0
    whole = parquet.read_table(tmp_path / "out.parquet")
    names = ["event", "device", "when", "seconds", "prediction", "q0.1", "q0.5", "q0.9", "sample_0", "sample_1"]
    assert whole.column_names == names
    assert whole["when"].to_pylist() == table(1)["when"].to_pylist()
    blocks = Table(tmp_path / f"out2.{form}")
    assert blocks.names == names
    block = blocks.read()
    for name in names:
        found, written = as_array(block[name]), as_array(whole[name])
        np.testing.assert_array_equal(found.astype(written.dtype), written)  # text of float32 is read as float64
    assert not [p.name for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_run_killed_half_way_goes_on_to_the_same_bytes(folder, tmp_path):
    argv = ("score", folder / "model", folder / "june.csv")
    options = ("--part-rows", 100, "--samples", 3)
    assert run(*argv, "whole", *options, cwd=tmp_path).returncode == 0
    assert run(*argv, "whole.csv", *options, cwd=tmp_path).returncode == 0
    for out in ("parts", "one.csv"):
        parts = tmp_path / (out if out == "parts" else ".one.csv.parts")
        command_, env = command(*argv, out, *options)
        process = subprocess.Popen(command_, cwd=tmp_path, env=env, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while len(list(parts.glob("part-*"))) < 4 and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        there = {path: path.stat().st_mtime_ns for path in parts.glob("part-*")}
        assert 4 <= len(there) < 15
        assert not (tmp_path / "one.csv").exists()
        assert main([*map(str, (*argv, tmp_path / out, *options))]) == 0
        if out == "parts":
            assert {path: path.stat().st_mtime_ns for path in there} == there
            names = sorted(path.name for path in (tmp_path / "whole").iterdir())
            assert sorted(path.name for path in parts.iterdir()) == names
            for name in names:
                assert (parts / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
            assert parquet.read_table(parts).num_rows == N
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not (tmp_path / ".one.csv.parts").exists()


@pytest.mark.parametrize(("form", "out"), [("parquet", "out"), ("csv", "out.npz")])
def test_memory_does_not_grow_with_the_rows(form, out, folder, tmp_path):
    code = "import resource, sys\nfrom ordkernels.__main__ import main\nassert main(sys.argv[1:]) == 0\n"
    code += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    new, peaks = table(1, 12_000), []
    for times in (1, 10):
        path, env = tmp_path / f"{times}.{form}", command()[1]
        whole = pa.concat_tables([new] * times)
        parquet.write_table(whole, path, row_group_size=5000) if form == "parquet" else csv.write_csv(whole, path)
        argv = ("score", folder / "model", path, tmp_path / f"{times}{out}", "--draws", 4, "--part-rows", 4000, "--threads", 1)
        done = subprocess.run([sys.executable, "-c", code, *map(str, argv)], env=env, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 32, f"MiB of 12,000 and 120,000 rows: {peaks}"  # the rows are 11 MiB as text, 30 and more as columns


def test_a_saved_model_scores_its_batches(tmp_path):
    """`score MODEL INPUT OUTPUT`, without an estimator."""
    import torch

    from ordkernels.models import DiffoR

    torch.manual_seed(0)
    model = DiffoR(dense_width=3, T=20)
    model.prepare({"y": torch.rand(50) * 9, "dense": torch.randn(50, 3)})
    model.save_pretrained(tmp_path / "model")
    dense, ids = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32), np.arange(200)[::-1].copy()
    np.savez(tmp_path / "in.npz", dense=dense, id=ids)
    assert main(["score", str(tmp_path / "model"), str(tmp_path / "in.npz"), str(tmp_path / "out.csv"), "--row-id", "id"]) == 0
    found = csv.read_csv(tmp_path / "out.csv")
    draws = model.eval().sample({"dense": torch.from_numpy(dense)}, 128, 0, torch.from_numpy(ids)).double().numpy()
    assert found["id"].to_pylist() == ids.tolist()
    np.testing.assert_allclose(found["prediction"], np.median(draws, axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["q0.1"], np.quantile(draws, 0.1, axis=1, method="weibull"), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------------- report


class Page(HTMLParser):
    """A page that is whole: every tag closed, nothing loaded, no number that is none."""

    def __init__(self, path):
        super().__init__()
        self.text, self.open, self.tags = path.read_text(), [], []
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert tag not in ("script", "link", "img", "iframe")
        assert not [a for a, _ in attrs if a in ("src", "href")]
        if tag not in ("meta", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def check(self, charts):
        assert not self.open
        assert self.tags.count("svg") == charts
        assert "nan" not in self.text.lower().replace("finance", "")
        assert "inf" not in self.text.lower().replace("information", "")


def test_report_of_predictions_whose_quality_is_known(tmp_path, capsys):
    """Quantiles of an exponential distribution: calibrated for group a, too low for group b."""
    rng = np.random.default_rng(0)
    group = np.repeat(["a", "b <i>"], [30_000, 10_000])
    scale = rng.uniform(1, 9, 40_000)
    y = rng.exponential(scale)
    predicted = {f"q{q}": -np.log1p(-q) * np.where(group == "a", scale, scale / 4) for q in (0.1, 0.5, 0.9)}
    parquet.write_table(pa.table({"y": y, "prediction": predicted["q0.5"], "who": group, **predicted}), tmp_path / "p.parquet")
    assert main(["report", str(tmp_path / "p.parquet"), "--truth", "y", "--group", "who"]) == 0
    page = Page(tmp_path / "p.html")
    page.check(charts=4)
    assert f"MAE {np.abs(y - predicted['q0.5']).mean():.4g}" in capsys.readouterr().out
    a = np.arange(40_000) < 30_000
    for which, name in ((a, "a"), (~a, "b &lt;i&gt;")):
        covered = ((predicted["q0.1"] <= y) & (y <= predicted["q0.9"]))[which].mean()
        cells = [f"<td>{name}</td>", f"<td>{which.sum():,}</td>", f"<td>{np.abs(y - predicted['q0.5'])[which].mean():.4g}</td>"]
        assert "".join(cells) in page.text
        assert f"<td>{covered:.1%}</td>" in page.text
    below = {q: (y < predicted[f"q{q}"]).mean() for q in (0.1, 0.5, 0.9)}
    worst = max(below, key=lambda q: abs(below[q] - q))
    assert f"{below[worst]:.1%} of the targets are below the quantile of level {worst:g}" in page.text


def test_pit_is_uniform_of_samples_from_the_truth_and_not_of_others():
    from ordkernels.commands._predictions import Predictions

    rng = np.random.default_rng(0)
    y, samples = rng.gamma(2, 3, 20_000), rng.gamma(2, 3, (20_000, 50))
    edges, density = Predictions(y, y, samples=samples).pit()
    np.testing.assert_allclose(np.diff(edges) @ density, 1)
    np.testing.assert_allclose(density, 1, atol=0.06)
    _, narrow = Predictions(y, y, samples=(samples - 6) / 3 + 6).pit()
    assert narrow[0] > 2
    assert narrow[-1] > 1.5
    assert narrow[5] < 0.7
    quantiles = {q: np.full(20_000, np.quantile(y, q)) for q in (0.1, 0.25, 0.5)}
    edges, density = Predictions(y, y, quantiles).pit()
    assert edges.tolist() == [0, 0.1, 0.25, 0.5, 1]
    np.testing.assert_allclose(density, 1, atol=0.01)


def test_targets_of_few_values_have_an_interval_each():
    from ordkernels.commands._predictions import Predictions

    y = np.repeat([1.0, 2.0, 5.0], [5, 1, 900])
    parts = Predictions(y, y + 1).by_target()
    assert [(name, len(part)) for name, part in parts] == [("1", 5), ("2", 1), ("5", 900)]
    intervals = Predictions(np.arange(80.0), np.zeros(80)).by_target()
    assert [(name, len(part)) for name, part in intervals[:2]] == [("0 to 9", 9), ("9 to 19", 10)]
    assert sum(len(part) for _, part in intervals) == 80


def test_report_of_a_folder_takes_the_truth_from_the_table_that_was_scored(folder, tmp_path, capsys):
    new = table(1)
    parquet.write_table(new.drop(["seconds"]), tmp_path / "new.parquet")
    assert main([*map(str, ("score", folder / "model", tmp_path / "new.parquet", tmp_path / "out", "--part-rows", 400))]) == 0
    assert main(["report", str(tmp_path / "out"), "--truth", "seconds"]) == 2
    assert "--truth: expected a column of new.parquet" in capsys.readouterr().err
    shuffled = new.take(np.random.default_rng(0).permutation(N))
    parquet.write_table(shuffled, tmp_path / "truth.parquet")
    argv = ["report", str(tmp_path / "out"), "--truth", "seconds", "--group", "device", "--table", str(tmp_path / "truth.parquet")]
    assert main(argv) == 0
    found = parquet.read_table(tmp_path / "out")
    assert f"MAE {np.abs(found['prediction'].to_numpy() - new['seconds'].to_numpy()).mean():.4g}" in capsys.readouterr().out
    Page(tmp_path / "out.html").check(charts=4)
    parquet.write_table(shuffled.slice(3), tmp_path / "truth.parquet")
    assert main(argv) == 2
    assert "expected a row with event" in capsys.readouterr().err


def test_report_as_json_is_what_score_file_prints(folder, tmp_path):
    rng = np.random.default_rng(0)
    parquet.write_table(
        pa.table({"y": rng.random(300), "prediction": rng.random(300), "user": rng.integers(0, 9, 300)}), tmp_path / "p.parquet"
    )
    options = ("--truth", "y", "--group", "user", "--theta", 0.1, 0.2)
    new = run("report", "p.parquet", *options, "--json", cwd=tmp_path)
    old = run("score-file", "p.parquet", "--pred", "prediction", *options, "--json", cwd=tmp_path)
    assert (new.returncode, old.returncode) == (0, 0)
    assert new.stdout == old.stdout
    assert set(json.loads(new.stdout)["scores"]) >= {"mae", "xauc", "xauc_by_group", "cs@0.1"}
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]


# ------------------------------------------------------------------------------------------------------- errors


def mistakes(folder, tmp):
    """Arguments, and what is said of them."""
    model, june = folder / "model", folder / "june.csv"
    (tmp / "taken.csv").write_text("mine")
    (tmp / "full").mkdir()
    (tmp / "full" / "notes").write_text("mine")
    (tmp / "damaged.parquet").write_bytes((folder / "may.parquet").read_bytes()[:5000])
    (tmp / "damaged.npz").write_bytes(b"PK\x03\x04")
    (tmp / "empty.csv").write_text("")
    (tmp / "header.csv").write_text("user,seconds\n")
    (tmp / "twice.csv").write_text("a,a,seconds\n1,2,3\n")
    (tmp / "ragged.csv").write_text("a,seconds\n1,2\n3\n")
    (tmp / "numbers.csv").write_text("1,2,3\n4,5,6\n")
    (tmp / "text.csv").write_text("a,seconds\n1,2\n1,soon\n")
    (tmp / "negative.csv").write_text("a,seconds\n1,2\n1,3\n1,-4\n")
    (tmp / "one.csv").write_text("a,seconds\n1,2\n")
    (tmp / "table.xlsx").write_text("")
    csv.write_csv(table(1).drop(["age"]), tmp / "less.csv")
    csv.write_csv(table(1).set_column(5, "age", pa.array(["old"] * N)), tmp / "words.csv")
    broken = tmp / "broken"
    broken.mkdir()
    for path in model.iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[:-1])
    fit, score = ("fit", "--target", "seconds", "--out", tmp / "out"), ("score", model)
    return [
        ([*fit, june, "--workers", 2], "--workers: expected with --engine ray, got local, whose processes torchrun starts"),
        ([*fit, tmp / "nowhere.csv"], "expected a file or a folder, got .*nowhere.csv"),
        ([*fit, tmp / "table.xlsx"], "expected a name that ends in .csv"),
        ([*fit, tmp / "damaged.parquet"], "damaged.parquet: expected a file that can be read"),
        ([*fit, tmp / "damaged.npz"], "damaged.npz: expected a file that can be read"),
        ([*fit, tmp / "empty.csv"], "expected a header line"),
        ([*fit, tmp / "header.csv"], "header.csv: expected at least one row, got none"),
        ([*fit, tmp / "twice.csv"], "expected the columns a, once each, got 'a', 'a', 'seconds'"),
        ([*fit, tmp / "ragged.csv"], "expected 2 cells in every row, as in the header, got 1 in row 1"),
        ([*fit, tmp / "numbers.csv"], "--target: expected a column .* got 'seconds': there seems to be no header line"),
        ([*fit, tmp / "text.csv"], "column 'seconds': expected numbers, got text"),
        ([*fit, tmp / "negative.csv"], "column 'seconds': expected finite numbers of at least 0, got a negative value at row 2: -4"),
        ([*fit, tmp / "one.csv"], "expected at least 3 rows, 2 of them to train on, got 1"),
        ([*fit, june, "--user", "viewer"], "--user: expected a column of june.csv, one of 'event', .*got 'viewer'"),
        ([*fit, june, "--ignore", "seconds"], "--ignore: expected another column than the target"),
        ([*fit, june, "--epochs", 0], "--epochs: expected a whole number at least 1, got '0'"),
        ([*fit, june, "--validation", 1], "--validation: expected a number above 0 and below 1, got '1'"),
        ([*fit, june, "--model", "prophet"], "invalid choice: 'prophet'"),
        ([*fit, june, "--model", "d2q"], "capacity: expected the name of a column"),
        (["fit", june, "--target", "seconds", "--out", tmp / "full"], "--out: expected a new or empty folder"),
        (["fit", june, "--target", "seconds", "--out", model], r"expected a new or empty folder.*\(--overwrite replaces the model in it\)"),
        (["fit", june, "--target", "seconds", "--out", tmp / "taken.csv"], "--out: expected a folder.*got the file"),
        (["fit", june, "--target", "seconds", "--out", tmp / "no" / "where"], "--out: expected a place in a folder that exists"),
        (["score", tmp, june, tmp / "out.csv"], "expected a file that save_pretrained wrote, got none"),
        (["score", june, june, tmp / "out.csv"], "expected a folder that save_pretrained wrote, got a file"),
        (["score", broken, june, tmp / "out.csv"], "broken/model.safetensors: expected .* bytes"),
        ([*score, tmp / "nowhere", tmp / "out.csv"], "expected a file or a folder, got .*nowhere"),
        ([*score, tmp / "less.csv", tmp / "out.csv"], "less.csv: expected the column 'age', as in training, got 'event'"),
        ([*score, tmp / "words.csv", tmp / "out.csv"], "column 'age': expected numbers, as in training, got text"),
        ([*score, june, tmp / "taken.csv"], "OUT: expected a new file, got .*taken.csv, which exists"),
        ([*score, june, tmp / "full"], "expected a new or empty folder, or one that the same command began"),
        ([*score, june, tmp / "out.xlsx"], "expected a name that ends in .csv"),
        ([*score, june, tmp / "no" / "out.csv"], "OUT: expected a place in a folder that exists"),
        ([*score, june, june], "OUT: expected a new file"),
        ([*score, june, tmp / "out.csv", "--keep", "viewer"], "--keep: expected a column of june.csv"),
        ([*score, june, tmp / "out.csv", "--row-id", "user"], "--row-id: expected none, the estimator was fitted with 'event'"),
        ([*score, june, tmp / "out.csv", "--quantiles", 0.5, 1], "--quantiles: expected a number above 0 and below 1, got '1'"),
        ([*score, june, tmp / "out.csv", "--quantiles", 0.5, 0.5], "--quantiles: expected different levels"),
        ([*score, june, tmp / "out.csv", "--workers", 2], "--workers: expected with --engine ray or spark"),
        ([*score, june, tmp / "out.csv", "--format", "csv"], "--format: expected with a folder of parts alone"),
        (["report", tmp / "nowhere.csv", "--truth", "y"], "expected a file or a folder"),
        (["report", june, "--truth", "seconds"], "--pred: expected a column of june.csv.*got 'prediction'"),
        (["report", june, "--truth", "y", "--pred", "age"], "--truth: expected a column of june.csv.*got 'y'"),
        (["report", june, "--truth", "seconds", "--pred", "age"], "column 'age': expected finite numbers, got a missing value in row"),
        (["report", june, "--truth", "device", "--pred", "seconds"], "column 'device': expected numbers, got text"),
        (["report", june, "--truth", "seconds", "--pred", "age", "--html", tmp], "--html: expected a file"),
        (["report", june, "--truth", "seconds", "--pred", "age", "--json"], "report: age: expected no NaN"),
    ]


def test_every_mistake_is_one_line_and_exit_code_2(folder, tmp_path, capsys):
    import re

    before = None
    for argv, text in mistakes(folder, tmp_path):
        before = before or sorted(tmp_path.rglob("*"))
        try:
            code = main([*map(str, argv)])
        except SystemExit as stop:  # of argparse, which prints the usage before
            code = stop.code
        captured = capsys.readouterr()
        said = captured.err.strip().split("\n")
        assert code == 2, (argv, captured)
        assert re.search(text, said[-1]), (argv, captured.err)
        assert len(said) == 1 or said[0].startswith("usage:"), (argv, captured.err)
        assert sorted(tmp_path.rglob("*")) == before, argv
    assert (tmp_path / "taken.csv").read_text() == "mine"


def test_mistakes_in_a_real_process_leave_no_traceback(folder, tmp_path):
    for argv in (
        ("score", "nowhere", "x.csv", "y.csv"),
        ("fit", "x.csv", "--target", "y", "--out", "m"),
        ("report", "x.csv", "--truth", "y"),
    ):
        done = run(*argv, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith(f"{argv[0]}: ")
        assert done.stderr.count("\n") == 1


def test_overwrite_replaces_what_was_there_and_nothing_else(folder, tmp_path):
    argv = [*map(str, ("score", folder / "model", folder / "june.csv"))]
    out = tmp_path / "out"
    assert main([*argv, str(out)]) == 0
    assert main([*argv, str(out), "--seed", "1"]) == 2
    assert main([*argv, str(out), "--seed", "1", "--overwrite"]) == 0
    assert parquet.read_table(out).num_rows == N
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "part-000000.parquet").write_text("precious")
    assert main([*argv, str(tmp_path / "mine"), "--overwrite"]) == 2
    assert (tmp_path / "mine" / "part-000000.parquet").read_text() == "precious"


@pytest.mark.parametrize("name", ["fit", "score", "report"])
def test_help_shows_examples_that_parse_and_needs_no_torch(name):
    code = f"import sys, ordkernels.__main__ as m\ntry: m.main(['{name}', '--help'])\nexcept SystemExit: pass\n"
    code += "assert 'torch' not in sys.modules"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    import shlex

    from ordkernels.__main__ import _parser

    examples = done.stdout.split("example:\n")[1].strip().splitlines()
    assert examples
    for example in examples:
        _parser().parse_args(shlex.split(example)[3:])
