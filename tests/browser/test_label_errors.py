"""Suspected label errors on the page of `attent explore`, with a model that is really asked."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from explored import Explored, explored
from explored_page import leave, open_page, text_of, wait_for_text
from hostile_run import hostile_run
from mislabelled import SHARD_ROWS, WRONG, mislabelled_run

NOT_ASKED = "It was not asked about the other"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explored]:
    run = mislabelled_run(tmp_path_factory.mktemp("explored") / "run")
    with explored(run, "--allow-marks") as running:
        yield running


def search(page: Any, server: Explored, candidates: int = 40) -> None:
    open_page(page, server, "label-errors")
    page.fill("#num-candidates", str(candidates))
    page.press("#num-candidates", "Enter")
    page.wait_for_selector("#suspects-busy", state="hidden")
    wait_for_text(page, "#suspects-note", NOT_ASKED)


def num_suspects(page: Any) -> int:
    count = re.search(r"is sure of another label for ([\d,]+)", text_of(page, "#suspects-note"))
    assert count
    return int(count[1])


def shown_ids(page: Any) -> list[tuple[int, int]]:
    captions = page.locator("#suspects .caption").all_inner_texts()
    numbers = [re.search(r"shard (\d+), row (\d+)", caption) for caption in captions]
    return [(int(found[1]), int(found[2])) for found in numbers if found]


def test_wrong_labels_are_shown_and_the_page_says_what_was_not_looked_at(
    page: Any, server: Explored
) -> None:
    search(page, server)
    note = text_of(page, "#suspects-note")
    assert "Losses of 2 of 2 rounds were read for 300 of 300 samples; 300 match" in note
    assert "Candidates: the 40 whose smallest loss is largest" in note
    assert "Checkpoint initial was asked about 40 of them" in note
    assert f"{NOT_ASKED} 260 samples that match." in note
    ids = shown_ids(page)
    assert len(ids) == num_suspects(page)
    wrong = {divmod(number, SHARD_ROWS) for number in WRONG}
    assert len(wrong & set(ids)) >= 0.8 * len(wrong)
    page.wait_for_selector("#suspects img")
    first = page.locator("#suspects .guess").first.inner_text()
    assert re.fullmatch(r"label \d, model: \d \(\d+ %\)", first)
    leave(page)


def test_another_sureness_shows_others_without_asking_again(page: Any, server: Explored) -> None:
    search(page, server)
    before = num_suspects(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    page.fill("#sureness", "0")
    page.press("#sureness", "Tab")
    wait_for_text(page, "#suspects-note", "is sure of another label for 40.")
    assert before < 40
    assert page.locator("#suspects li").count() == 40
    page.fill("#sureness", "100")
    page.press("#sureness", "Tab")
    wait_for_text(page, "#suspects-note", "is sure of another label for 0.")
    assert page.locator("#suspects li").count() == 0
    assert set(asked) <= {"previews"} | {url for url in asked if url.startswith("image")}
    leave(page)


def test_more_suspects_are_shown_on_demand(page: Any, server: Explored) -> None:
    open_page(page, server, "label-errors")
    page.fill("#sureness", "0")
    page.fill("#num-candidates", "70")
    page.press("#num-candidates", "Enter")
    wait_for_text(page, "#suspects-note", f"{NOT_ASKED} 230")
    assert page.locator("#suspects li").count() == 48
    page.click("#more-suspects")
    assert page.locator("#suspects li").count() == 70
    assert page.locator("#more-suspects").is_hidden()
    leave(page)


def test_marks_are_kept_in_the_list_in_a_sample_and_in_the_next_search(
    page: Any, server: Explored
) -> None:
    search(page, server)
    first = page.locator("#suspects li").first
    first.get_by_role("button", name="relabel", exact=True).click()
    wait_for_text(page, "#marks-note", "1 marked, 1 changes not saved")
    pressed = "button[aria-pressed=true]"
    assert first.locator(pressed).inner_text() == "relabel"
    first.locator(".sample").click()
    page.wait_for_selector("#details h3")
    assert page.locator(f"#details {pressed}").inner_text() == "relabel"
    page.locator("#details").get_by_role("button", name="exclude", exact=True).click()
    page.wait_for_selector("#suspects button[value=exclude][aria-pressed=true]")
    assert first.locator(pressed).all_inner_texts() == ["exclude"]
    page.keyboard.press("Escape")
    page.click("#search-errors")
    page.wait_for_selector("#suspects-busy", state="hidden")
    page.wait_for_selector("#suspects button[value=exclude][aria-pressed=true]")
    page.locator("#suspects li").first.get_by_role("button", name="exclude", exact=True).click()
    wait_for_text(page, "#marks-note", "0 marked")
    page.click("#save-marks")
    wait_for_text(page, "#marks-note", "0 marked. To leave them out")
    leave(page)


def test_a_search_can_be_stopped_and_says_how_far_it_came(page: Any, server: Explored) -> None:
    held: list[Any] = []

    def hold_after_the_first(route: Any) -> None:
        held.append(route)
        if len(held) == 1:
            route.continue_()

    page.route("**/api/check", hold_after_the_first)
    open_page(page, server, "label-errors")
    with page.expect_request(lambda request: request.url.endswith("/check") and bool(held)):
        page.click("#search-errors")
    wait_for_text(page, "#suspects-step", "32 of 300")
    page.click("#stop-search")
    wait_for_text(page, "#suspects-note", "was asked about 32 of them")
    assert f"{NOT_ASKED} 268" in text_of(page, "#suspects-note")
    assert page.locator("#suspects-busy").is_hidden()
    assert page.locator("#stop-search").is_hidden()
    leave(page)


def test_a_filter_narrows_the_candidates_and_a_later_one_is_said(
    page: Any, server: Explored
) -> None:
    open_page(page, server)
    page.fill("#where", "shard_id = 1")
    page.press("#where", "Enter")
    wait_for_text(page, "#matching", "100 match")
    page.click("#tab-label-errors")
    page.click("#search-errors")
    wait_for_text(page, "#suspects-note", f"{NOT_ASKED} 0 samples that match.")
    assert {shard for shard, _ in shown_ids(page)} == {1}
    page.click("#clear")
    wait_for_text(page, "#suspects-note", "The filter has changed since then: search again.")
    leave(page)


def test_a_run_whose_task_predicts_no_class_says_why_nothing_is_searched(
    page: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with explored(hostile_run(tmp_path_factory.mktemp("hostile") / "run")) as server:
        open_page(page, server, "label-errors")
        assert page.locator("#search-errors").is_disabled()
        assert "does not predict a class" in text_of(page, "#suspects-note")
        leave(page)
