"""Token ids of texts, tokenized in batches by the Rust backend of a fast tokenizer."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def token_ids(
    tokenizer: str, texts: Sequence[str]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return the ids of all texts without special tokens, and where each text starts, with the end.

    Raises:
        InputError: no fast tokenizer can be loaded from the folder `tokenizer`.
    """
    from trainers.hf import load_tokenizer

    backend = load_tokenizer(tokenizer).backend_tokenizer
    ids = [each.ids for each in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
    sizes = np.fromiter(map(len, ids), np.int64, len(ids))
    values = [np.array(each, np.uint64) for each in ids]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return np.concatenate(values or [np.zeros(0, np.uint64)]), starts
