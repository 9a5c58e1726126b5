"""Curves of a report by optimizer step, from the files of a finished run."""

from pathlib import Path

import pytest
from small_runs import small_run

from pipeline import metrics, run
from pipeline.cluster import Client
from pipeline.config import run_config
from pipeline.reports.html_report import write_report
from pipeline.reports.step_curves import learning_rates, training_losses


def test_a_run_keeps_its_losses_learning_rates_and_environment(
    tmp_path: Path, shards: Path, client: Client
) -> None:
    training = {"batch_size": 16, "learning_rate": 0.01, "warmup_steps": 4, "torch_threads": 1}
    values = small_run(tmp_path / "run", shards, training=training)
    run(run_config.parse(values), client=client)
    table = metrics.table(values["run"])
    num_steps = int(table["num_steps"].sum())

    losses = training_losses(values["run"])
    assert losses["step"].to_list() == list(range(num_steps))
    first = losses.head(int(table["num_steps"][0]))["loss"].mean()
    assert first == pytest.approx(table["train_loss"][0], rel=1e-5)

    rates = learning_rates(values["run"])
    assert rates["step"].to_list() == list(range(num_steps))
    assert rates["learning_rate"].to_list()[:5] == pytest.approx([0, 0.0025, 0.005, 0.0075, 0.01])
    assert rates["learning_rate"].tail(num_steps - 4).is_sorted(descending=True)

    page = Path(write_report(values["run"])).read_text()
    for text in ("Training loss by step", "Learning rate by step", "<td>processor</td>",
                 "last round finished 20"):  # fmt: skip
        assert text in page
