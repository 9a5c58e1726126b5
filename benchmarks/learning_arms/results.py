"""The results file of a regime: trials, learning rates that were tried, summary and figure."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from learning_arms import figures, summary
from learning_arms.crawl import report
from learning_arms.regime import Regime
from learning_arms.sft import kept


@dataclass
class Results:
    """Trials so far; `write` replaces the file atomically."""

    path: Path
    name: str
    regime: Regime
    trials: list[dict[str, Any]] = field(default_factory=list)
    tuning: list[dict[str, Any]] = field(default_factory=list)
    corpus_digest: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, *, name: str, regime: Regime) -> "Results":
        """Return the results in a file; none if it does not exist."""
        known = json.loads(path.read_text()) if path.exists() else {}
        return cls(
            path,
            name,
            regime,
            trials=known.get("trials", []),
            tuning=known.get("tuning", []),
            corpus_digest=known.get("corpus_digest"),
            notes=known.get("notes", {}),
        )

    def check_corpus(self, digest: str | None) -> None:
        """Check that the trials so far are of the same corpus."""
        if self.trials and digest != self.corpus_digest:
            raise SystemExit(
                f"{self.path} has trials of another corpus ({self.corpus_digest}, here {digest}):"
                " other packages are installed. Write to another file with --out FILE"
            )
        self.corpus_digest = digest

    def summarise(self) -> list[dict[str, Any]]:
        if self.regime.is_judged_by_curves:
            return report.summarise(self.trials, by_token=self.regime.is_charged_by_token)
        return summary.summarise(self.trials, quality=self.regime.quality)

    def write(self) -> None:
        machine = {"cpus": os.cpu_count(), "torch_threads": 1, "load_average": os.getloadavg()}
        content: dict[str, Any] = {
            "regime": self.name,
            "machine": machine,
            "quality": self.regime.quality,
        }
        content |= {"settings": self.regime.sections, "corpus_digest": self.corpus_digest}
        content |= {"notes": self.notes, "tuning": self.tuning}
        content |= {"summary": self.summarise(), "trials": self.trials}
        unfinished = self.path.with_suffix(".part")
        unfinished.write_text(json.dumps(content, indent=1) + "\n")
        unfinished.rename(self.path)

    def table(self) -> str:
        """Return the summary as a Markdown table."""
        if self.regime.is_judged_by_curves:
            return report.markdown(self.summarise())
        return summary.markdown(self.summarise(), quality=self.regime.quality)

    def tables(self) -> dict[str, str]:
        """Return the tables of the page in Markdown, by their markers."""
        tables = {self.name: self.table()}
        if self.regime.is_judged_by_curves:
            tables[f"{self.name}_law"] = report.law_markdown(self.summarise())
        if "kept" in self.notes:
            tables[f"{self.name}_kept"] = kept.markdown(self.notes["kept"])
        return tables

    def draw(self) -> None:
        """Write the figure beside the file."""
        path = self.path.with_suffix(".png")
        if self.regime.is_judged_by_curves:
            rows = self.summarise()
            report.draw(rows, path=path)
            if self.name in ("crawl", "crawl_gpu"):
                report.draw_claim(rows, path=path.with_stem(f"{path.stem}_claim"))
            return
        figures.draw(
            summary.at_usual_pace(self.trials),
            self.summarise(),
            quality=self.regime.quality,
            title=self.name,
            path=path,
        )
