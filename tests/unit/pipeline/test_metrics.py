"""The metrics of a round: published, read back, and one table of all rounds."""

from pathlib import Path

from pipeline import metrics


def test_a_round_is_finished_once_its_metrics_are_published(tmp_path: Path) -> None:
    run = str(tmp_path)
    assert metrics.read(run, 0) is None
    metrics.publish(run, 0, {"ratio": 0.5, "train_loss": 2})
    assert metrics.read(run, 0) == {"ratio": 0.5, "train_loss": 2.0}


def test_the_table_has_a_row_per_round_and_a_column_per_name(tmp_path: Path) -> None:
    run = str(tmp_path)
    assert metrics.table(run).is_empty()
    for number in (10, 2, 0):
        values = {"ratio": number / 10} | ({"accuracy": 0.9} if number == 2 else {})
        metrics.publish(run, number, values)
    table = metrics.table(run)
    assert table["round"].to_list() == [0, 2, 10]
    assert table["ratio"].to_list() == [0.0, 0.2, 1.0]
    assert table["accuracy"].to_list() == [None, 0.9, None]
