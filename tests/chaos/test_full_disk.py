"""A disk that is full at any moment of a run."""

import random
from collections.abc import Iterator

import campaign as campaigns
import pytest
from campaign import Campaign, Scenario, result
from moments import FULL_DISK, Plan, Shot

TIMES = 4


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    with campaigns.started(tmp_path_factory.mktemp("full")) as running:
        yield running


def test_a_disk_that_is_full_at_a_random_moment_is_one_line_and_the_run_resumes(
    campaign: Campaign, seed: int, size: int
) -> None:
    scenario, draw = Scenario("full", {}), random.Random(seed)
    expected, ticks = campaign.undisturbed(scenario)
    for number in range(size or TIMES):
        name = f"full disk {seed} {number}"
        config = campaign.write(scenario, name)
        shot = Shot(draw.randrange(1, ticks[0]), action=FULL_DISK)
        plan = Plan(str(campaign.folder / "plans" / name), (shot,))
        code, said = campaign.launch(scenario, config, plan)
        if code != 0:  # nothing was left to write
            lines = [line for line in said.splitlines() if line.startswith("attent:")]
            assert (code, len(lines)) == (2, 1), (shot, said)
            assert "file too large" in lines[0], (shot, said)
            assert "Traceback" not in said, (shot, said)
        code, said = campaign.launch(scenario, config, Plan(plan.folder))
        assert code == 0, said
        assert result(campaign.url(scenario, name)) == expected
