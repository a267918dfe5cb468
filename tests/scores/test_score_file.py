"""`score-file`: every format gives the same scores, and messages say what is wrong with a file."""

import gzip
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from ordkernels import _tables, scores
from ordkernels.__main__ import main
from ordkernels._tables import delimited, npz, parquet
from ordkernels.scores import files
from ordkernels.scores.grid import GridXAUC

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(_tables, "ROWS", 64)
    monkeypatch.setattr(npz, "ROWS", 64)
    monkeypatch.setattr(parquet, "ROWS", 64)
    monkeypatch.setattr(delimited, "BLOCK", 2048)


@pytest.fixture(params=["pyarrow", "stdlib"])
def csv_reader(request, monkeypatch):
    if request.param == "pyarrow":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    else:
        monkeypatch.setitem(sys.modules, "pyarrow", None)


def rows(n=300, seed=0):
    rng = np.random.default_rng(seed)
    y = np.round(rng.lognormal(0, 1, n), 2)
    table = {"id": np.arange(n), "y": y, "p": np.round(y * rng.lognormal(0, 0.5, n), 2), "user": rng.integers(-3, 9, n) + 2**60}
    return table | {"w": rng.integers(0, 4, n)}


def csv_text(table, delimiter=","):
    lines = [delimiter.join(table), *(delimiter.join(map(repr, row)) for row in zip(*(v.tolist() for v in table.values()), strict=True))]
    return "\n".join(lines) + "\n"


def write(path, table):
    name = path.name
    if name.endswith(".npz"):
        (np.savez_compressed if "small" in name else np.savez)(path, **table)
    elif name.endswith(".parquet"):
        pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        pa.parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
        pa.parquet.write_table(pa.table(table), path, row_group_size=130)
    else:
        text = csv_text(table, "\t" if ".tsv" in name else ",")
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode("utf-8-sig"))
    return path


def run(*argv):
    return main(["score-file", *map(str, argv)])


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv"])
def test_every_csv(name, tmp_path, capsys, csv_reader):
    check_scores(name, tmp_path, capsys)


@pytest.mark.parametrize("name", ["a.npz", "small.npz", "a.parquet"])
def test_every_other_format(name, tmp_path, capsys):
    check_scores(name, tmp_path, capsys)


def check_scores(name, tmp_path, capsys):
    table = rows()
    y, p, g, w = (table[k] for k in ("y", "p", "user", "w"))
    path = write(tmp_path / name, table)
    edges = [0, 1, 2, 5]
    argv = [path, "--truth", "y", "--pred", "p", "--group", "user", "--weight", "w", "--theta", "0.5", "2", "--edges", *edges, "--json"]
    assert run(*argv) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    expected = {
        "mae": scores.mae(y, p), "rmse": scores.rmse(y, p), "lcc": scores.lcc(y, p), "srcc": scores.srcc(y, p),
        "cs@0.5": scores.cumulative_score(y, p, 0.5), "cs@2": scores.cumulative_score(y, p, 2),
        "xauc": scores.xauc(y, p, weight=w).value, "xauc_by_group": scores.xauc(y, p, weight=w, group=g).value,
        "jsd": scores.histogram_jsd(y, p, g, edges=edges, base=2),
    }  # fmt: skip
    assert found["scores"] == pytest.approx(expected, rel=1e-13)
    assert found["rows"] == 300
    assert "exact XAUC of 300 rows needs 0.0 MB of memory" in err  # before it starts


def test_the_table_for_a_person(tmp_path, capsys):
    path = write(tmp_path / "a.npz", {"y": np.array([0, 1, 1, 0]), "p": np.array([0.1, 0.9, 0.2, 0.2], np.float32)})
    assert run(path, "--truth", "y", "--pred", "p", "--ties", "strict") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert dict(lines)["auc"] == "0.875"
    assert dict(lines)["xauc"] == "0.75"


