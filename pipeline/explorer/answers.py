"""Answers of the explorer: questions of the page as plain values → plain values."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Final

from attent_select import plugins
from attent_select.errors import CorpusMismatchError, InputError
from pipeline.explorer import distributions, sample_lists, sample_view, sql_box
from pipeline.explorer.filters import Filter
from pipeline.explorer.marks import Marks
from pipeline.explorer.predictions import MAX_CHECKED, Predictor, predicted_kind
from pipeline.explorer.source import MAX_ROWS, Source
from pipeline.explorer.what_if import Controls, try_selection

Question = Mapping[str, Any]

_MAX_SIDE: Final = 1024


class ChangedError(CorpusMismatchError):
    """The corpus is not the one that was opened."""


class Explorer:
    """What is explored, opened again when the page asks for it. Thread-safe."""

    def __init__(
        self,
        url: str,
        *,
        max_rows: int = MAX_ROWS,
        allow_marks: bool = False,
        trust_run: bool = False,
    ) -> None:
        self._url, self._max_rows, self.allow_marks = url, max_rows, allow_marks
        self.marks, self.predictor = Marks(), Predictor(trust_run=trust_run)
        self._lock = threading.Lock()
        self._source = Source.open(url, max_rows=max_rows)

    @property
    def source(self) -> Source:
        return self._source

    def check_unchanged(self, *, is_reload: bool = False) -> None:
        """Open the source again for a reload.

        Raises:
            ChangedError: the corpus has changed, and this is not a reload.
        """
        with self._lock:
            if is_reload:
                self._source = Source.open(self._url, max_rows=self._max_rows)
            elif self._source.is_changed:
                raise ChangedError(
                    f"the corpus of {self._url} has changed since it was opened: reload it"
                )

    def picture(self, question: Question) -> bytes:
        """Return the image in a column of a sample as PNG. Raises `InputError`."""
        shard_id, row = _ids(question)
        side = min(_MAX_SIDE, max(16, _integer(question, "side", default=256)))
        sample = sample_view.read_sample(self.source, shard_id, row)
        if sample.reason:
            raise InputError(sample.reason)
        return sample_view.picture_of(sample.values, str(question.get("column")), side=side)


def _state(explorer: Explorer, _: Question) -> Any:
    """What there is to explore."""
    source = explorer.source
    return {
        "url": source.url,
        "samples": source.corpus.num_samples,
        "shards": len(source.corpus.shards),
        "bytes": source.corpus.num_bytes,
        "sample_columns": list(source.corpus.columns),
        "columns": [asdict(column) for column in source.columns.values()],
        "rounds": list(source.rounds),
        "pool_rounds": list(source.pool_rounds),
        "indexes": list(source.indexes),
        "orders": sample_lists.available_orders(source),
        "strategies": plugins.plugin_names("attent_select.strategies"),
        "predicts": predicted_kind(source),
        "allow_marks": explorer.allow_marks,
    }


def _distributions(explorer: Explorer, question: Question) -> Any:
    return distributions.distributions(
        explorer.source,
        _names(question, "columns"),
        where=_filter(question),
        by=_text(question, "by"),
    )


def _scatter(explorer: Explorer, question: Question) -> Any:
    x, y = str(question.get("x")), str(question.get("y"))
    return distributions.scatter(explorer.source, x, y, where=_filter(question))


def _samples(explorer: Explorer, question: Question) -> Any:
    return sample_lists.list_samples(
        explorer.source,
        str(question.get("order", "random")),
        where=_filter(question),
        count=_integer(question, "count", default=24),
        seed=_integer(question, "seed", default=0),
        column=_text(question, "column"),
    )


def _candidates(explorer: Explorer, question: Question) -> Any:
    return sample_lists.list_candidates(
        explorer.source,
        where=_filter(question),
        count=_integer(question, "count", default=500),
        first_shard=_integer(question, "first_shard", default=0),
    )


def _check(explorer: Explorer, question: Question) -> Any:
    return explorer.predictor.check(explorer.source, _pairs(question, most=MAX_CHECKED))


def _previews(explorer: Explorer, question: Question) -> Any:
    pairs = _pairs(question, most=sample_lists.MAX_SAMPLES)
    return {"samples": sample_view.read_previews(explorer.source, pairs)}


def _sample(explorer: Explorer, question: Question) -> Any:
    return sample_view.show_sample(explorer.source, *_ids(question))


def _duplicates(explorer: Explorer, question: Question) -> Any:
    return sample_view.find_duplicates(explorer.source, *_ids(question))


def _what_if(explorer: Explorer, question: Question) -> Any:
    return try_selection(explorer.source, Controls.parse(question))


def _sql(explorer: Explorer, question: Question) -> Any:
    return sql_box.run_sql(explorer.source.url, str(question.get("sql", "")))


def _predict(explorer: Explorer, question: Question) -> Any:
    return explorer.predictor.predict(explorer.source, *_ids(question))


def _marks(explorer: Explorer, _: Question) -> Any:
    return explorer.marks.to_json(explorer.source)


def _mark(explorer: Explorer, question: Question) -> Any:
    _check_marks(explorer)
    return explorer.marks.mark(explorer.source, *_ids(question), str(question.get("mark") or ""))


def _save_marks(explorer: Explorer, _: Question) -> Any:
    _check_marks(explorer)
    answer = explorer.marks.save(explorer.source)
    explorer.check_unchanged(is_reload=True)  # the annotation is a column now
    return answer


def _check_marks(explorer: Explorer) -> None:
    if not explorer.allow_marks:
        raise InputError("this page only reads: start `attent explore` with --allow-marks")


def _csv(explorer: Explorer, _: Question) -> Any:
    return {"csv": explorer.marks.to_csv(explorer.source)}


ANSWERS: Final[Mapping[str, Callable[[Explorer, Question], Any]]] = {
    "state": _state,
    "distributions": _distributions,
    "scatter": _scatter,
    "samples": _samples,
    "candidates": _candidates,
    "check": _check,
    "previews": _previews,
    "sample": _sample,
    "duplicates": _duplicates,
    "what_if": _what_if,
    "sql": _sql,
    "predict": _predict,
    "marks": _marks,
    "mark": _mark,
    "save_marks": _save_marks,
    "marks_csv": _csv,
}


def answer_question(explorer: Explorer, name: str, question: Question) -> Any:
    """Return the answer to the question `name`, for which `reload` opens the source again.

    Raises:
        ChangedError: the corpus has changed.
        InputError: the question is wrong.
    """
    explorer.check_unchanged(is_reload=bool(question.get("reload")))
    return ANSWERS[name](explorer, question)


def _filter(question: Question) -> Filter:
    values = question.get("filter") or {}
    if not isinstance(values, Mapping):
        raise InputError("filter: expected an object")
    return Filter.parse(values)


def _names(question: Question, key: str) -> list[str]:
    names = question.get(key)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{key}: expected a list of columns")
    return names


def _text(question: Question, key: str) -> str | None:
    value = question.get(key) or None
    if value is not None and not isinstance(value, str):
        raise InputError(f"{key}: expected text, got {value!r}")
    return value


def _pairs(question: Question, *, most: int) -> list[tuple[int, int]]:
    ids = question.get("samples")
    if not isinstance(ids, list) or len(ids) > most:
        raise InputError(f"samples: expected at most {most} samples")
    return [_ids(each if isinstance(each, dict) else {}) for each in ids]


def _ids(question: Question) -> tuple[int, int]:
    return _integer(question, "shard_id"), _integer(question, "row")


def _integer(question: Question, key: str, *, default: int | None = None) -> int:
    value = question.get(key, default)
    if isinstance(value, str) and value.isdecimal():
        value = int(value[:18])
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{key}: expected a whole number, got {value!r}")
    return value
