"""The report: what is in the page, whatever the words are."""

import gzip
import json
import os
import re
import shutil
from base64 import b64decode

import numpy as np
import pytest

import rowwise
from rowwise.inspect import Projection, nearest

plotly = pytest.importorskip("plotly")
from rowwise.inspect.report import _figures as figures  # noqa: E402
from rowwise.inspect.report import write_report  # noqa: E402
from rowwise.inspect.report._neighbors import neighbors  # noqa: E402
from rowwise.inspect.report._rows import Rows  # noqa: E402

HOSTILE = ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", '"&amp;', ""]


def trained(rows=40, dim=5, touched=25):
    table = rowwise.Table(rows, dim, "adam", seed=0)
    rng = np.random.default_rng(1)
    for last in range(1, touched):
        ids = np.arange(last)
        table.update(ids, rng.standard_normal((last, dim)))
    words = HOSTILE + [f"word{i}" for i in range(rows - len(HOSTILE))]
    table.vocabulary = rowwise.Vocabulary(words)
    return table


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    table = trained()
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(
        path,
        table,
        title="Forty <rows>",
        history={"loss": [3.0, 2.0, 1.5], "val_loss": [3.5, 2.5, 2.4], "accuracy": [0.1, 0.5, 0.9]},
        start=np.zeros(table.shape),
        row_labels=["even", "<odd>"] * 20,
    )
    return path.read_text(encoding="utf-8")


def body(page):
    return page[page.index("<body>") : page.index('<script type="application/octet-stream"')]


def packed(page):
    """Return what the browser unpacks: Plotly, the pictures, the neighbours."""
    content = re.search(r'id="packed">([A-Za-z0-9+/=]*)</script>', page).group(1)
    return json.loads(gzip.decompress(b64decode(content)))


def test_the_page_needs_no_network(page):
    assert not re.search(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    assert "Plotly" in packed(page)["plotly"]
    assert len(page) < 2.5e6


CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium; CHROMIUM names one")
def test_a_browser_draws_the_pictures_and_answers(page, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    (tmp_path / "r.html").write_text(page, encoding="utf-8")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page()
        faults = []
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on("dialog", lambda dialog: faults.append(dialog.message))
        opened.goto((tmp_path / "r.html").as_uri())
        opened.wait_for_selector("body[data-ready]", timeout=120_000)
        assert opened.locator(".js-plotly-plot").count() == len(packed(page)["pictures"]) == 6
        opened.fill("#word", "word3")
        near = packed(page)["near"]
        lines = opened.locator("#answer tr").all_inner_texts()
        ids = near["ids"][near["names"].index("word3")]
        assert [line.split("\t")[1] for line in lines] == [near["names"][i] for i in ids]
        opened.fill("#word", "nonesuch")
        assert opened.inner_text("#answer") == "not among these rows"
        assert faults == []
        browser.close()


def test_words_are_text_whatever_markup_they_hold(page):
    assert "<img src=x" not in body(page)
    assert "alert(1)</script>" not in body(page)
    assert "Forty &lt;rows&gt;" in page
    assert HOSTILE[0] in packed(page)["near"]["names"]


def test_rows_never_trained_are_counted_and_named(page):
    assert "16 rows are untrained" in page
    assert ">word20, word21," in page
    assert "(padding)" not in page.partition("Which")[2].partition("</details>")[0]


def test_what_explains_the_variance_is_stated(page):
    table = trained()
    vectors = table.to_numpy()[table.update_counts > 0].astype(np.float64)
    singular = np.linalg.svd(vectors - vectors.mean(axis=0), compute_uv=False) ** 2
    shares = [f"{share:.1%}" for share in singular[:3] / singular.sum()]
    assert f"which explain {', '.join(shares)} of" in page


def test_a_table_alone_has_a_report_too(tmp_path):
    write_report(tmp_path / "r.html", rowwise.Table(3, 1, seed=0))
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "3 rows are untrained" in text
    assert "How far rows moved" not in text


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"start": np.zeros((3, 5))}, r"start has shape \(3, 5\); the table has \(40, 5\)"),
        ({"row_labels": ["a"]}, "row_labels has 1 labels for 40 rows"),
    ],
)
def test_what_does_not_fit_the_table_is_an_error_and_writes_nothing(tmp_path, options, why):
    with pytest.raises(ValueError, match=why):
        write_report(tmp_path / "r.html", trained(), **options)
    assert not list(tmp_path.iterdir())


