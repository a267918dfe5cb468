"""MovieLens-100K in both layouts: values by hand, errors that help."""

import numpy as np
import pytest
import torch

from ordkernels.data import movielens


def recbole(folder, ratings):
    (folder / "ml-100k.inter").write_text(
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + "".join("\t".join(map(str, r)) + "\n" for r in ratings)
    )
    (folder / "ml-100k.user").write_text("user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
                                         "1\t24\tM\ttechnician\t1\n2\t53\tF\tother\t2\n")  # fmt: skip
    (folder / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n7\tA\t1995\tComedy Drama\n8\tB\t\tDrama\n"
    )


def grouplens(folder, ratings):
    (folder / "u.data").write_text("".join("\t".join(map(str, r)) + "\n" for r in ratings))
    (folder / "u.user").write_text("1|24|M|technician|1\n2|53|F|other|2\n")
    flags = lambda *on: "|".join(str(int(i in on)) for i in range(19))  # noqa: E731
    (folder / "u.item").write_text(f"7|Caf\xe9 (1995)|01-Jan-1995||u|{flags(5, 8)}\n8|B|||u|{flags(8)}\n", encoding="latin-1")


def grouplens_1m(folder, ratings):
    (folder / "ratings.dat").write_text("".join("::".join(map(str, r)) + "\n" for r in ratings))
    (folder / "users.dat").write_text("1::M::24::technician::1\n2::F::53::other::2\n")
    (folder / "movies.dat").write_text("7::Caf\xe9: a\x85b (1995)::Comedy|Drama\n8::B::Drama\n", encoding="latin-1")


RATINGS = [[1, 7, 4, 100], [2, 8, 3, 100], [1, 8, 5, 200], [1, 9, 2, 200 + 1801], [2, 7, 1, 4000], [1, 7, 5, 5000], [2, 9, 4, 5000]]


@pytest.mark.parametrize("layout", [recbole, grouplens, grouplens_1m])
def test_movielens_in_every_layout(tmp_path, layout):
    layout(tmp_path, RATINGS[::-1])  # any order
    train, test = movielens(tmp_path, sessions=2, items=2, long=3, test_share=0.2)
    assert len(train["y"]) == 5
    assert len(test["y"]) == 2  # both of the last second
    both = {k: torch.cat((train[k], test[k])) for k in train}
    assert both["click"].tolist() == [float(y >= 4) for y in both["y"]]
    row = int(((both["user_id"] == 1) & (both["time_ms"] == 5_000_000)).nonzero())
    assert both["sessions"][row].tolist() == [[1, 2], [3, 0]]  # films 7, 8, then 9 over half an hour later
    assert both["long"][row].tolist() == [1, 2, 3]
    np.testing.assert_allclose(both["feedback"][row, 0, 1], [1, np.log(6), np.log1p(4800 / 3600)], rtol=1e-5)
    first = int(((both["user_id"] == 1) & (both["time_ms"] == 100_000)).nonzero())
    assert not both["sessions"][first].any()
    assert both["has_user"][first] == 0
    np.testing.assert_allclose(both["q_user"][row], np.quantile([4, 5, 2], (np.arange(20) + 0.5) / 20), rtol=1e-6)
    assert bool(both["dense"].isfinite().all())


def test_movielens_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no ml-100k.inter and no ml-1m.inter and no u.data and no ratings.dat in .*grouplens.org"):
        movielens(tmp_path)
    recbole(tmp_path, RATINGS)
    with pytest.raises(ValueError, match="test_share"):
        movielens(tmp_path, test_share=1.0)
    (tmp_path / "ml-100k.user").unlink()
    with pytest.raises(FileNotFoundError, match=r"no ml-100k.user in"):
        movielens(tmp_path)
    (tmp_path / "ml-100k.user").write_text("user_id:token\tage:token\n1\t2\n")
    with pytest.raises(ValueError, match="expected the columns gender, once each, got 'user_id', 'age'"):
        movielens(tmp_path)


def test_half_stars_are_kept(tmp_path):
    grouplens(tmp_path, [[1 + i % 2, 7 + i % 2, 0.5 + i / 2, 100 + i] for i in range(10)])
    train, test = movielens(tmp_path, sessions=2, items=2, long=3)
    assert torch.cat((train["y"], test["y"])).tolist() == [0.5 + i / 2 for i in range(10)]


def test_recbole_columns_are_read_by_name(tmp_path):
    recbole(tmp_path, RATINGS)
    rows = "".join(f"{y}\t{film}\t{time}\t{user}\n" for user, film, y, time in RATINGS)
    expected = movielens(tmp_path, sessions=2, items=2, long=3)
    (tmp_path / "ml-100k.inter").write_text("rating:float\titem_id:token\ttimestamp:float\tuser_id:token\n" + rows)
    for got, right in zip(movielens(tmp_path, sessions=2, items=2, long=3), expected, strict=True):
        assert all(torch.equal(got[name], right[name]) for name in right)
    (tmp_path / "ml-100k.inter").write_text("rating:float\titem_id:token\twhen:float\tuser_id:token\n" + rows)
    with pytest.raises(ValueError, match="expected the columns timestamp, once each, got 'rating', 'item_id', 'when', 'user_id'"):
        movielens(tmp_path)


def test_layouts_of_the_same_data_agree(tmp_path):
    found = []
    for layout in (recbole, grouplens_1m, grouplens):
        folder = tmp_path / layout.__name__
        folder.mkdir()
        layout(folder, RATINGS)
        found.append(movielens(folder, sessions=2, items=2, long=3))
    for a, b, c in zip(*found, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert all(torch.equal(a[name], c[name]) for name in a if name != "dense")  # that has flags of 19 genres
    for name in ("inter", "user", "item"):
        (tmp_path / "recbole" / f"ml-100k.{name}").rename(tmp_path / "recbole" / f"ml-1m.{name}")
    movielens(tmp_path / "recbole", sessions=2, items=2, long=3)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1\t7\tnan\t5", "u.data: rating: expected numbers, got a missing one in row 7"),
        ("1\t7\t4\t1_0", "u.data: timestamp: expected numbers, got '1_0' in row 7"),
        ("1.5\t7\t4\t10", "u.data: user_id: expected whole numbers, got 1.5 in row 7"),
        ("1\t7\t4", "u.data: expected the columns user_id item_id rating timestamp in every row, got 3 cells in row 7"),
    ],
)
def test_ratings_that_cannot_be_read_are_named(tmp_path, row, message):
    grouplens(tmp_path, [*RATINGS, [row]])
    with pytest.raises(ValueError, match=message):
        movielens(tmp_path, sessions=2, items=2, long=3)