def test_binned_bounds_the_exact_score_in_one_pass(tmp_path, capsys, monkeypatch):
    table = rows()
    path = write(tmp_path / "a.npz", table)
    monkeypatch.setattr(files, "_memory_available", lambda: 0)
    assert run(path, "--truth", "y", "--pred", "p", "--binned-xauc", "128", "--json", "--group", "user") == 0
    found = json.loads(capsys.readouterr().out)
    value, bound = found["scores"]["xauc_binned"], found["scores"]["xauc_bound"]
    assert (value, bound) == GridXAUC(128).update(table["y"], table["p"]).result()[:2]
    assert abs(value - scores.xauc(table["y"], table["p"]).value) <= bound < 0.1
    assert set(found["left_out"]) == {"srcc", "xauc", "xauc_by_group"}
    assert run(path, "--truth", "y", "--pred", "p", "--binned-xauc", "128") == 0
    assert f"  srcc           left out: {found['left_out']['srcc']}" in capsys.readouterr().out.splitlines()
    assert run(path, "--truth", "y", "--pred", "p") == 2  # no memory at all
    assert "of memory: --binned-xauc" in capsys.readouterr().err.replace(", 0.0 MB available", "")


@pytest.mark.parametrize(
    ("wide", "columns", "megabytes"),  # of 100,000 rows: what the columns take, and 16, 32 or 48 bytes a row, 16 more by groups
    [((), "y p", 2.4), (("y",), "y p", 4.4), (("p",), "y p", 4.4), ((), "y p w", 6.0), ((), "y p g", 4.8), (("y", "p"), "y p w g", 9.2)],
)
def test_the_memory_that_is_announced(wide, columns, megabytes, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_tables, "ROWS", 1 << 16)
    monkeypatch.setattr(npz, "ROWS", 1 << 16)
    types = {k: np.float64 if k in wide else np.float32 for k in ("y", "p", "w")} | {"g": np.int64}
    table = {k: (np.arange(100_000) % 7).astype(types[k]) for k in columns.split()}
    options = [x for k, name in (("w", "--weight"), ("g", "--group")) if k in table for x in (name, k)]
    assert run(write(tmp_path / "a.npz", table), "--truth", "y", "--pred", "p", *options) == 0
    assert f"needs {megabytes:.1f} MB of memory" in capsys.readouterr().err


def test_memory_available_is_known_with_psutil_alone(monkeypatch):
    psutil = pytest.importorskip("psutil", reason="psutil is not installed")
    assert 0 < files._memory_available() <= psutil.virtual_memory().total
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert files._memory_available() is None


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(_tables, "ROWS", 1 << 10)
    monkeypatch.setattr(npz, "ROWS", 1 << 10)
    peaks = []
    for n in (5_000, 100_000):
        y = np.random.default_rng(0).normal(0, 1, n)
        path = tmp_path / f"{n}.npz"
        np.savez(path, y=y, p=y + 1)
        tracemalloc.start()
        files.score_file(path, "y", "p", binned=64)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2 + 65536 < 800_000  # the columns have 1.6 MB


