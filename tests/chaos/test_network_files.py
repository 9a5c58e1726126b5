"""A run on a network file system: renames that fail once, and new files that are seen late."""

import sys
from pathlib import Path

import network_files
import yaml
from campaign import Campaign, Scenario, result
from process_copies import copies
from small_runs import often_saved

from pipeline.cluster import connect
from pipeline.config.cluster_settings import ClusterSettings

CACHE_SECONDS = 3.0
# A process that does not see a file ends with an error; the same command continues.
MOST_ATTEMPTS = 8


def test_a_run_whose_files_appear_late_and_whose_renames_fail_is_that_on_a_disk(
    campaign: Campaign, tmp_path: Path
) -> None:
    config, output, refusals = tmp_path / "run.yaml", tmp_path / "output", []
    with connect(ClusterSettings(workers=2)) as client:
        client.run(network_files.install, CACHE_SECONDS)
        cluster = {"scheduler": client.scheduler.address}
        values = often_saved(tmp_path / "run", campaign.folder / "shards", cluster=cluster)
        config.write_text(yaml.safe_dump(values))
        for _ in range(MOST_ATTEMPTS):
            arguments = (str(CACHE_SECONDS), "run", str(config))
            pid = copies().start(Path(network_files.__file__), *arguments, output=output)
            if copies().wait(pid) == 0:
                break
            lines = [each for each in output.read_text().splitlines() if "attent: " in each]
            assert len(lines) == 1, output.read_text()
            assert "internal error" not in lines[0]
            refusals += lines
    sys.stdout.write(f"{len(refusals)} refusals\n{''.join(refusals)}\n")
    assert result(str(tmp_path / "run")) == campaign.undisturbed(Scenario("full", {}))[0]
