"""Runs that are killed, or interrupted, at random moments end like undisturbed ones."""

import pytest
from campaign import SCENARIOS, Campaign, Scenario


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_a_run_that_is_killed_at_random_moments_ends_like_an_undisturbed_one(
    campaign: Campaign, scenario: Scenario, seed: int, size: int
) -> None:
    kills, least = 0, max(2, size // len(SCENARIOS))
    while kills < least:
        kills += campaign.kill(scenario, seed=seed, kills=min(6, least - kills))
        seed += 1
    print(f"{scenario.name}: {kills} kills or signals, {campaign.tally.kills} so far")
