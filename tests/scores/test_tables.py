"""One table in every format gives the same scores or the same error, with and without pyarrow, in bounded memory."""

import decimal
import gzip
import importlib.util
import itertools
import json
import os
import random
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ordkernels import scores
from ordkernels.__main__ import main
from ordkernels._tables import Column, delimited, read

ROOT = Path(__file__).parents[2]
HAS_PYARROW = importlib.util.find_spec("pyarrow") is not None
READERS = ["pyarrow", "stdlib"] if HAS_PYARROW else ["stdlib"]
VALUES = [(1.5, 2.0, 3), (-4.25, 1e-3, 4), (7.0, 1e22, 3), (0.1, -0.5, 4), (12345678.875, 0.25, 3)]
TEXT = [(repr(y), repr(p), str(g)) for y, p, g in VALUES]


def score(path, capsys, *extra, reader="pyarrow"):
    """(exit code, scores, what is wrong) of the file."""
    with pytest.MonkeyPatch.context() as patch:
        if reader == "stdlib":
            patch.setitem(sys.modules, "pyarrow", None)
        code = main(["score-file", str(path), "--truth", "y", "--pred", "p", "--json", *extra])
    out, err = capsys.readouterr()
    errors = [line for line in err.splitlines() if " needs " not in line]
    assert len(errors) == (code == 2)
    return code, json.loads(out)["scores"] if out else None, "".join(errors).replace(str(path), "FILE")


def lines(delimiter=",", end="\n", quote="", rows=TEXT):
    return "".join(delimiter.join(quote + cell + quote for cell in row) + end for row in [("y", "p", "g"), *rows])