BAD_CSV = {
    "nan": ("y,p\n1,2\n,3\n4,nan\nNA,1\n", "y: expected no NaN, got 2 of 4 rows, the first in row 1"),
    "inf": ("y,p\n1,2\n2,-inf\n4,inf\n", "p: expected finite numbers, got -inf among 2 of 3 rows, the first in row 1"),
    "text": ("y,p\n" + "1,2\n" * 70 + "4,high\n", "p: expected numbers, got 'high' in row 70"),
    "short": ("y,p\n1,2\n4\n", "expected 2 cells in every row, as in the header, got 1 in row 1"),
    "empty": ("", "expected a header line with the columns' names, got none"),
    "header only": ("y,p\n", "expected at least one row, got none"),
    "blank": ("y,p\n\n\n", "expected at least one row, got none"),
    "missing": ("y,q\n1,2\n", "--pred: expected a column of a.csv, one of 'y', 'q', got 'p'"),
    "long": ("y,p\n1,2\n4,5,6\n", "expected 2 cells in every row, as in the header, got 3 in row 1"),
    "twice": ("y,p,p\n1,2,3\n", "--pred: expected one column 'p' in a.csv, got 2"),
    "unclosed": ('y,p\n1,2\n"3,4\n5,6\n', ""),
    "newline": ('y,p,c\n1,2,"a\nb"\n', "expected"),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_bad_csv(case, tmp_path, capsys, csv_reader):
    content, message = BAD_CSV[case]
    path = tmp_path / "a.csv"
    path.write_text(content)
    assert run(path, "--truth", "y", "--pred", "p") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("score-file: ")
    assert message in err


def test_nan_is_counted_over_all_chunks_and_named_by_the_row_in_the_file(tmp_path, capsys):
    table = rows()
    table["p"][[130, 131, 299]] = np.nan
    for name in ("a.csv", "a.npz", "a.parquet"):
        assert run(write(tmp_path / name, table), "--truth", "y", "--pred", "p") == 2
        assert "p: expected no NaN, got 3 of 300 rows, the first in row 130" in capsys.readouterr().err


def test_quoted_cells_and_blank_lines_and_missing_text_elsewhere(tmp_path, capsys, csv_reader):
    path = tmp_path / "a.csv"
    path.write_text('name,"y",p\n"a, b",1,"2"\n\n"c ""d""",3,1\n,5, 9\n')
    assert run(path, "--truth", "y", "--pred", "p", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rows"] == 3
    assert found["scores"]["mae"] == pytest.approx(7 / 3)


@pytest.mark.parametrize(
    ("arrays", "extra", "message"),
    [
        ({"y": [1, 2], "p": [1.0]}, [], "p: expected 2 rows, as y, got 1"),
        ({"y": [1, 2], "p": ["a", "b"]}, [], "p: expected numbers, got <U1"),
        ({"y": [[1, 2]], "p": [1, 2]}, [], "y: expected an array of shape [N], got [1, 2]"),
        ({"y": np.array([1, None]), "p": [1, 2]}, [], "y: expected numbers, got object"),
        ({"y": [], "p": []}, [], "expected at least one row, got none"),
        ({"y": [1, 2], "p": [1, 2], "g": [0.5, 1]}, ["--group", "g"], "g: expected integers, got float64"),
        ({"y": [1, 2], "p": [1, 2], "w": [-1, 1]}, ["--weight", "w"], "weight: expected numbers of at least 0, got -1.0 at index 0"),
        ({"y": [1, 2], "p": [1, 2], "w": [1, 1]}, ["--weight", "w", "--binned-xauc"], "--weight: expected exact XAUC"),
        ({"y": [1, 2], "p": [1, 2]}, ["--ties", "strict", "--binned-xauc"], "--ties: expected exact XAUC"),
        ({"y": [1, 2], "p": [1, 2]}, ["--edges", "1", "2"], "--edges: expected together with --group"),
        ({"y": [1, 2], "p": [1, 2]}, ["--binned-xauc", "3"], "bins: expected 8 to 32768, got 3"),
        ({"y": [1, 2], "p": [1, 2]}, ["--theta", "-1"], "thetas: expected"),
        ({"y": [1, 2], "p": [1, 2]}, ["--group", "u"], "--group: expected a column of a.npz, one of 'y', 'p', got 'u'"),
    ],
)
def test_bad_npz(arrays, extra, message, tmp_path, capsys):
    np.savez(tmp_path / "a.npz", **{k: np.asarray(v) for k, v in arrays.items()})
    assert run(tmp_path / "a.npz", "--truth", "y", "--pred", "p", *extra) == 2
    assert message in capsys.readouterr().err


def test_bad_files(tmp_path, capsys):
    for name, content, message in (
        ("a.npz", b"y", "BadZipFile"),
        ("a.txt", b"y", "expected a name that ends in .csv"),
        ("a.csv.gz", b"y,p\n", "gzip"),
        ("b.csv.gz", gzip.compress(b"y,p\n" + b"1,2\n" * 5000)[:-20], "EOFError"),
        ("a.csv", b"\xff\xfe", "utf-8"),
    ):
        (tmp_path / name).write_bytes(content)
        assert run(tmp_path / name, "--truth", "y", "--pred", "p") == 2
        assert message in capsys.readouterr().err
    os.mkfifo(tmp_path / "fifo.csv")
    assert run(tmp_path / "fifo.csv", "--truth", "y", "--pred", "p") == 2
    assert "(not a regular file)" in capsys.readouterr().err
    assert run(tmp_path / "no.csv", "--truth", "y", "--pred", "p") == 2
    assert "does not exist" in capsys.readouterr().err
    assert run(tmp_path, "--truth", "y", "--pred", "p") == 2
    assert "(a folder)" in capsys.readouterr().err


def test_group_ids_in_csv_have_64_bits_or_an_error(tmp_path, capsys, csv_reader):
    path = tmp_path / "a.csv"
    for cell, message in (
        ("ann", "integers of 64 bits, got 'ann' in row 1"),
        ("", "no NaN, got 1 of 2 rows, the first in row 1"),
        (str(2**64), f"integers of 64 bits, got '{2**64}' in row 1"),
        ("0x10", "integers of 64 bits, got '0x10' in row 1"),
        ("1_0", "integers of 64 bits, got '1_0' in row 1"),
    ):
        path.write_text(f"y,p,g\n1,2,{2**62 + 1}\n1,3,{cell}\n")
        assert run(path, "--truth", "y", "--pred", "p", "--group", "g") == 2
        assert f"g: expected {message}" in capsys.readouterr().err


def test_unsigned_ids_and_big_integers_keep_every_digit(tmp_path, capsys, csv_reader):
    path, big = tmp_path / "a.csv", 1556559573141592653
    path.write_text("y,p,g\n" + "".join(f"{big + i},{i},{2**64 - 1}\n" for i in range(3)))
    assert run(path, "--truth", "y", "--pred", "p", "--group", "g", "--json") == 0
    found = json.loads(capsys.readouterr().out)["scores"]
    assert found["xauc"] == found["xauc_by_group"] == 1


def test_integers_and_missing_values_in_different_chunks(tmp_path, capsys, csv_reader):
    y = [*range(500), 0.5, "NA", *range(500)]
    (tmp_path / "a.csv").write_text("y,p\n" + "".join(f"{v},1\n" for v in y))
    assert run(tmp_path / "a.csv", "--truth", "y", "--pred", "p") == 2
    assert "y: expected no NaN, got 1 of 1002 rows, the first in row 501" in capsys.readouterr().err
    (tmp_path / "a.csv").write_text("y,p\n" + "".join(f"{v},1\n" for v in y if v != "NA"))
    assert run(tmp_path / "a.csv", "--truth", "y", "--pred", "p", "--json") == 0
    assert json.loads(capsys.readouterr().out)["scores"]["mae"] == pytest.approx((2 * (sum(range(500)) - 498) + 0.5) / 1001)


def test_parquet_names_with_dots_and_null_booleans(tmp_path, capsys):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    path = write(tmp_path / "a.parquet", {"p.low": [7.0, 8.0], "p": [1.0, 2.0], "y": [1.0, 2.0], "b": pa.array([True, None])})
    assert run(path, "--truth", "y", "--pred", "p", "--json") == 0
    assert json.loads(capsys.readouterr().out)["scores"]["mae"] == 0
    assert run(path, "--truth", "b", "--pred", "p") == 2
    assert "b: expected no NaN, got 1 of 2 rows, the first in row 1" in capsys.readouterr().err


def test_parquet_types_and_nulls(tmp_path, capsys, monkeypatch):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    table = {"y": pa.array([1, None, 3]), "p": pa.array([1.0, 2.0, 3.0], pa.float32()), "s": pa.array(["a", "b", "c"])}
    path = write(tmp_path / "a.parquet", table)
    for pred, message in (("p", "y: expected no NaN, got 1 of 3 rows, the first in row 1"), ("s", "s: expected numbers, got string")):
        assert run(path, "--truth", "y", "--pred", pred) == 2
        assert message in capsys.readouterr().err
    assert run(path, "--truth", "p", "--pred", "p", "--group", "y") == 2
    assert "y: expected no NaN" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert run(path, "--truth", "y", "--pred", "p") == 2
    assert "pip install 'ordkernels[files]'" in capsys.readouterr().err


def test_one_row_and_constant_columns_have_no_correlation(tmp_path, capsys):
    for values in ([2.0], [2.0, 2.0]):
        np.savez(tmp_path / "a.npz", y=values, p=np.arange(len(values)))
        assert run(tmp_path / "a.npz", "--truth", "y", "--pred", "p", "--json") == 0
        found = json.loads(capsys.readouterr().out)["scores"]
        assert found["xauc"] is found["srcc"] is found["lcc"] is None


def test_needs_no_torch(tmp_path):
    path = write(tmp_path / "a.csv", rows(20))
    code = "import sys; from ordkernels.__main__ import main; r = main(sys.argv[1:]); assert 'torch' not in sys.modules; sys.exit(r)"
    argv = [sys.executable, "-c", code, "score-file", str(path), "--truth", "y", "--pred", "p", "--binned-xauc", "16"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "xauc_bound" in done.stdout
