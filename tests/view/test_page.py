"""The page in a real browser, with real clicks: headless Chromium, where there is one."""

import csv
import os
import shutil

import pytest

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no chromium; CHROMIUM names one", allow_module_level=True)


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[("light", 1200, 800), ("dark", 390, 844)], ids=["wide", "narrow"])
def page(browser, server, request):
    scheme, width, height = request.param
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": height})
    faults = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    page.goto(server.address)
    page.wait_for_selector("body[data-ready]")
    yield page
    page.close()
    assert faults == []


def pixels(page):
    """How many pixels of each colour the points take."""
    return page.evaluate(
        """() => {
          const canvas = document.getElementById("points"), found = {};
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          for (let i = 0; i < data.length; i += 4)
            if (data[i + 3]) {
              const colour = data.slice(i, i + 3).join();
              found[colour] = (found[colour] ?? 0) + 1;
            }
          return found;
        }"""
    )


def settled(page):
    page.evaluate("() => new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")


def place_of(page, row):
    """Where on the page a row is drawn, by what the server says and the page's own zoom."""
    return page.evaluate("(row) => window.rowwise.where(row)", row)


def test_words_with_markup_are_text(page):
    page.fill("#search", "alert")
    page.wait_for_selector("#found li >> nth=1")
    assert page.inner_text("#found li >> nth=0") == "<img src=x onerror=alert(1)>"
    assert page.inner_text("#title") == "<i>Rows</i>"
    assert page.query_selector("#found img, #found script, h1 i") is None
    page.click("#found li >> nth=0 >> button")
    page.wait_for_selector("#near li")
    assert page.inner_text("#near-title") == "Near to <img src=x onerror=alert(1)>"


def test_a_typed_word_and_an_average_show_their_neighbours(page, server):
    page.fill("#words", "word5, word9 ,nonesuch")
    page.press("#words", "Enter")
    page.wait_for_selector("#near li")
    assert page.inner_text("#near-title") == "Near to word5 + word9"
    assert "Not among the words: nonesuch" in page.inner_text("#near-note")
    ids, cosines = server.explorer.near([9, 13], 20, 1)
    lines = [line.split() for line in page.locator("#near li").all_inner_texts()]
    words = [server.explorer.words[row] for row in ids]
    assert lines[0] == [f"{cosines[0]:.3f}", words[0]]
    assert [line[0] for line in lines] == [f"{cosine:.3f}" for cosine in cosines]


def test_colours_follow_the_column_and_rows_never_trained_are_grey(page):
    by_kind = pixels(page)
    assert {"0,114,178", "230,159,0"} <= set(by_kind)
    assert "untrained (1)" in page.inner_text("#legend")
    assert len(by_kind) == 3  # two kinds and the grey of the row untrained
    page.select_option("#colour", label="updates")
    page.wait_for_selector("#ramp")
    settled(page)
    assert len(pixels(page)) > 20
    page.select_option("#colour", label="nothing")
    page.wait_for_selector("#ramp", state="detached")
    settled(page)
    assert len(pixels(page)) == 2


def test_the_slider_moves_the_rows(page, server):
    last = pixels(page)
    slider = page.locator("#slider")
    slider.fill("0.5")
    start = f"start (enlarged {server.explorer.enlarged[0]} times)"
    assert page.inner_text("#snapshot") == f"{start} → end 50%"
    settled(page)
    between = pixels(page)
    slider.fill("0")
    assert page.inner_text("#snapshot") == start
    settled(page)
    first = pixels(page)
    assert first != between != last
    # At the start all rows lie on one heap, which is enlarged to be seen.
    assert sum(first.values()) > 0.8 * sum(last.values())
    page.click("#play")
    expect(page.locator("#snapshot")).to_have_text("end")


