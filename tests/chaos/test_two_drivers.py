"""Two drivers on one run, with clocks that differ by an hour: one result, that of one driver."""

import os
import signal
from pathlib import Path

import pytest
from campaign import INTERRUPTED, MOMENTS, Campaign, Scenario, result
from killable import until
from moments import Plan
from process_copies import copies

from catalogs.layout import Layout

HOUR = 3600.0
SCENARIO = Scenario("full", {})


class Driver:
    """`attent run` with a clock that is some seconds ahead."""

    def __init__(self, campaign: Campaign, name: str, config: Path, clock: float) -> None:
        plan = Plan(str(campaign.folder / "plans" / name), clock_seconds=clock)
        self._output = campaign.folder / f"{name}.output"
        self.pid = copies().start(
            *(MOMENTS, plan.write(), "run", config),
            output=self._output,
            environment=os.environ | {"ATTENT_TRACEBACK": "1"},
        )

    def end(self) -> tuple[int | None, str]:
        return copies().wait(self.pid), self._output.read_text()


@pytest.mark.parametrize("clock", [0.0, -HOUR], ids=["same clock", "an hour behind"])
def test_a_second_driver_is_refused(campaign: Campaign, clock: float) -> None:
    config = campaign.write(SCENARIO, f"second {clock}")
    layout = Layout(campaign.url(SCENARIO, f"second {clock}"))
    first = Driver(campaign, "first", config, 0.0)
    until(lambda: Path(layout.config).exists())
    # Else it may end before the second one asks; its lease is valid for longer than that takes.
    os.kill(first.pid, signal.SIGSTOP)
    code, said = Driver(campaign, "second", config, clock).end()
    os.kill(first.pid, signal.SIGCONT)
    assert code == 2, said
    assert f"process {first.pid} on " in said
    assert first.end()[0] == 0
    assert result(layout.run) == campaign.undisturbed(SCENARIO)[0]


def test_a_driver_that_was_stopped_and_overtaken_ends_and_leaves_the_other_s_result(
    campaign: Campaign,
) -> None:
    config = campaign.write(SCENARIO, "overtaken")
    layout = Layout(campaign.url(SCENARIO, "overtaken"))
    first = Driver(campaign, "stopped", config, 0.0)
    until(lambda: any(Path(layout.checkpoint(0)).glob("step-*/checkpoint.json")))
    os.kill(first.pid, signal.SIGSTOP)
    # To this driver the ticket of the other has expired an hour ago.
    second = Driver(campaign, "ahead", config, HOUR)
    until(lambda: Path(layout.snapshot(1)).exists())
    os.kill(first.pid, signal.SIGCONT)
    code, said = first.end()
    assert code == 0 or "works on this run" in said, said
    assert code in (0, 2, INTERRUPTED), said
    code, said = second.end()
    if code != 0:  # it saw the first one's ticket again, and stepped back
        assert code in (INTERRUPTED, 2), said
        code, said = Driver(campaign, "again", config, 2 * HOUR).end()
    assert code == 0, said
    assert result(layout.run) == campaign.undisturbed(SCENARIO)[0]