def test_a_classifier_comes_first_with_its_mistakes_and_words(tmp_path):
    outcome = {
        "texts": 9, "labels": ["<a>", "b"], "best_epoch": 2, "epochs": 5, "refitted": True,
        "held_out": {"texts": 1, "accuracy": 0.5, "majority": 0.25, "confusion": [[3, 1], [0, 4]]},
        "test": None,
        "mistakes": [{"text": "t", "labels": ["b"], "given": "<a>", "probability": 0.9,
                      "words": [["<img src=x>", 1.5], ["word", -0.5]]}],
        "telling_words": {"<a>": [["<script>", 2.0]], "b": []},
    }  # fmt: skip
    write_report(tmp_path / "r.html", trained(), classifier=outcome)
    text = body((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert text.index("1 text: accuracy 0.500; always the most frequent label: 0.250") < 1000
    assert "by the held-out loss; then trained again, on the held-out texts too" in text
    assert "<th>1 &lt;a&gt;</th>" in text
    assert '--share:0.750">3<' in text
    assert "<b>&lt;a&gt;</b> 0.900, and it is <b>b</b>" in text
    assert 'class="for" style="--share:1.00" title="+1.50">&lt;img src=x&gt;' in text
    assert 'title="+2.00">&lt;script&gt;' in text
    assert "<img src=x" not in text


def test_each_curve_has_its_epochs():
    pictures = figures.curves({"loss": [2.0, 1.0], "val_loss": [2.5, 1.5], "accuracy": [0.5, 0.75]})
    assert list(pictures) == ["loss", "accuracy"]
    assert [list(trace.y) for trace in pictures["loss"].data] == [[2.0, 1.0], [2.5, 1.5]]
    assert list(pictures["loss"].data[0].x) == [1, 2]
    (held_out,) = figures.curves({"loss": [2.0], "val_accuracy": [0.5]})["accuracy"].data
    assert (held_out.name, list(held_out.y)) == ("held out", [0.5])


def test_every_row_has_its_bar_in_the_histogram():
    rows = Rows.of(trained(), None, None)
    (bars,) = figures.histogram_of_updates(rows).data
    assert dict(zip(bars.x, bars.y, strict=True)) == {
        "0": 16, "1": 1, "2-3": 2, "4-7": 4, "8-15": 8, "16-31": 9,
    }  # fmt: skip


def test_a_picture_shows_each_row_once_for_each_colouring():
    rows = Rows.of(trained(), np.zeros((40, 5)), ["even", "odd"] * 20)
    places = rows.projection()(rows.vectors)
    for dimensions in (2, 3):
        figure, shown = figures.cloud(rows, places[:, :dimensions], rows.drawn())
        assert list(shown) == ["label", "updates", "norm", "distance moved"]
        for visible in shown.values():
            traces = [t for t, on in zip(figure.data, visible, strict=True) if on]
            assert sum(len(trace.x) for trace in traces) == 40
            assert (traces[-1].name, len(traces[-1].x)) == ("untrained", 16)


def test_a_label_has_one_colour_in_every_picture():
    labels = ["a"] * 5 + ["b"] * 15 + ["c"] * 20
    rows = Rows.of(trained(), None, labels)
    places = rows.projection()(rows.vectors)
    colours = []
    for drawn in (rows.drawn(), np.arange(8)):
        figure, _ = figures.cloud(rows, places[:, :2], drawn)
        colours.append({t.name: t.marker.color for t in figure.data[:3]})
    assert colours[0] == colours[1]


def test_labels_past_the_palette_are_one_group():
    rows = Rows.of(trained(), None, [f"label{i % 20}" for i in range(40)])
    figure, _ = figures.cloud(rows, rows.projection()(rows.vectors), rows.drawn())
    groups = [trace for trace in figure.data if trace.showlegend is not False][:-1]
    assert groups[-1].name == "other labels"
    assert sum(len(group.x) for group in groups) == 24


def test_large_tables_are_drawn_in_part_with_both_kinds_of_rows():
    rows = Rows.of(trained(rows=400, touched=30), None, None)
    drawn = rows.drawn(100)
    assert len(drawn) == len(set(drawn)) <= 100
    assert rows.trained[drawn].sum() == 29
    assert (~rows.trained[drawn]).sum() >= 20


def test_neighbors_are_those_of_the_whole_space():
    table = trained()
    near = neighbors(Rows.of(table, None, None))
    vectors = table.to_numpy()
    for row in (0, 7, 23):
        name = table.vocabulary.tokens[row]
        place = near["names"].index(name)
        ids, cosines = nearest(vectors, row, 8, without=np.arange(24, 40))
        assert [near["names"][other] for other in near["ids"][place]] == [
            table.vocabulary.tokens[i] or "(padding)" for i in ids
        ]
        np.testing.assert_allclose(np.array(near["cosines"][place]) / 1000, cosines, atol=5.1e-4)


def test_of_large_tables_the_rows_updated_most_have_neighbors(monkeypatch):
    table = trained()
    monkeypatch.setattr("rowwise.inspect.report._neighbors._COSINES", 24 * 5)
    near = neighbors(Rows.of(table, None, None))
    assert near["asked"] == len(near["ids"]) == 5
    assert near["names"][:5] == [x or "(padding)" for x in table.vocabulary.tokens[:5]]
    whole = neighbors(Rows.of(table, None, None))
    assert whole["first"] in near["names"][:5]
    for row, ids in enumerate(near["ids"]):
        expected, _ = nearest(table.to_numpy(), row, 8, without=np.arange(24, 40))
        names = [table.vocabulary.tokens[i] or "(padding)" for i in expected]
        assert [near["names"][i] for i in ids] == names


def test_the_row_of_padding_is_no_row_of_the_report(tmp_path):
    table = rowwise.Table(4, 2, "sgd", init="zeros")
    table.vocabulary = rowwise.Vocabulary(["tea", "cup", "pot"], mask_token="")
    for _ in range(3):
        table.update([0, 1], [[0, 0], [1, 2]])  # the mask makes padding's gradient zero
    rows = Rows.of(table, np.ones((4, 2)), ["none", "a", "b", "c"])
    assert rows.names == ["tea", "cup", "pot"]
    assert rows.trained.tolist() == [True, False, False]
    assert rows.row_labels == ["a", "b", "c"]
    assert rowwise.inspect.summary(table)["most_updated_rows"] == ["tea"]
    write_report(tmp_path / "r.html", table)
    text = body((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "2 rows are untrained" in text
    assert "(padding)" not in text


def test_rows_with_values_by_other_means_are_trained():
    table = rowwise.Table(3, 2, init=np.eye(3, 2))
    assert Rows.of(table, None, None).trained.all()


def test_one_is_singular_and_zero_has_its_place_on_the_logarithmic_axis():
    table = rowwise.Table(3, 2, "sgd", init="zeros")
    table.update([0], [[1, 2]])
    for _ in range(30):
        table.update([1], [[1, 2]])
    rows = Rows.of(table, np.zeros((3, 2)), None)
    picture = figures.movement(rows, rows.drawn())
    assert "<br>1 update<br>" in picture.data[0].text[0]
    assert "<br>30 updates<br>" in picture.data[0].text[1]
    assert picture.layout.xaxis.type == "log"
    assert list(picture.layout.xaxis.ticktext) == ["0", "1", "3", "10", "30"]
    assert [list(trace.x) for trace in picture.data] == [[1, 30], [0.3]]
    assert picture.data[1].marker.color == "gray"


def test_projection_equals_singular_values():
    rows = np.random.default_rng(0).standard_normal((300, 6)) * [5, 4, 3, 1, 1, 1]
    projection = Projection.of(rows, 3)
    _, singular, directions = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(projection.axes @ directions[:3].T), np.eye(3), atol=1e-8)
    np.testing.assert_allclose(
        projection.variance_explained, (singular**2 / (singular**2).sum())[:3], rtol=1e-10
    )
    assert (projection.axes.max(axis=1) == np.abs(projection.axes).max(axis=1)).all()


def test_rows_that_are_all_equal_are_one_point():
    projection = Projection.of(np.ones((4, 2), np.float32), 2)
    assert (projection(np.ones((4, 2))) == 0).all()
    assert (projection.variance_explained == 0).all()
