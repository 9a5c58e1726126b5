"""Runs for people: what a run has at rest, opened by its URL, for scripts and notebooks."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from attent_select.errors import AttentError, InputError, MissingError
from attent_select.html_cards import bars, card
from catalogs import AnnotationStore, Corpus, IndexFile, LossCatalog, storage
from catalogs.layout import Layout
from pipeline import metrics
from pipeline.config.yaml_values import read_yaml

# Metrics that a notebook shows by round, best first.
_SHOWN = ("eval_loss", "train_loss")


@dataclass(frozen=True)
class Run:
    """A run at rest, finished or not. Stateless: every answer is read from storage.

    Attributes:
        url: folder of the run.
    """

    url: str

    @classmethod
    def open(cls, url: str) -> "Run":
        """Open the run in a folder. Raises `MissingError` if it has no `run.yaml`."""
        url = storage.normalise(url)
        if storage.info(Layout(url).config) is None:
            raise MissingError(
                f"{url} is not a run: {Layout(url).config} was not found. `attent run CONFIG.yaml`"
                " writes it"
            )
        return cls(url)

    @property
    def settings(self) -> dict[str, Any]:
        """The frozen configuration as plain values; nothing that it names is imported."""
        return read_yaml(Layout(self.url).config)

    @property
    def corpus(self) -> Corpus:
        """The corpus of the run. Raises `MissingError` if it was not ingested."""
        return Corpus.open(self.url)

    @property
    def annotations(self) -> AnnotationStore:
        """The annotations of the corpus."""
        return AnnotationStore(self.url)

    @property
    def losses(self) -> LossCatalog:
        """The losses of every scored round."""
        return LossCatalog(self.url)

    @property
    def metrics(self) -> pl.DataFrame:
        """One row per finished round: `round` u32, and a float64 column for each metric."""
        return metrics.table(self.url)

    @property
    def rounds(self) -> list[int]:
        """The finished rounds, ascending."""
        return self.metrics["round"].to_list()

    def index(self, round_number: int | None = None) -> IndexFile:
        """Open the index of a round; by default of the last finished one.

        Raises:
            InputError: no round is finished.
            MissingError: the round was not selected.
        """
        return IndexFile.open(Layout(self.url).index(self._number(round_number)))

    def checkpoint(self, round_number: int | None = None) -> str:
        """Return the URL of the checkpoint of a round; by default of the last finished one.

        Raises:
            InputError: no round is finished.
        """
        return Layout(self.url).checkpoint(self._number(round_number))

    def _number(self, round_number: int | None) -> int:
        if round_number is not None:
            return round_number
        if not (rounds := self.rounds):
            raise InputError(f"{self.url}: no round is finished: `attent run` finishes them")
        return rounds[-1]

    def _repr_html_(self) -> str:
        try:
            return run_card(self.url, self.settings, self.metrics)
        except AttentError as error:
            return card("Run", {"url": self.url, "problem": str(error)})


def run_card(url: str, settings: dict[str, Any], rounds: pl.DataFrame) -> str:
    """Return a run as HTML. `rounds` has one row per finished round, as `Run.metrics`."""
    facts: dict[str, object] = {
        "url": url,
        "task": (settings.get("task") or {}).get("name"),
        "strategy": (settings.get("selection") or {}).get("strategy"),
        "finished rounds": len(rounds),
    }
    if "samples_seen" in rounds.columns:
        facts["samples seen"] = int(rounds["samples_seen"].sum())
    if not (shown := [name for name in _SHOWN if name in rounds.columns]):
        return card("Run", facts)
    numbers = rounds["round"].to_list()
    facts |= {name: rounds[name][-1] for name in (*shown, "accuracy") if name in rounds.columns}
    plot = bars(
        rounds[shown[0]].fill_null(0).clip(lower_bound=0),
        names=[f"round {number}" for number in numbers],
        ends=(f"round {numbers[0]}", f"round {numbers[-1]}" if len(numbers) > 1 else ""),
        caption=f"{shown[0]} by round",
    )
    return card("Run", facts, plot=plot)
