"""Cards of a corpus, its losses and its indexes in notebooks: bounded reads, no exceptions."""

from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest
from digits import samples, write_corpus, write_index
from scored_runs import scored_run

from attent_select import schema
from catalogs import Corpus, IndexFile, LossCatalog, index
from catalogs.losses import catalog as losses


def facts(html: str) -> dict[str, str]:
    """The table of a card."""
    rows = ElementTree.fromstring(html).iter("tr")
    return {row.findtext("th") or "": row.findtext("td") or "" for row in rows}


def bars(html: str) -> list[str]:
    """The names and heights of the bars of a card."""
    return [title.text or "" for title in ElementTree.fromstring(html).iter("title")]


def test_a_corpus_shows_its_samples_by_shard(tmp_path: Path) -> None:
    write_corpus(tmp_path / "shards", samples(30), num_shards=3).publish(str(tmp_path))
    html = Corpus.open(str(tmp_path))._repr_html_()
    shown = facts(html)
    assert (shown["shards"], shown["samples"], shown["columns"]) == ("3", "30", "image, label")
    assert bars(html) == ["shard 0: 10", "shard 1: 10", "shard 2: 10"]


def test_a_column_name_with_markup_is_text(tmp_path: Path) -> None:
    rows = [{"<script>alert(1)</script>": number} for number in range(3)]
    html = write_corpus(tmp_path, rows, num_shards=1)._repr_html_()
    assert facts(html)["columns"] == "<script>alert(1)</script>"


def test_losses_show_their_histogram(tmp_path: Path) -> None:
    catalog = LossCatalog(scored_run(tmp_path, [[1.0, 2.0, None], [3.0]]))
    html = catalog._repr_html_()
    assert facts(html)["with a loss"] == "3"
    assert facts(html)["mean loss (nats)"] == "2"
    assert "losses of round 0 in nats, all rows" in html
    assert repr(catalog) == f"LossCatalog({str(tmp_path)!r})"


def test_the_histogram_of_a_large_catalog_is_of_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_SHOWN_ROWS", 39)
    catalog = LossCatalog(scored_run(tmp_path, [[float(shard)] for shard in range(40)]))
    html = catalog._repr_html_()
    assert "a sample of 14 rows" in html
    assert facts(html)["largest loss (nats)"] == "39"


def test_a_run_without_losses_says_so(tmp_path: Path) -> None:
    assert facts(LossCatalog(str(tmp_path))._repr_html_())["problem"] == "no round was scored yet"


def test_losses_whose_part_was_deleted_say_so(tmp_path: Path) -> None:
    catalog = LossCatalog(scored_run(tmp_path, [[1.0, 2.0]]))
    for part in (tmp_path / "losses" / "parts").iterdir():
        part.unlink()
    assert "not found" in facts(catalog._repr_html_())["problem"]


@pytest.mark.parametrize("groups_read", [64, 0])
def test_an_index_shows_where_its_samples_are(
    tmp_path: Path, groups_read: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index, "_GROUPS_AT_A_TIME", groups_read)
    monkeypatch.setattr(index, "_ROWS_PER_GROUP", 5)
    corpus = write_corpus(tmp_path / "shards", samples(30), num_shards=3)
    html = write_index(tmp_path / "index.parquet", corpus, every=2)._repr_html_()
    assert facts(html)["samples"] == "15"
    assert bars(html) == ["shard 0: 5", "shard 1: 5", "shard 2: 5"]


def test_an_empty_index_and_a_deleted_one_have_a_card(tmp_path: Path) -> None:
    rows = pl.DataFrame(schema=dict(schema.INDEX))
    url = str(tmp_path / "empty.parquet")
    empty = IndexFile.write(url, rows.lazy(), provenance={"strategy": "hard"})
    assert facts(empty._repr_html_())["strategy"] == "hard"
    deleted = IndexFile(str(tmp_path / "deleted.parquet"), 3, "0", {})
    assert "not found" in facts(deleted._repr_html_())["problem"]
