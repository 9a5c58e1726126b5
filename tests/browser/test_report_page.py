"""The page of `attent report` in Chromium: charts, narrow and dark pages, hostile names."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from digits import VIT
from hostile_run import ATTRIBUTE, SCRIPT, hostile_run

from catalogs.layout import Layout
from pipeline import metrics
from pipeline.reports.html_report import write_report

# Texts of the charts that lie outside them.
OUTSIDE = """() => [...document.querySelectorAll(".plot svg")].flatMap((svg) => {
  const box = svg.getBoundingClientRect();
  return [...svg.querySelectorAll("text")].filter((text) => {
    const own = text.getBoundingClientRect();
    return own.width && (own.left < box.left - 1 || own.right > box.right + 1
      || own.top < box.top - 1 || own.bottom > box.bottom + 1);
  }).map((text) => text.textContent);
})"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    run = str(hostile_run(tmp_path_factory.mktemp("report") / "run"))
    config = {
        "run": run,
        "corpus": {"shards": [f"{run}/shards"]},
        "task": {"name": "image_classification", "image_size": 8, "num_channels": 1},
        "model": VIT,
        "selection": {"strategy": "hard"},
    }
    Path(Layout(run).config).write_text(f"{yaml.safe_dump(config)}# {SCRIPT}\n")
    for number in range(2):
        values = {"samples_seen": 20.0, "train_loss": 1.0 + number, "train_seconds": 1.0}
        notes = {"learning_rates": [(0, 0.0), (9, 0.25)]}
        metrics.publish(run, number, values, notes=notes)
    return write_report(run, controls={f"{SCRIPT}{ATTRIBUTE}" * 4: run})


@pytest.mark.parametrize("width", [1280, 480])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_charts_are_drawn_whole_and_nothing_hostile_is_executed(
    page: Any, report: str, width: int, scheme: str
) -> None:
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url.partition(":")[0]))
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.goto(f"file://{report}")
    num_charts = page.locator(".plot").count()
    assert num_charts >= 6
    page.wait_for_function(
        "count => document.querySelectorAll('.plot svg').length === count", arg=num_charts
    )
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("window.executed") is None
    assert set(requests) <= {"file", "data"}
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(17, 22, 28)")
    page.locator(".plot svg").first.hover()
    assert page.evaluate("window.executed") is None
