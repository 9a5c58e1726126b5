"""What to use when: one table, for the documentation, `attent init` and `attent doctor`."""

from pathlib import Path

import pytest

from pipeline.doctor.advice import ADVICE, Kind, kind_of, table

PAGE = Path(__file__).parents[4] / "docs/learning.md"
Rows = dict[str, dict[str, str]]


def rows_of(marker: str) -> Rows:
    """The rows of a table of measured results by their first columns, with the names of columns."""
    table = PAGE.read_text().partition(f"<!-- table {marker} -->\n")[2].partition("<!-- end -->")[0]
    names, _, *rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()
    ]
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}


def cost_saved(row: dict[str, str]) -> str:
    """The share of the cost that an arm of a curve saves, without its interval."""
    share = row["cost saved, all counted"].partition("%")[0].removeprefix("≥ ")
    return f"{share} %"


def seconds_saved(rows: Rows, arm: str) -> str:
    """The share of processor seconds that an arm takes less than all data."""
    seconds = {name: float(rows[name]["CPU s"]) for name in ("all data", arm)}
    return f"{1 - seconds[arm] / seconds['all data']:.0%}".replace("%", " %")


def test_the_page_has_the_table() -> None:
    assert f"<!-- table advice -->\n{table()}<!-- end -->" in PAGE.read_text()


def test_figures_are_those_of_the_measured_tables() -> None:
    pool, answers = rows_of("crawl")["broad · n-grams top 10 %"], rows_of("sft_noisy")
    assert ADVICE["target"].because.startswith(cost_saved(pool))
    assert ADVICE["clean_answers"].because.startswith(cost_saved(answers["full · classifier"]))
    web = rows_of("web")
    assert ADVICE["images"].because.startswith(seconds_saved(web, "write-back (ours)"))
    against_all = web["write-back (ours)"]["accuracy against all data"]
    assert against_all.startswith("+")
    lengths, patches = rows_of("lengths"), rows_of("patches")
    curated = ADVICE["curated"].because
    assert f"packing saved {seconds_saved(lengths, 'all data, packed')}" in curated
    half = "half of the patches"
    lower = float(patches[half]["accuracy against all data"].split()[0])
    assert f"{half} {seconds_saved(patches, half)} at an accuracy lower by {-lower:.3f}" in curated


@pytest.mark.parametrize(
    ("task", "column", "has_target", "kind"),
    [
        ("causal_lm", "text", True, "target"),
        ("causal_lm", "text", False, "raw"),
        ("causal_lm", "response", False, "fine_tuning"),
        ("causal_lm", "messages", True, "clean_answers"),
        ("preference_pairs", "chosen", False, "fine_tuning"),
        ("image_classification", "image", True, "images"),
        ("image_classification", "image", False, "images"),
    ],
)
def test_the_kind_of_a_corpus_follows_from_the_task_and_examples(
    task: str, column: str, *, has_target: bool, kind: Kind
) -> None:
    assert kind_of(task, {column: "a column"}, has_target=has_target) == kind


def test_only_images_of_a_crawl_are_selected_by_the_students_losses() -> None:
    by_loss = [
        kind
        for kind, advice in ADVICE.items()
        if advice.sections["selection"]["strategy"] in ("soft", "hard")
    ]
    assert by_loss == ["images"]
