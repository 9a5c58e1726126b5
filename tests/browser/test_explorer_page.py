"""The page of `attent explore` in Chromium: every control, the keyboard, hostile samples."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explored import Explored, explored
from explored_page import leave, open_page, text_of, wait_for_text
from hostile_run import hostile_run
from PIL import Image


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explored]:
    with explored(hostile_run(tmp_path_factory.mktemp("explored") / "run")) as running:
        yield running


def test_the_page_is_there_before_the_first_query_ends(page: Any, server: Explored) -> None:
    held: list[Any] = []

    def hold(route: Any) -> None:
        held.append(route)

    page.route("**/api/state", hold)
    with page.expect_request("**/api/state"):
        page.goto(server.url)
    assert page.locator("#tab-samples").is_visible()
    assert text_of(page, "h1") == "attent explore"
    assert page.get_attribute("#charts", "aria-busy") == "true"
    held[0].continue_()
    page.wait_for_selector("#charts[aria-busy=false]")


def test_charts_show_the_newest_losses_and_a_filter_counts(page: Any, server: Explored) -> None:
    open_page(page, server)
    assert page.locator(".card h2").all_inner_texts()[0] == "loss"
    assert "70 match" in text_of(page, "#matching")
    page.fill("#where", "loss < 10")
    page.press("#where", "Enter")
    wait_for_text(page, "#matching", "10 match")
    page.click("#clear")
    wait_for_text(page, "#matching", "70 match")


def num_pixels(page: Any, color: tuple[int, int, int]) -> int:
    """Number of pixels of about this colour in the first chart."""
    shot = page.locator(".card canvas").first.screenshot()
    pixels = np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)
    return int((np.abs(pixels - color).max(axis=-1) < 12).sum())


def test_a_chart_shows_matching_samples_dark_and_all_samples_light(
    page: Any, server: Explored
) -> None:
    dark, light = (47, 111, 208), (201, 211, 224)
    open_page(page, server)
    everything = num_pixels(page, dark)
    assert everything > 500
    assert num_pixels(page, light) < everything / 10
    page.fill("#where", "loss >= 100")
    page.press("#where", "Enter")
    wait_for_text(page, "#matching", "29 match")
    page.wait_for_selector("#charts[aria-busy=false]")
    assert 0 < num_pixels(page, dark) < 0.7 * everything
    assert num_pixels(page, light) > 0.3 * everything


def test_a_range_is_brushed_with_the_mouse_and_typed_by_keyboard(
    page: Any, server: Explored
) -> None:
    open_page(page, server)
    box = page.locator(".card canvas").first.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.3, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, middle, steps=5)
    page.mouse.up()
    page.wait_for_selector("#chips .chip")
    page.click("#chips .chip")
    wait_for_text(page, "#matching", "70 match")
    page.get_by_label("loss from", exact=True).fill("100")
    page.get_by_label("loss from", exact=True).press("Enter")
    wait_for_text(page, "#matching", "29 match")
    assert "loss: 100 to …" in text_of(page, "#chips")


def test_categories_columns_and_groups_can_be_chosen(page: Any, server: Explored) -> None:
    open_page(page, server)
    page.click("button.category:has-text('few')")
    wait_for_text(page, "#matching", "20 match")
    page.click("button.category:has-text('few')")
    wait_for_text(page, "#matching", "70 match")
    page.select_option("#by", "source")
    page.wait_for_selector("#charts[aria-busy=false]")
    page.check("#columns input[value=visits]")
    page.wait_for_selector(".card h2:text-is('visits')")
    page.uncheck("#columns input[value=visits]")
    page.wait_for_selector(".card h2:text-is('visits')", state="detached")


def test_two_columns_are_drawn_against_each_other(page: Any, server: Explored) -> None:
    open_page(page, server, "scatter")
    page.select_option("#scatter-x", "loss")
    page.select_option("#scatter-y", "loss_round_0")
    wait_for_text(page, "#scatter-note", "1 lack one of the values")
    assert page.get_attribute("#scatter-chart", "aria-label") == "Density of loss_round_0 over loss"


def test_samples_are_listed_and_one_is_opened_and_closed_by_keyboard(
    page: Any, server: Explored
) -> None:
    open_page(page, server, "samples")
    for order in page.locator("#order option").evaluate_all("all => all.map(one => one.value)"):
        with page.expect_response("**/api/previews"):
            page.select_option("#order", order)
            page.dispatch_event("#order", "change")
        wait_for_text(page, "#samples-note", "match, of")
        assert page.locator(".sample").count() == 24
    page.fill("#count", "3")
    page.press("#count", "Enter")
    page.wait_for_function("() => document.querySelectorAll('.sample').length === 3")
    page.click("#shuffle")
    wait_for_text(page, "#samples-note", "random samples")
    page.locator(".sample").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#details h3")
    assert "Where it is stored" in text_of(page, "#details")
    page.keyboard.press("Escape")
    assert page.locator("#details").is_hidden()
    assert page.evaluate("document.activeElement.className") == "sample"


def test_a_selection_is_tried_and_its_command_is_shown(page: Any, server: Explored) -> None:
    open_page(page, server, "what-if")
    page.select_option("#strategy", "key")
    page.fill("#key", "loss - 1")
    page.fill("#ratio", "0.5")
    page.fill("#select-where", "loss >= 0")
    page.select_option("#select-by", "source")
    page.select_option("#quotas", "equal")
    page.select_option("#select-groups", "source")
    page.fill("#seed", "7")
    page.press("#seed", "Enter")
    page.wait_for_selector("#what-if pre")
    assert "--set 'key=\"loss - 1\"'" in text_of(page, "#what-if pre")
    assert "Which groups gain and lose" in text_of(page, "#what-if")
    page.locator("#what-if .link").first.click()
    page.wait_for_selector("#details h3")
    page.keyboard.press("Escape")
    page.fill("#select-where", "nothing = 1")
    page.press("#select-where", "Enter")
    page.wait_for_selector("#problem:not([hidden])")
    assert "unknown column 'nothing'" in text_of(page, "#problem")


def test_sql_is_answered_and_a_wrong_statement_says_why(page: Any, server: Explored) -> None:
    open_page(page, server, "sql")
    page.fill("#sql", "SELECT count(*) AS n FROM losses")
    page.press("#sql", "Control+Enter")
    wait_for_text(page, "#sql-rows", "70")
    page.fill("#sql", "DROP TABLE losses")
    page.click("#sql-form button")
    page.wait_for_selector("#problem:not([hidden])")
    assert "SELECT" in text_of(page, "#problem")


def test_a_sample_is_marked_and_the_marks_are_saved_and_exported(page: Any, tmp_path: Path) -> None:
    with explored(hostile_run(tmp_path / "run"), "--allow-marks") as server:
        open_page(page, server, "samples")
        page.locator(".sample").first.click()
        page.get_by_role("button", name="exclude", exact=True).click()
        wait_for_text(page, "#marks-note", "1 changes not saved")
        page.click("#save-marks")
        page.wait_for_selector("#columns input[value=marks]")
        with page.expect_download() as download:
            page.click("#export-marks")
        assert "1,28,exclude," in Path(download.value.path()).read_text()
        leave(page)


def predicting(page: Any, kind: str, answer: dict[str, Any]) -> None:
    """Let the page believe that the run has a model which gives `answer`."""

    def with_model(route: Any) -> None:
        state = route.fetch().json()
        route.fulfill(json=state | {"predicts": kind})

    page.route("**/api/state", with_model)
    page.route("**/api/predict", lambda route: route.fulfill(json=answer))


def test_tokens_are_coloured_by_their_loss(page: Any, server: Explored) -> None:
    tokens = [["<s>", None], ["the ", 0.5], ["<b>cat</b>", 4.0]]
    predicting(page, "tokens", {"checkpoint": "00002", "tokens": tokens})
    open_page(page, server, "samples")
    page.locator(".sample").first.click()
    page.get_by_role("button", name="Ask the model", exact=True).click()
    page.wait_for_selector(".token")
    assert page.locator(".token").all_inner_texts() == ["<s>", "the ", "<b>cat</b>"]
    heat = "one => getComputedStyle(one).getPropertyValue('--heat')"
    assert page.locator(".token").nth(2).evaluate(heat) == "85%"
    assert "uncounted" in page.locator(".token").first.get_attribute("class")


def test_a_confident_other_class_is_said_for_every_shown_sample(
    page: Any, server: Explored
) -> None:
    classes = [["<i>3</i>", 0.9], ["7", 0.1]]
    predicting(page, "classes", {"checkpoint": "00002", "classes": classes, "label": "7"})
    open_page(page, server, "samples")
    page.wait_for_selector(".sample")
    page.click("#predict-shown")
    wait_for_text(page, ".guess", "model: <i>3</i> (90 %)")
    page.locator(".sample").first.click()
    page.get_by_role("button", name="Ask the model", exact=True).click()
    wait_for_text(page, ".prediction", "The model is 90.0 % sure of <i>3</i>; the label is 7.")


def test_tabs_are_moved_between_by_arrow_keys(page: Any, server: Explored) -> None:
    open_page(page, server)
    page.focus("#tab-distributions")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-scatter", "aria-selected") == "true"
    page.keyboard.press("ArrowLeft")
    assert page.locator("#panel-distributions").is_visible()


def test_the_keyboard_reaches_every_control_in_order(page: Any, server: Explored) -> None:
    open_page(page, server)
    seen: list[str] = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "(document.activeElement.id || document.activeElement.value"
                " || document.activeElement.innerText || '')"
            )
        )
    ids = ["where", "clear", "by", "loss", "tab-distributions", "panel-distributions"]
    assert [name for name in dict.fromkeys(seen) if name in ids] == ids


def test_hostile_samples_execute_nothing(page: Any, server: Explored) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    open_page(page, server, "samples")
    page.select_option("#order", "easiest")
    wait_for_text(page, "#gallery", "<script>window.executed = 1</script>")
    page.locator(".sample").first.click()
    page.wait_for_selector("#details h3")
    wait_for_text(page, "#details", "broken: the image cannot be decoded")
    assert "<img src=x onerror=window.executed=1>" in text_of(page, "#details")
    assert page.evaluate("window.executed") is None
    assert page.locator("#gallery script, #details script, main svg").count() == 0
    origin = re.match(r"http://[^/]+/", server.url)
    assert origin
    assert [url for url in requests if not url.startswith((origin[0], "data:"))] == []


def test_a_wrong_token_is_refused(page: Any, server: Explored) -> None:
    address = server.url.rstrip("/").rpartition("/")[0]
    answer = page.request.get(f"{address}/{'a' * 43}/")
    assert answer.status == 403


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "view", ["distributions", "scatter", "samples", "label-errors", "what-if", "sql"]
)
def test_axe_finds_nothing_serious(page: Any, server: Explored, view: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=scheme)
    open_page(page, server, view)
    page.wait_for_load_state("networkidle")
    if view == "samples":
        page.locator(".sample").first.click()
        page.wait_for_selector("#details h3")
    if view in ("what-if", "sql"):
        page.click(f"#{view}-form button")
        page.wait_for_selector(f"#panel-{view} table")
    found = Axe().run(page).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    assert [(one["id"], one["nodes"][0]["html"]) for one in serious] == []


def test_nothing_is_wider_than_a_narrow_window(page: Any, server: Explored) -> None:
    page.set_viewport_size({"width": 480, "height": 800})
    for view in ("distributions", "scatter", "samples", "label-errors", "what-if", "sql"):
        open_page(page, server, view)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= 480


def test_a_corpus_that_changes_says_so_and_can_be_reloaded(page: Any, tmp_path: Path) -> None:
    run = hostile_run(tmp_path / "run")
    with explored(run) as server:
        open_page(page, server)
        other = hostile_run(tmp_path / "other")
        manifest = Path("corpus") / "manifest.parquet"
        before = (run / manifest).read_bytes()
        (run / manifest).write_bytes((other / manifest).read_bytes())
        page.click("#tab-samples")
        page.wait_for_selector("#changed:not([hidden])")
        assert "has changed" in text_of(page, "#changed")
        page.click("#reload")  # its annotations are of the corpus that it had
        wait_for_text(page, "#problem", "was made for corpus")
        (run / manifest).write_bytes(before)
        page.click("#reload")
        page.wait_for_selector("#changed", state="hidden")
        page.wait_for_selector(".sample")
        leave(page)
