"""What to use when: one table, for the documentation, `attent init` and `attent doctor`."""

from pathlib import Path

import pytest

from pipeline.doctor.advice import ADVICE, Kind, kind_of, table

PAGE = Path(__file__).parents[4] / "docs/learning.md"


def test_the_page_has_the_table() -> None:
    assert f"<!-- table advice -->\n{table()}<!-- end -->" in PAGE.read_text()


@pytest.mark.parametrize(
    ("task", "has_target", "is_saved", "kind"),
    [
        ("causal_lm", True, False, "target"),
        ("image_classification", True, True, "target"),
        ("image_classification", False, True, "images"),
        ("causal_lm", False, True, "fine_tuning"),
        ("causal_lm", False, False, "raw"),
    ],
)
def test_examples_decide_before_the_task_and_the_model(
    task: str, *, has_target: bool, is_saved: bool, kind: Kind
) -> None:
    assert kind_of(task, has_target=has_target, is_saved=is_saved) == kind


def test_only_images_of_a_crawl_are_selected_by_the_students_losses() -> None:
    by_loss = [
        kind
        for kind, advice in ADVICE.items()
        if advice.sections["selection"]["strategy"] in ("soft", "hard")
    ]
    assert by_loss == ["images"]
