"""Results for people: a run of many rounds."""

from typing import Any

import pytest

from pipeline.cli.output.show import show_rounds


def round_result(number: int) -> dict[str, Any]:
    return {
        "round": number,
        "phase": "teach",
        "ratio": 0.5,
        "samples_seen": 1000,
        "train_loss": 2.0,
        "seconds": {"total": 1.25},
    }


@pytest.mark.parametrize(
    ("num_rounds", "first"),
    [(1, None), (3, "3 rounds are done: 3,000 samples, 3.8 s in all; the last:")],
)
def test_rounds_that_the_log_has_shown_are_not_repeated(
    num_rounds: int, first: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    show_rounds({"rounds": list(map(round_result, range(num_rounds))), "checkpoint": "here"})
    lines = capsys.readouterr().out.splitlines()
    last = f"round {num_rounds - 1} (teach, 50%): 1,000 samples, train_loss 2.0000, 1.2 s"
    assert lines == [*([first] if first else []), last, "checkpoint: here"]