WRITTEN = {
    "plain.csv": lines().encode(),
    "mark.csv": lines().encode("utf-8-sig"),
    "crlf.csv": lines(end="\r\n").encode(),
    "cr.csv": lines(end="\r").encode(),
    "quoted.csv": lines(quote='"').encode(),
    "quoted_mark.csv": lines(quote='"', end="\r\n").encode("utf-8-sig"),
    "spaces.csv": lines(rows=[tuple(f" {cell}\t" for cell in row) for row in TEXT]).encode(),
    "blank_lines.csv": (lines() + "\n\n  \n").encode(),
    "no_last_end.csv": lines().rstrip("\n").encode(),
    "other_columns.csv": ("t," + lines().replace("\n", '\n"a, ""b""",')).removesuffix('"a, ""b""",').encode(),
    "tabs.tsv": lines("\t").encode(),
    "packed.csv.gz": gzip.compress(lines().encode()),
    "two_members.csv.gz": gzip.compress(lines()[:30].encode()) + gzip.compress(lines()[30:].encode("utf-8")),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", WRITTEN)
def test_one_table_written_in_many_ways(name, reader, tmp_path, capsys):
    y, p, g = (np.array(column) for column in zip(*VALUES, strict=True))
    np.savez(tmp_path / "a.npz", y=y, p=p, g=g)
    expected = score(tmp_path / "a.npz", capsys, "--group", "g")
    assert expected[0] == 0
    assert expected[1]["mae"] == pytest.approx(scores.mae(y, p), rel=1e-15)
    (tmp_path / name).write_bytes(WRITTEN[name])
    assert score(tmp_path / name, capsys, "--group", "g", reader=reader) == expected


def test_parquet_types_give_the_scores_of_their_numbers(tmp_path, capsys):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    y = [1.5, 4.25, 7.0, 0.5]
    decimals = pa.array([decimal.Decimal(str(v)) for v in y], pa.decimal128(10, 3))
    columns = {
        "double": pa.array(y), "float": pa.array(y, pa.float32()), "half": pa.array(np.array(y, np.float16)), "decimal": decimals,
        "wide": decimals.cast(pa.decimal256(40, 5)), "dictionary": pa.array(y).dictionary_encode(),
    }  # fmt: skip
    found = []
    for column in columns.values():
        table = pa.table({"y": column, "p": [1.0, 2.0, 3.0, 4.0], "g": pa.array([3, 3, 4, 4], pa.uint8()).dictionary_encode()})
        parquet.write_table(table, tmp_path / "a.parquet")
        found.append(score(tmp_path / "a.parquet", capsys, "--group", "g"))
    assert found == [found[0]] * len(found)
    assert found[0][0] == 0
    for column, message in (
        (pa.array([0, 1, 2, 3], pa.timestamp("us", "Asia/Shanghai")), "y: expected numbers, got timestamp[us, tz=Asia/Shanghai]"),
        (pa.array(["1", "2", "3", "4"]).dictionary_encode(), "y: expected numbers, got dictionary"),
        (pa.array([1, None, 3, 4], pa.decimal128(5, 2)), "y: expected no NaN, got 1 of 4 rows, the first in row 1"),
        (pa.array([1, None, 3, 4]).dictionary_encode(), "y: expected no NaN, got 1 of 4 rows, the first in row 1"),
        (pa.nulls(4), "y: expected no NaN, got 4 of 4 rows, the first in row 0"),
    ):
        parquet.write_table(pa.table({"y": column, "p": [1.0, 2.0, 3.0, 4.0]}), tmp_path / "a.parquet")
        code, _, error = score(tmp_path / "a.parquet", capsys)
        assert code == 2
        assert message in error


NUMBERS = {"+4": 4, ".5": 0.5, "5.": 5, "1E-2": 0.01, "007": 7, " 3\t": 3, '"6"': 6, "1e-400": 0, "-0": 0}
NO_NUMBERS = ["1_0", "0x10", '"1,000"', "１２", "\xa01", "1 2", "1d5", "1f", "e5", "1e", ".", "+", "--1", "1.5.2", "nan(1)", "True", '1"2']
MISSING = ["", "nan", "NaN", "-nan", "NA", "null", "None", "<NA>", "N/A", " "]
INFINITE = ["inf", "-Infinity", "1e400"]


@pytest.mark.parametrize("reader", READERS)
def test_what_is_a_number(reader, tmp_path, capsys):
    path = tmp_path / "a.csv"
    for cell, value in NUMBERS.items():
        path.write_text(f"y,p\n1,2\n{cell},{value + 2}\n")
        assert score(path, capsys, reader=reader)[1]["mae"] == pytest.approx(1.5), cell
    for cell in NO_NUMBERS:
        path.write_text(f"y,p\n1,2\n{cell},2\n")
        code, _, error = score(path, capsys, reader=reader)
        assert code == 2, cell
        assert "y: expected numbers, got" in error
        assert error.endswith("in row 1")
    for cells, message in ((MISSING, "y: expected no NaN, got 1 of 2 rows, the first in row 1"), (INFINITE, "y: expected finite numbers")):
        for cell in cells:
            path.write_text(f"y,p\n1,2\n{cell},2\n")
            assert message in score(path, capsys, reader=reader)[2], cell


@pytest.mark.parametrize("reader", READERS)
def test_booleans_are_numbers_in_a_column_of_their_own(reader, tmp_path, capsys):
    (tmp_path / "a.csv").write_text("y,p\nTrue,0.9\nfalse,0.2\nTRUE,0.1\n")
    np.savez(tmp_path / "a.npz", y=np.array([True, False, True]), p=[0.9, 0.2, 0.1])
    assert score(tmp_path / "a.csv", capsys, reader=reader) == score(tmp_path / "a.npz", capsys)
    (tmp_path / "a.csv").write_text("y,p\nTrue,0.9\n1,0.2\n")
    assert "y: expected true or false, as in the rows before, got '1' in row 1" in score(tmp_path / "a.csv", capsys, reader=reader)[2]


WHOLE = [
    [2**53 + i for i in range(4)],
    [2**63 + i for i in range(4)],
    [-1, 2**63, 2**63 + 1, 2**64 - 1],
    [0.5, 2**62, 2**62 + 1, 2**62 + 2],
    [2**70, 2**70 + 2**7, 2**70 + 2**8, 2**71],
]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("whole", WHOLE)
def test_whole_numbers_of_any_size_keep_their_digits(whole, reader, tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("y,p\n" + "".join(f"{y},{y}\n" for y in whole))
    code, found, _ = score(path, capsys, reader=reader)
    assert code == 0
    assert (found["mae"], found["xauc"], found["srcc"]) == (0, 1, 1)
    assert found["lcc"] == pytest.approx(1)
    path.write_text("y,p\n" + "".join(f"{y},{i}\n" for i, y in enumerate(whole)))
    assert score(path, capsys, reader=reader)[1]["xauc"] == 1
    path.write_text(f"y,p\n1,2\n{2**70 + 1},2\n")
    assert f"y: expected whole numbers of at most 64 bits, got '{2**70 + 1}' in row 1" in score(path, capsys, reader=reader)[2]


@pytest.mark.parametrize("reader", READERS)
def test_ids_from_2_to_the_63_are_never_taken_for_negative_ones(reader, tmp_path, capsys):
    (tmp_path / "a.csv").write_text(f"y,p,g\n1,2,-1\n2,3,{2**64 - 1}\n")
    error = score(tmp_path / "a.csv", capsys, "--group", "g", reader=reader)[2]
    assert f"g: expected integers of 64 bits, all signed or all unsigned, got '{2**64 - 1}' in row 1" in error


@pytest.mark.skipif(not HAS_PYARROW, reason="pyarrow is not installed")
def test_both_readers_of_csv_agree_on_hostile_text(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(delimited, "BLOCK", 300)
    rng = random.Random(0)
    usual = ["1", "2", "3.5", "-1", "1e3", "7"]
    strange = [*NUMBERS, *NO_NUMBERS, *MISSING, *INFINITE, '"a\nb"', '"', '"1"2', "\x00", "1\r", str(2**63), str(2**64 + 1), "1,2"]
    for _ in range(200):
        rows = [",".join(rng.choice(strange if rng.random() < 0.02 else usual) for _ in "yp") for _ in range(rng.choice([0, 3, 80]))]
        rows += rng.choice([[], [""], ["  "], ['""'], ["1"]])
        (tmp_path / "a.csv").write_text(rng.choice(["\n", "\r\n", "\r"]).join(["y,p", *rows]))
        assert len({str(score(tmp_path / "a.csv", capsys, reader=reader)) for reader in READERS}) == 1, rows


def damaged(rng, data):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 4])):
        i = rng.randrange(len(data))
        if rng.random() < 0.6:
            data[i] = rng.randrange(256)
        else:
            del data[i : i + rng.choice([1, 9, len(data)])]
        if len(data) < 2:
            break
    return bytes(data)


