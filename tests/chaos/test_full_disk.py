"""A disk that is full, read-only, or no longer permitted, from any moment of a run on."""

import os
import random
from pathlib import Path

import pytest
from campaign import Campaign, Scenario, result
from moments import FULL_DISK, LOST_PERMISSION, READ_ONLY, Plan, Shot

TIMES = 3
CAUSES = {
    FULL_DISK: "file too large",
    READ_ONLY: "read-only file system",
    LOST_PERMISSION: "permission denied",
}


@pytest.mark.parametrize("action", CAUSES)
def test_a_disk_that_refuses_a_write_at_a_random_moment_is_one_line_and_the_run_resumes(
    campaign: Campaign, action: str, seed: int, size: int
) -> None:
    scenario, draw, refused = Scenario("full", {}), random.Random(f"{seed} {action}"), 0
    expected, ticks = campaign.undisturbed(scenario)
    for number in range(size or TIMES):
        name = f"{action} {seed} {number}"
        config = campaign.write(scenario, name)
        url = campaign.url(scenario, name)
        shot = Shot(draw.randrange(1, ticks[0]), action=action, run=url)
        plan = Plan(str(campaign.folder / "plans" / name), (shot,))
        code, said = campaign.launch(scenario, config, plan)
        _permit(url)
        if code != 0:  # nothing was left to write
            refused += 1
            lines = [line for line in said.splitlines() if line.startswith("attent:")]
            assert (code in (1, 2), len(lines)) == (True, 1), (shot, said)
            assert CAUSES[action] in lines[0].lower(), (shot, said)
            assert "internal error" not in said, (shot, said)
            assert "Traceback" not in said, (shot, said)
        code, said = campaign.launch(scenario, config, Plan(plan.folder))
        assert code == 0, said
        assert result(url) == expected
    print(f"{action}: refused at {refused} of {size or TIMES} moments")


def _permit(run: str) -> None:
    """Give a run the permissions that it lost."""
    Path(run).chmod(0o755)
    for path, folders, _ in os.walk(run):
        for folder in folders:
            Path(path, folder).chmod(0o755)
