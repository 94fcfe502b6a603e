"""The facts behind the page: coordinates, neighbours, words found, snapshots side by side."""

import numpy as np
import pytest

from rowwise.inspect import Layout, Projection, _layout
from rowwise.inspect.view import Explorer, Snapshot
from rowwise.inspect.view._search import Search

WORDS = ["tea", "Teapot", "cup", "steam", "pot", ""]


def rows(seed=0, count=6, dim=4):
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


def found(words, text, k=50):
    return [words[row] for row in Search(words)(text, k)]


def test_a_search_gives_the_word_then_those_that_begin_with_it_then_those_that_hold_it():
    assert found(WORDS, "tea") == ["tea", "Teapot", "steam"]
    assert found(WORDS, "POT") == ["pot", "Teapot"]
    assert found(WORDS, "tea", k=2) == ["tea", "Teapot"]
    assert found(WORDS, "zebra") == found(WORDS, "") == []


@pytest.mark.parametrize("words", [["a\nb", "b", "ab"], ["straße", "STRASSE"], ["😀x", "x", ""]])
def test_a_search_is_that_of_plain_python(words):
    for text in {letter for word in words for letter in word} | set(words):
        wanted = text.casefold().replace("\n", " ")
        holding = [w for w in words if wanted and wanted in w.casefold().replace("\n", " ")]
        assert sorted(found(words, text)) == sorted(holding)


def test_many_words_and_many_answers():
    words = [f"w{i}" for i in range(5000)]
    assert (
        found(words, "w49")
        == ["w49", *(w for w in words if w.startswith("w49"))][:1]
        + [w for w in words if w.startswith("w49") and w != "w49"][:49]
    )


def test_words_are_known_by_their_letters_or_else_in_any_case():
    search = Search(["Tea", "tea", "CUP"])
    assert [search.row_of(word) for word in ("tea", "Tea", "cup", "pot")] == [1, 0, 2, None]


def test_rows_lie_along_the_principal_components_of_the_trained_ones():
    vectors, updates = rows(), np.array([1, 2, 0, 3, 1, 0], np.uint32)
    explorer = Explorer([Snapshot("now", vectors, WORDS, updates)])
    expected = Projection.of(vectors[updates > 0], 2)(vectors)
    np.testing.assert_array_equal(explorer.coordinates(0), expected)
    np.testing.assert_array_equal(explorer.untrained, updates == 0)
    one = Explorer([Snapshot("now", rows(dim=1), WORDS)])
    assert one.coordinates(0).shape == (6, 2)
    assert not one.coordinates(0)[:, 1].any()


def test_neighbours_of_an_average_are_those_of_the_whole_space():
    vectors = rows(count=50, dim=8)
    explorer = Explorer([Snapshot("now", vectors)])
    ids, cosines = explorer.near([3, 7], k=5)
    mean = (vectors[3] + vectors[7]) / 2
    expected = vectors @ mean / np.linalg.norm(vectors, axis=1) / np.linalg.norm(mean)
    expected[[3, 7]] = -2
    assert ids.tolist() == np.argsort(-expected)[:5].tolist()
    np.testing.assert_allclose(cosines, expected[ids], rtol=1e-5)


def test_an_earlier_snapshot_is_put_beside_the_last_one_word_by_word():
    early, late = rows(1, 3), rows(2, 3)
    explorer = Explorer(
        [Snapshot("early", early, ["a", "b", "gone"]), Snapshot("late", late, ["new", "b", "a"])]
    )
    np.testing.assert_array_equal(explorer.vectors[0][1:], early[[1, 0]])
    assert np.isnan(explorer.coordinates(0)[0]).all()
    assert not np.isnan(explorer.coordinates(1)).any()
    assert explorer.near([0], snapshot=0)[0].tolist() == []  # it was not there
    assert explorer.near([1], snapshot=0)[0].tolist() == [2]
    moved = {column.name: column.values for column in explorer.columns}["moved since early"]
    np.testing.assert_allclose(moved[1], np.linalg.norm(late[1] - early[1]), rtol=1e-6)


def test_another_training_is_turned_upon_this_one():
    vectors = rows(0, 30, 5)
    turn, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((5, 5)))
    other = Snapshot("other", (vectors @ turn).astype(np.float32))
    explorer = Explorer([other, Snapshot("this", vectors)], align=True)
    np.testing.assert_allclose(explorer.vectors[0], vectors, atol=1e-5)


def test_columns_are_numbers_or_labels():
    columns = {
        "size": {"tea": "2", "cup": "3.5"},
        "kind": {"tea": "drink", "cup": "thing", "pot": "thing"},
    }
    explorer = Explorer([Snapshot("now", rows(), WORDS, np.arange(6, dtype=np.uint32))], columns)
    size, kind, updates, norm = explorer.columns
    np.testing.assert_array_equal(size.values, [2, np.nan, 3.5, np.nan, np.nan, np.nan])
    assert size.labels is None
    assert kind.labels == ["thing", "drink"]
    np.testing.assert_array_equal(kind.values, [1, np.nan, 0, np.nan, 0, np.nan])
    assert (updates.name, updates.log, norm.name) == ("updates", True, "norm")