@pytest.mark.parametrize("name", ["a.npz", "small.npz", "a.csv.gz", "a.parquet"])
def test_damaged_files_are_one_line(name, tmp_path, capsys):
    path, rng = tmp_path / name, random.Random(0)
    y = np.random.default_rng(0).normal(size=400)
    if name.endswith(".npz"):
        (np.savez_compressed if name == "small.npz" else np.savez)(path, y=y, p=y)
    elif name.endswith(".gz"):
        path.write_bytes(gzip.compress(("y,p\n" + "".join(f"{v},{v}\n" for v in y)).encode()))
    else:
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.table({"y": y, "p": y}), path)
    whole = path.read_bytes()
    codes = set()
    for _ in range(150):
        path.write_bytes(damaged(rng, whole))
        codes.add(score(path, capsys)[0])
    assert 2 in codes
    assert codes <= {0, 2}


def test_npz_with_more_data_than_its_header_says_or_a_huge_header(tmp_path, capsys):
    np.savez(tmp_path / "a.npz", y=np.arange(5.0), p=np.arange(5.0))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        y = archive.read("y.npy")
    for data, message in ((y + b"\0" * 8, "y: expected 5 rows, as its header says, got more data"),
                          (b"\x93NUMPY\x02\0\xff\xff\xff\x7f" + y, "header of at most 10,000 bytes, got 2,147,483,647")):  # fmt: skip
        with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
            archive.writestr("y.npy", data)
            archive.writestr("p.npy", y)
        assert message in score(tmp_path / "b.npz", capsys)[2]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (["y,p,", "x" * 200_000, "\n1,2,3\n"], "in the header: field larger than field limit (131072)"),
        (["y,p,t\n1,2,a\n2,3,", "x" * 200_000, "\n"], "in row 1: field larger than field limit (131072)"),
        (["y,p", ",c" * 200_000, "\n"], "expected at most 131,072 columns, got 200,002"),
        (["y,p\n1,2\n", "a" * (1 << 23)], "expected lines of fewer than 4,194,304 characters, got a longer one in row 1"),
        (["y,p", ",column" * (1 << 20), "\n"], "expected lines of fewer than 4,194,304 characters, got a longer one in the header"),
    ],
    ids=["name", "cell", "columns", "line", "header"],
)
def test_limits_are_named(text, message, reader, tmp_path, capsys):
    (tmp_path / "a.csv").write_text("".join(text))
    assert message in score(tmp_path / "a.csv", capsys, reader=reader)[2]