def test_rows_chosen_with_the_mouse_are_exported(page, server, tmp_path):
    page.click("#choose")
    box = page.locator("#labels").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=3)
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] - 2, steps=3)
    page.mouse.up()
    expect(page.locator("#count")).to_have_text("60")
    page.check("#with-vectors")
    with page.expect_download() as download:
        page.click("#export")
    download.value.save_as(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert sorted(int(line["row"]) for line in lines) == list(range(60))
    assert float(lines[5]["d1"]) == server.explorer.vectors[1][int(lines[5]["row"]), 1]
    page.click("#clear")
    assert page.inner_text("#count") == "0"
    assert page.is_disabled("#export")


def test_a_click_on_a_point_shows_its_neighbours_and_zoom_keeps_it_under_the_pointer(page):
    box = page.locator("#labels").bounding_box()
    last = 59  # it lies at the end of the heap, alone
    for _ in range(2):
        x, y = place_of(page, last)
        page.mouse.move(box["x"] + x, box["y"] + y)
        expect(page.locator("#tip")).to_be_visible()
        word = page.inner_text("#tip b")
        assert "updates: 59" in page.inner_text("#tip")
        page.mouse.click(box["x"] + x, box["y"] + y)
        expect(page.locator("#near-title")).to_have_text(f"Near to {word}")
        assert word == f"word{last - 4}"
        page.mouse.wheel(0, -100)
        settled(page)
        assert place_of(page, last) == pytest.approx([x, y], abs=1)


def test_a_word_in_view_is_marked_where_it_is_and_the_others_fade(page):
    before = place_of(page, 30)
    page.fill("#search", "word26")
    page.click("#found li >> nth=0 >> button")
    expect(page.locator("#near-title")).to_have_text("Near to word26")
    settled(page)
    assert place_of(page, 30) == before
    opaque = "() => [...window.rowwise.pixels].filter((pixel) => pixel >>> 24 === 255).length"
    faded = "() => [...window.rowwise.pixels].filter((pixel) => pixel >>> 24 === 50).length"
    assert page.evaluate(faded) > 0
    assert page.evaluate(opaque) > 0
    page.evaluate("() => { window.rowwise.pan(10000, 0); window.rowwise.draw(); }")
    page.click("#found li >> nth=0 >> button")
    page.wait_for_function("() => window.rowwise.where(30)[0] < 5000")  # once the server has told
    x, y = place_of(page, 30)
    box = page.locator("#labels").bounding_box()
    assert (x, y) == pytest.approx((box["width"] / 2, box["height"] / 2), abs=1)
    page.focus("#labels")
    page.keyboard.press("Escape")
    expect(page.locator("#near-title")).to_be_hidden()
    settled(page)
    assert page.evaluate(faded) == 0


def test_a_click_on_the_legend_shows_its_rows_alone(page):
    page.click("#legend button >> nth=0")
    settled(page)
    assert set(pixels(page)) == {"0,114,178"}
    hidden = page.evaluate("() => [...window.rowwise.hidden]")
    assert sum(hidden) == 31  # every second row, and the one untrained
    page.click("#choose")
    box = page.locator("#labels").bounding_box()
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] - 2, steps=3)
    page.mouse.up()
    expect(page.locator("#count")).to_have_text("29")
    page.click("#clear")
    page.click("#legend button >> nth=2")
    settled(page)
    assert len(pixels(page)) == 2
    page.click("#legend button >> nth=0")
    page.click("#legend button >> nth=2")
    settled(page)
    assert len(pixels(page)) == 3


def test_chosen_rows_and_their_export_stay_in_sight(page):
    page.fill("#search", "word")
    page.wait_for_selector("#found li >> nth=20")
    page.fill("#words", "word5")
    page.press("#words", "Enter")
    page.wait_for_selector("#near li >> nth=19")
    page.locator("#near li").last.scroll_into_view_if_needed()
    expect(page.locator("#export")).to_be_in_viewport(ratio=1)


def test_a_server_that_ended_is_said(browser, server):
    page = browser.new_page()
    page.goto(server.address)
    page.wait_for_selector("body[data-ready]")
    page.route("**/search*", lambda route: route.abort())
    page.fill("#search", "word")
    page.wait_for_selector("#trouble:not([hidden])")
    assert "is rowwise view still running?" in page.inner_text("#trouble")
    page.close()
