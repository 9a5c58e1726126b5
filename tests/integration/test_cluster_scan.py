"""Selecting on the workers of a cluster: the same rows, and nothing left behind."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from attent_select import Composition, plugins, select
from attent_select.strategies.soft import Soft
from catalogs import IndexFile, storage
from catalogs.tables import frames
from catalogs.tables.scan import Scan
from pipeline.cluster import Client
from pipeline.cluster.scan import ClusterScan, frames_by_storage
from pipeline.selection.choice import Budget
from pipeline.selection.select_command import select_losses
from pipeline.selection.selection_options import SelectionOptions

KINDS: frames.SchemaDict = {
    "shard_id": pl.UInt32,
    "row": pl.UInt32,
    "loss": pl.Float32,
    "source": pl.String,
}


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Scan:
    """7 files of 300 rows; in half of them all losses are equal."""
    folder = tmp_path_factory.mktemp("losses")
    rng = np.random.default_rng(0)
    for shard in range(7):
        losses = rng.gamma(2, 1, 300) if shard % 2 else np.ones(300)
        rows = pl.DataFrame(
            {
                "shard_id": shard,
                "row": range(300),
                "loss": losses,
                "source": [f"s{row % 3}" for row in range(300)],
            },
            schema_overrides=KINDS,
        )
        frames.publish_frame(
            str(folder / f"{shard}.parquet"), rows.cast(pl.Schema(KINDS)), notes={}
        )
    return Scan.of([str(path) for path in sorted(folder.iterdir())], schema=KINDS)


COMPOSITIONS = {
    "plain": Composition(),
    "explore": Composition(explore=0.3, weights="inverse_probability"),
    "by": Composition(by="source", quotas={"s0": 2, "s1": 1}, where="row > 10"),
}


@pytest.mark.parametrize("composition", COMPOSITIONS.values(), ids=COMPOSITIONS.keys())
@pytest.mark.parametrize("strategy", ["hard", "soft", "rank", "uniform"])
def test_workers_select_the_same_rows_as_one_process(
    client: Client, scan: Scan, tmp_path: Path, strategy: str, composition: Composition
) -> None:
    chosen = plugins.load_plugin("attent_select.strategies", strategy)()
    here = select(scan, strategy=chosen, num_samples=400, composition=composition)
    there = select(
        ClusterScan(client, scan),
        strategy=chosen,
        num_samples=400,
        composition=composition,
        preview=scan.preview() if strategy == "soft" else None,
    )
    out = tmp_path / "index.parquet"
    index = IndexFile.write(str(out), frames_by_storage(there, beside=str(out)), provenance={})
    assert index.num_samples == 400
    rows = pl.concat(here.frames())
    assert index.frame().collect().equals(rows.drop("origin", strict=False))
    assert index.has_origin == ("origin" in rows.columns)
    assert [Path(found.url) for found in storage.list_objects(str(tmp_path))] == [out]


def test_what_the_workers_wrote_is_removed_when_the_index_cannot_be_written(
    client: Client, scan: Scan, tmp_path: Path
) -> None:
    selection = select(ClusterScan(client, scan), strategy=Soft(), ratio=0.5)
    out = tmp_path / "folder" / "index.parquet"
    (tmp_path / "folder").mkdir()
    with pytest.raises(TypeError):
        IndexFile.write(
            str(out),
            frames_by_storage(selection, beside=str(out)),
            provenance={"not JSON": object()},
        )
    assert not list((tmp_path / "folder").iterdir())


def test_the_command_selects_the_same_on_a_cluster(
    client: Client, scan: Scan, tmp_path: Path
) -> None:
    assert client.scheduler is not None
    folder = str(Path(scan.files[0].url).parent)
    found = [
        select_losses(
            folder,
            out=str(tmp_path / f"{scheduler is None}.parquet"),
            budget=Budget(num_samples=500),
            options=SelectionOptions("soft", by="source"),
            scheduler=scheduler,
        )
        for scheduler in (None, client.scheduler.address)
    ]
    assert found[0].digest == found[1].digest
    assert found[0].selected == found[1].selected == 500
    assert len(list(tmp_path.iterdir())) == 2
