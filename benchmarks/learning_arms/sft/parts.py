"""The parts of the data of `sft_noisy`, which have no row and no run of twenty words in common.

Three quarters of the instructions are of Dolly, a quarter are word problems (GSM8K). The base model
is trained on prose and on other instructions of Dolly, as texts without a template.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import polars as pl

from learning_arms import corpora
from learning_arms.crawl.pool import without_overlaps
from learning_arms.crawl.texts import NOVELS, pieces, public_texts
from learning_arms.sft.spoiling import spoil

DOLLY, GSM8K, PROSE = "dolly", "gsm8k", "rest"
SOURCES: Final[Mapping[str, float]] = {DOLLY: 0.75, GSM8K: 0.25}
SPOILED_SHARE: Final = 0.4
_JUDGED_PROSE: Final = 60
_TEXT: Final = pl.concat_str("instruction", "input", "output", separator="\n")


@dataclass(frozen=True)
class Sizes:
    """Rows: texts that the base is trained on, instructions to fine-tune on, examples of the
    target, and instructions that judge.
    """

    base: int = 6_000
    pool: int = 320
    target: int = 160
    judged: int = 160


@dataclass(frozen=True)
class Parts:
    """Files: texts of the base, instructions, examples, and what judges by name; their digest."""

    base: str
    pool: str
    target: str
    judged: Mapping[str, str]
    digest: str


def make_parts(data: Path, folder: Path, *, sizes: Sizes) -> Parts:
    """Write the files into `folder` unless they exist."""
    record = folder / "parts.json"
    if not record.exists():
        folder.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(_write(data, folder, sizes=sizes)))
    written = json.loads(record.read_text())
    names = ("base", "pool", "target")
    return Parts(
        *(str(folder / f"{name}.parquet") for name in names),
        {name: str(folder / f"judged-{name}.parquet") for name in ("all", GSM8K, PROSE)},
        written["digest"],
    )


def _write(data: Path, folder: Path, *, sizes: Sizes) -> dict[str, str]:
    rows = {DOLLY: _dolly(data), GSM8K: _gsm8k(data, "train")}
    tests = {DOLLY: rows[DOLLY], GSM8K: _gsm8k(data, "test")}
    judged = {name: tests[name][: round(share * sizes.judged)] for name, share in SOURCES.items()}
    rows[DOLLY] = rows[DOLLY][len(judged[DOLLY]) :]
    held = pl.concat(judged.values())
    target, rows = _take(rows, sizes.target, held=held)
    pool, rows = _take(rows, sizes.pool, held=pl.concat([held, target]))
    novels, others = (texts.filter(source=NOVELS)["text"] for texts in public_texts(data))
    fine = pl.concat([held, target, pool])["text"]
    base = _base_texts(novels, rows[DOLLY]["text"], count=sizes.base, held=fine)
    pool = spoil(pool, share=SPOILED_SHARE).with_columns(text=_TEXT)
    files = {"base": base, "pool": pool, "target": target, "judged-all": held}
    files[f"judged-{GSM8K}"] = judged[GSM8K]
    files[f"judged-{PROSE}"] = corpora.shuffle(others.to_frame())[:_JUDGED_PROSE]
    for name, part in files.items():
        corpora.write_once(folder / f"{name}.parquet", partial(pl.DataFrame.clone, part))
    texts = [*base["text"], *pool["output"]]
    return {"digest": hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]}


def _dolly(data: Path) -> pl.DataFrame:
    rows = pl.read_parquet(data / "dolly15k.parquet", columns=["instruction", "input", "output"])
    return _instructions(rows.unique(maintain_order=True), source=DOLLY)


def _gsm8k(data: Path, part: str) -> pl.DataFrame:
    rows = pl.read_parquet(data / f"gsm8k_{part}.parquet")
    rows = rows.select(instruction="question", input=pl.lit(""), output="answer")
    return _instructions(rows, source=GSM8K)


def _instructions(rows: pl.DataFrame, *, source: str) -> pl.DataFrame:
    """Return the rows in a random order, with `source`, and the whole as `text`."""
    return corpora.shuffle(rows.with_columns(source=pl.lit(source), text=_TEXT))


def _take(
    rows: Mapping[str, pl.DataFrame], count: int, *, held: pl.DataFrame
) -> tuple[pl.DataFrame, dict[str, pl.DataFrame]]:
    """Return instructions of all sources that do not overlap with those of `held`, and the rest."""
    taken, rest = [], {}
    for source, share in SOURCES.items():
        size = round(share * count)
        # Of twenty rows at the most one overlaps.
        first = without_overlaps(rows[source][: round(1.2 * size) + 10], held["text"])[:size]
        taken.append(first)
        rest[source] = rows[source].join(first, on="text", how="anti", maintain_order="left")
    return corpora.shuffle(pl.concat(taken)), rest


def _base_texts(
    novels: pl.Series, instructions: pl.Series, *, count: int, held: pl.Series
) -> pl.DataFrame:
    """Return pieces of prose and of instructions, half of each as far as there are enough."""
    cut = pl.Series([piece for text in instructions for piece in pieces(text)])
    halves = [
        corpora.shuffle(without_overlaps(pl.DataFrame({"text": part.head(count)}), held))
        for part in (corpora.shuffle(novels.to_frame())["text"], cut)
    ]
    return corpora.shuffle(pl.concat(half[: count // 2] for half in halves))
