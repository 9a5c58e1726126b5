"""Contamination: samples of the corpus that overlap with the examples of a target.

A model that trains on them is judged by what it has seen. The value is true for a sample that is
equal to an example, or a near duplicate of one (`trainers/inputs/near_hashes.py`), so that `not
contamination` excludes it. `exact` tells the equal ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from attent_select.errors import InputError
from trainers.annotation import FitContext, Fitted, Measured, Samples
from trainers.annotations.duplicates import Duplicates
from trainers.annotations.near_duplicates import bands_of, content_of, hash_version

_HASHES: Final = "hashes"
_BANDS: Final = "bands"


@dataclass(frozen=True)
class Contamination:
    """Settings of the kind.

    Attributes:
        column: column with the content: text, chats, or encoded images; of several columns, all
            must be equal, and their texts are compared together.
        normalise: compare text without regard to case and to the amount of white space.
        near: find near duplicates too: texts that share most of their runs of five words, images
            that look the same.
    """

    column: str | tuple[str, ...] = "text"
    normalise: bool = True
    near: bool = True

    needs_target = True
    # All examples are compared; none judges.
    splits_target = False
    further_columns = ("exact",)

    @property
    def columns(self) -> tuple[str, ...]:
        return self._exact.columns

    def fit(self, context: FitContext) -> Fitted:
        """Hash all examples of the target, one batch after the other."""
        if context.examples is None:
            raise InputError("the kind contamination compares with a target: give --target URL…")
        self._exact.fit(context)
        notes = self._contents_to_compare(context) if self.near else {}
        hashes: list[npt.NDArray[np.int64]] = []
        bands: list[npt.NDArray[np.int64]] = []
        num_examples = 0
        for batch in context.examples():
            num_examples += len(batch[self.columns[0]])
            hashes.append(self._hashes(batch).drop_nulls().to_numpy())
            if self.near:
                of_batch, statuses = bands_of(self._contents(batch), notes["content"])
                bands.append(of_batch[np.array(statuses) == "ok"].ravel())
        arrays = {_HASHES: hashes, _BANDS: bands}
        return Fitted(
            {name: np.unique(np.concatenate(each)) for name, each in arrays.items() if each},
            {**notes, "num_examples": num_examples},
        )

    def measure(self, samples: Samples, fitted: Fitted) -> Measured:
        """Return whether each sample is among the examples; null without content."""
        hashed = self._exact.measure(samples, fitted).rows
        status, hashes = hashed["status"], hashed["value"].fill_null(0).to_numpy()
        is_exact = _are_among(hashes, fitted.arrays[_HASHES])
        is_near = np.zeros(len(status), bool)
        if self.near:
            bands, statuses = bands_of(self._contents(samples), fitted.notes["content"])
            shared = _are_among(bands, fitted.arrays[_BANDS]).any(axis=1)
            is_near = shared & (np.array(statuses) == "ok")
        rows = pl.DataFrame({"value": is_exact | is_near, "exact": is_exact})
        has_content = status == "ok"
        return Measured(rows.select(pl.when(has_content).then(pl.all())).with_columns(status))

    def _contents_to_compare(self, context: FitContext) -> dict[str, Any]:
        """Return whether texts or images are compared, and the version of their hash.

        Raises:
            InputError: the target has other contents than the corpus.
        """
        assert context.examples is not None
        column = self.columns[0]
        values = [v for batch in context.pool_sample(256) for v in self._contents(batch)]
        content = content_of(values, column=column, what=" of the corpus")
        first = next(iter(context.examples()), None)
        if first is not None:
            target = content_of(self._contents(first), column=column, what=" of the target")
            if target != content:
                raise InputError(
                    f"the column {column!r} has {target} in the target and {content} in the"
                    " corpus: expected a target of the same modality"
                )
        return {"content": content, "hash": hash_version(content)}

    def _hashes(self, samples: Samples) -> pl.Series:
        return self._exact.measure(samples, Fitted()).rows["value"]

    def _contents(self, samples: Samples) -> Sequence[Any]:
        """Return the values that near duplicates are found by."""
        if len(self.columns) == 1:
            return samples[self.columns[0]]
        rows = zip(*(samples[name] for name in self.columns), strict=True)
        return ["\n".join(str(value) for value in row if value is not None) for row in rows]

    @property
    def _exact(self) -> Duplicates:
        return Duplicates(self.column, self.normalise)


def _are_among(
    values: npt.NDArray[np.int64], known: npt.NDArray[np.int64]
) -> npt.NDArray[np.bool_]:
    """Return bool of the shape of `values`: whether each is in `known`, which is sorted."""
    if not len(known):
        return np.zeros(values.shape, bool)
    places = np.searchsorted(known, values).clip(max=len(known) - 1)
    are_among: npt.NDArray[np.bool_] = known[places] == values
    return are_among
