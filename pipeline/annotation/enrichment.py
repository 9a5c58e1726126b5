"""Enrichment: what selecting by an annotation is expected to gain, before any training. Pure.

The examples of the target that judge are not seen when the annotation is made. Of a selection of
the top share s of the corpus,

    recall = share of the judging examples above the cut, enrichment = recall / s ≤ 1 / s

so that the enrichment is the wanted share of the selection divided by that of the corpus, if the
wanted rows of the corpus resemble the examples. The area under the ROC curve (AUC) is the
probability that a judging example has a larger value than a random sample of the corpus; ties count
half.

If a share π of the corpus is distributed as the examples are, the share of the corpus above any cut
is at least π · recall. So π is at most the smallest share / recall of any cut (Blanchard, Lee and
Scott, "Semi-Supervised Novelty Detection", JMLR 2010).
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

SHARES: Final = (0.05, 0.1, 0.2, 0.4)
TOP_SHARE: Final = 0.2
# Key of the record: whether large values are wanted.
LARGEST_FIRST: Final = "largest_first"
_RESAMPLES: Final = 2000
# Cuts below which fewer examples lie say too little about the resembling share.
_LEAST_RECALL: Final = 0.5

Values = npt.NDArray[np.float64]


def enrichment_of(
    corpus: Values,
    judging: Values,
    *,
    kinds: Sequence[str] | None = None,
    held_out: Values | None = None,
) -> dict[str, Any]:
    """Return the enrichment of the top shares of a corpus, as the record stores it.

    Args:
        corpus: values of the corpus or of a random part of it; NaN for none.
        judging: values of the judging examples; NaN for none.
        kinds: kind of reference of each judging example.
        held_out: values of random samples that the annotation was not fitted to, for the AUC.
            Default: those of `corpus`.
    """
    ranked = np.sort(np.where(np.isnan(corpus), -np.inf, corpus))[::-1]
    return {
        "num_judging": len(judging),
        "num_corpus": len(corpus),
        "auc": _auc(judging, corpus if held_out is None else held_out),
        "resembling_share": _resembling_share(ranked, judging),
        "shares": [_at_share(ranked, judging, share, kinds) for share in SHARES],
    }


def at_top_share(enrichment: dict[str, Any]) -> dict[str, Any] | None:
    """Return the entry of the top share that lists show; None if there is none."""
    entries = enrichment.get("shares", [])
    return next((entry for entry in entries if entry["share"] == TOP_SHARE), None)


def top_cut(values: Values, *, share: float) -> float:
    """Return the smallest value of the top share; NaN counts as smaller than all others."""
    return _cut(np.sort(np.where(np.isnan(values), -np.inf, values))[::-1], share)


def _cut(ranked: Values, share: float) -> float:
    return float(ranked[max(0, round(share * len(ranked)) - 1)])


def _auc(positives: Values, negatives: Values) -> float:
    above, others = (np.where(np.isnan(v), -np.inf, v) for v in (positives, negatives))
    ranked = np.sort(others)
    below = np.searchsorted(ranked, above, "left") + np.searchsorted(ranked, above, "right")
    return float(below.mean() / 2 / len(ranked))


def _resembling_share(ranked: Values, judging: Values) -> float:
    """Return at most which share of the corpus is distributed as the examples are."""
    cuts = np.sort(np.where(np.isnan(judging), -np.inf, judging))[::-1]
    recalls = np.arange(1, len(cuts) + 1) / len(cuts)
    above = len(ranked) - np.searchsorted(ranked[::-1], cuts, side="left")
    shares = above / len(ranked) / recalls
    return float(min(1.0, shares[recalls >= _LEAST_RECALL].min()))


def _at_share(
    ranked: Values, judging: Values, share: float, kinds: Sequence[str] | None
) -> dict[str, Any]:
    # The pool's real share above the cut differs where values are equal.
    cut = _cut(ranked, share)
    pool = float((ranked >= cut).mean())
    above = judging >= cut
    recall = float(above.mean())
    # Resampling examples with replacement draws their number above the cut from a binomial.
    resampled = np.random.default_rng(0).binomial(len(above), recall, _RESAMPLES) / len(above)
    low, high = np.quantile(resampled, [0.025, 0.975]) / pool
    by_kind = {
        kind: float(above[np.array(kinds) == kind].mean()) for kind in sorted(set(kinds or ()))
    }
    return {
        "share": share,
        "recall": recall,
        "enrichment": recall / pool,
        "low": float(low),
        "high": float(high),
        "ceiling": 1 / share,
        **({"recall_by_kind": by_kind} if by_kind else {}),
    }
