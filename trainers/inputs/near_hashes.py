"""Hashes that near duplicates share: bands of the MinHash signatures of texts, and of images.

Text: Broder, "On the Resemblance and Containment of Documents", 1997. A signature has `BANDS` bands
of r = 8 minima over the text's runs of five words. Two texts of Jaccard similarity s share a band
with probability 1 − (1 − s^r)^BANDS: 0.99 at 0.85, 0.56 at 0.7, 0.05 at 0.5. The same numbers
deduplicated FineWeb (Penedo et al., 2024).

Images: the difference hash (Krawetz, "Kind of Like That", 2013): 64 bits, whether a pixel of the
grey image at 9 × 8 pixels is darker than the next one. They are divided into six blocks, and each
band has four of them: images that differ in at most two bits share a band. Images with fewer than
four bits set, or unset, have no structure to compare: they share a band if their pixels are equal.
"""

import hashlib
import itertools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from attent_select.extras import missing_extras_named
from attent_select.stats.randomness import numpy_bits, stream_key
from trainers.inputs.words import word_hashes

Bands = npt.NDArray[np.int64]

TEXT_BANDS: Final = 14
_MINIMA: Final = 8
_RUN: Final = 5
_SEED: Final = 0
_FACTOR: Final = np.uint64(0x9FB21C651E98DF25)
_BLOCKS: Final = tuple(np.array_split(np.arange(64, dtype=np.uint64), 6))
_CHOSEN: Final = tuple(itertools.combinations(range(6), 4))
_STRUCTURE: Final = 4
IMAGE_BANDS: Final = len(_CHOSEN)


def text_bands(texts: Sequence[str]) -> tuple[Bands, npt.NDArray[np.bool_]]:
    """Return int64[texts, TEXT_BANDS], and whether each text has words (otherwise: zeros)."""
    with missing_extras_named():
        from rensa import RMinHash

    runs, starts = _runs_of_words(*word_hashes(texts))
    has_words = np.diff(starts) > 0
    offsets = np.append(starts[:-1][has_words], starts[-1]).astype(np.uint64)
    bands = np.zeros((len(texts), TEXT_BANDS), np.int64)
    if has_words.any():
        signatures = RMinHash.digest_matrix_from_flat_token_hashes(
            runs, offsets, TEXT_BANDS * _MINIMA, _SEED
        )
        minima = np.array(signatures.to_rows(), np.uint64).reshape(-1, TEXT_BANDS, _MINIMA)
        bands[has_words] = _combine(minima)
    return bands, has_words


def image_bands(image: Any) -> Bands:
    """Return int64[IMAGE_BANDS] of a grey Pillow image."""
    from PIL import Image

    pixels = np.asarray(image.resize((9, 8), Image.Resampling.BOX), np.int16)
    bits = (pixels[:, :-1] < pixels[:, 1:]).astype(np.uint64).ravel()
    if _STRUCTURE <= bits.sum() <= 64 - _STRUCTURE:
        blocks = [(bits[block] << (block - block[0])).sum(dtype=np.uint64) for block in _BLOCKS]
        values = np.array([[blocks[number] for number in chosen] for chosen in _CHOSEN])
    else:
        content = hashlib.blake2b(image.tobytes(), digest_size=8).digest()
        values = np.frombuffer(content * IMAGE_BANDS, "<u8").reshape(IMAGE_BANDS, 1)
    bands: Bands = _combine(values[None])[0]
    return bands


def _runs_of_words(
    words: npt.NDArray[np.uint64], starts: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Return the hash of each run of five words; a shorter text is one run."""
    sizes = np.diff(starts)
    left = np.repeat(starts[1:], sizes) - np.arange(len(words))
    runs = words.copy()
    for ahead in range(1, _RUN):
        following = np.zeros_like(words)
        following[:-ahead] = words[ahead:]
        # A word of the next text does not count.
        runs = runs * _FACTOR + np.where(left > ahead, following, np.uint64(0))
    kept = (left >= _RUN) | (left == np.repeat(sizes, sizes))
    counts = np.where(sizes > 0, np.maximum(sizes - _RUN + 1, 1), 0)
    return runs[kept], np.concatenate([[0], np.cumsum(counts)])


def _combine(values: npt.NDArray[np.uint64]) -> Bands:
    """Hash the last axis of [samples, bands, values]; equal bands of two positions differ."""
    hashes = np.arange(values.shape[1], dtype=np.uint64)[None]
    for position in range(values.shape[2]):
        hashes = numpy_bits(stream_key(_SEED, position), hashes ^ values[:, :, position])
    return hashes.view(np.int64)