@pytest.mark.parametrize("name", ["line.csv.gz", "rows.csv.gz", "columns.csv", "zeros.npz"])
def test_memory_is_bounded(name, tmp_path):
    """256 MB and more of content within 150 MB beside what importing takes."""
    path = tmp_path / name
    if name == "line.csv.gz":
        with gzip.open(path, "wb", compresslevel=1) as f:
            f.writelines([b"y,p\n1,2\n", *itertools.repeat(b"a" * (1 << 20), 256)])
    elif name == "rows.csv.gz":
        with gzip.open(path, "wb", compresslevel=1) as f:
            f.writelines([b"y,p\n", *itertools.repeat(b"1,2\n" * (1 << 18), 20), b"x,1\n"])
    elif name == "columns.csv":
        path.write_text("y,p" + ",c" * 1_000_000 + "\n" + "1,2" + ",3" * 1_000_000 + "\n")
    else:
        np.savez_compressed(path, y=np.zeros(1 << 25), p=np.append(np.zeros((1 << 25) - 1), np.nan))
    code = f"""
        import resource, sys
        from ordkernels.__main__ import main
        from ordkernels.scores import files
        try:
            import pyarrow.csv, pyarrow.compute
        except ImportError:
            pass
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        before = peak()
        code = main(["score-file", {str(path)!r}, "--truth", "y", "--pred", "p", "--binned-xauc", "64"])
        print(peak() - before)
        sys.exit(code)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert int(done.stdout) < 150, done.stdout


def test_an_output_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "a.csv").write_text("y,p\n1,2\n")
    argv = [sys.executable, "-m", "ordkernels", "score-file", str(tmp_path / "a.csv"), "--truth", "y", "--pred", "p", "--binned-xauc"]
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "w") as out:
        done = subprocess.run(argv, cwd=ROOT, stdout=out, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr == "score-file: expected an output that can be written, got Broken pipe\n"


ORDERS = ["--theta 1 FILE", "--theta 1 2 FILE --json", "--the 1 FILE", "--theta=1 FILE", "--json FILE --theta 1", "FILE --theta 1"]


@pytest.mark.parametrize("argv", [*ORDERS, "--binned-xauc FILE", "--binned-xauc 64 FILE"])
def test_file_may_follow_any_option(argv, tmp_path, capsys):
    (tmp_path / "a.csv").write_text("y,p\n1,2\n3,4\n")
    words = [str(tmp_path / "a.csv") if word == "FILE" else word for word in argv.split()]
    assert main(["score-file", "--truth", "y", "--pred", "p", *words]) == 0
    assert ("cs@1" in capsys.readouterr().out) == ("--the" in argv)


def test_a_file_that_is_no_option_value_is_not_moved(capsys):
    with pytest.raises(SystemExit):
        main(["score-file", "a.csv", "--truth", "y", "--pred", "p", "--binned-xauc", "many"])
    assert "--binned-xauc: invalid int value: 'many'" in capsys.readouterr().err


def test_text_columns_keep_every_row(tmp_path):
    (tmp_path / "a.csv").write_text('t,n\n"a, b",1\n,2\nNA,3\n')
    ((text, numbers),) = read(tmp_path / "a.csv", [Column("t", "text"), Column("n")])
    assert text.tolist() == ["a, b", "", "NA"]
    assert numbers.tolist() == [1, 2, 3]
