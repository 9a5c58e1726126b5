"""Training of a small byte-level BPE tokenizer, for models from scratch."""

import json
from collections.abc import Iterable
from pathlib import Path

from attent_select.errors import InputError

PADDING = "<|pad|>"
END = "<|end|>"
_NUM_BYTES = 256


def train_tokenizer(texts: Iterable[str], folder: Path, *, vocab_size: int) -> None:
    """Train on `texts` and write tokenizer.json and tokenizer_config.json; deterministic.

    Every text can be encoded (all 256 bytes are tokens). Token 0 is the padding, token 1 the end.

    Raises:
        InputError: `vocab_size` cannot hold the bytes and the two special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if vocab_size < _NUM_BYTES + 2:
        raise InputError(f"vocab_size is {vocab_size}: expected at least {_NUM_BYTES + 2}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PADDING, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": PADDING,
        "eos_token": END,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