def test_a_few_whole_numbers_are_labels_in_their_order():
    many = [f"w{i}" for i in range(9)]
    vectors = rows(count=9)
    columns = {
        "stars": dict(zip(many, ["5", "1", "10", "1", "5", "5", "5", "10", ""], strict=True)),
        "length": {word: str(i) for i, word in enumerate(many)},
    }
    stars, length, _ = Explorer([Snapshot("now", vectors, many)], columns).columns
    assert stars.labels == ["1", "5", "10"]
    np.testing.assert_array_equal(stars.values, [1, 0, 2, 0, 1, 1, 1, 2, np.nan])
    assert length.labels is None


@pytest.mark.parametrize(
    ("snapshots", "message"),
    [
        ([], "no rows to show"),
        ([Snapshot("a", rows(count=0))], "no rows to show"),
        ([Snapshot("a", rows(), ["tea"])], "'a' has 1 words for 6 rows"),
        (
            [Snapshot("a", rows(dim=3)), Snapshot("b", rows(dim=4))],
            "vectors of 3 numbers and 'b' of 4",
        ),
        ([Snapshot("a", rows(count=3)), Snapshot("b", rows())], "3 rows and 'b' 6; without words"),
        (
            [Snapshot("a", rows(), list("uvwxyz")), Snapshot("b", rows(), WORDS)],
            "no word in common",
        ),
    ],
)
def test_snapshots_that_do_not_belong_together_are_refused(snapshots, message):
    with pytest.raises(ValueError, match=message):
        Explorer(snapshots)


def test_a_start_that_would_be_one_dot_is_enlarged_about_its_mean():
    rng = np.random.default_rng(0)
    end = rng.standard_normal((50, 4)).astype(np.float32)
    start = (1 + 0.002 * end).astype(np.float32)
    explorer = Explorer([Snapshot("start", start), Snapshot("near", end / 5), Snapshot("end", end)])
    assert explorer.enlarged == [500, 1, 1]
    first, near, last = (explorer.coordinates(i) for i in range(3))
    np.testing.assert_allclose(first - first.mean(axis=0), last - last.mean(axis=0), atol=1e-2)
    np.testing.assert_allclose(near, explorer.projection(end / 5))
    assert np.isfinite(
        Explorer([Snapshot("same", end * 0), Snapshot("end", end)]).coordinates(0)
    ).all()


def test_rows_with_values_by_other_means_are_trained():
    rows = np.eye(3, dtype=np.float32)
    updates, trained = np.zeros(3, np.uint32), np.array([True, True, False])
    explorer = Explorer([Snapshot("now", rows, None, updates, trained)])
    assert explorer.untrained.tolist() == [False, False, True]


@pytest.mark.parametrize(("method", "library"), [("tsne", "sklearn"), ("umap", "umap")])
def test_a_layout_keeps_near_rows_near(method, library):
    pytest.importorskip(library)
    rng = np.random.default_rng(0)
    rows = np.repeat(np.eye(3), 40, axis=0) + 0.05 * rng.standard_normal((120, 3))
    rows[7] = 0
    layout = Layout.of(rows, method)
    places = Explorer([Snapshot("now", rows.astype(np.float32))], layout=layout).coordinates(0)
    np.testing.assert_array_equal(places, layout.coordinates)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(places[:, 0])), [7])
    groups = np.delete(places, 7, axis=0), np.delete(np.repeat([0, 1, 2], 40), 7)
    for row, group in zip(*groups, strict=True):
        distances = np.linalg.norm(groups[0] - row, axis=1)
        assert (groups[1][np.argsort(distances)[:10]] == group).all()
    np.testing.assert_array_equal(Layout.of(rows, method).coordinates, places)


def test_a_layout_places_the_rows_updated_most_of_one_snapshot(monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.setitem(_layout._MOST, "tsne", 10)
    rows = np.random.default_rng(0).standard_normal((30, 3)).astype(np.float32)
    layout = Layout.of(rows, "tsne", updates=np.arange(30, dtype=np.uint32))
    assert np.flatnonzero(~np.isnan(layout.coordinates[:, 0])).tolist() == list(range(20, 30))
    with pytest.raises(ValueError, match="t-SNE has places for one snapshot, not for 2"):
        Explorer([Snapshot("a", rows), Snapshot("b", rows)], layout=layout)
    with pytest.raises(ValueError, match="t-SNE needs 5 rows or more, and there are 4"):
        Layout.of(rows[:4], "tsne")
