"""Rate of tokenisation: samples per second of `causal_lm`, beside the tokenizer's own batch call.

Each turn prepares the same texts, 64 at a time in one thread, in several ways:

    bare       encode_batch_fast of the tokenizer alone: no labels, no begin and end token
    text       the task with `text`: every token counts, so that no offsets are needed
    response   the task with a prompt and a response, whose tokens are located in the text
    offsets    encode_batch of the tokenizer alone: what offsets cost
    collated   `text`, and padded tensors of tokens, mask and labels
    called     the tokenizer called with `padding=True` and `return_tensors="pt"`, and labels

Processor seconds of the process; of each chunk the fastest turn counts, because others on the
machine only make it slower. Writes JSON to benchmarks/results/.

    python benchmarks/tokenising.py                          # generated texts, as long as Dolly's
    python benchmarks/tokenising.py --data FOLDER --names dolly15k gsm8k_train eltec_prose_train
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from math import inf
from pathlib import Path
from time import process_time
from typing import Any

# Before tokenizers is imported: one thread, as each thread of the stream has.
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import machine
from padding import COLUMNS, RESULTS, texts_of

CHUNK = 64


def ways_of(folder: Path, texts: list[str]) -> dict[str, tuple[Callable[[Any], Any], list[Any]]]:
    """Return what each way does to a chunk, and its chunks."""
    from transformers import AutoTokenizer

    from trainers.hf import load_tokenizer
    from trainers.tasks.causal_lm import CausalLm

    tokenizer: Any = load_tokenizer(str(folder))
    backend = tokenizer.backend_tokenizer
    other = AutoTokenizer.from_pretrained(folder)  # calls leave their padding in the backend
    chunks = [texts[first : first + CHUNK] for first in range(0, len(texts), CHUNK)]
    whole = CausalLm(tokenizer=str(folder), text="t", max_length=1 << 20)
    partly = CausalLm(
        tokenizer=str(folder), prompt="p", response="r", template="{prompt}", max_length=1 << 20
    )
    of_text = [[{"t": text} for text in chunk] for chunk in chunks]
    of_pair = [
        [{"p": text[: len(text) // 2], "r": text[len(text) // 2 :]} for text in chunk]
        for chunk in chunks
    ]

    def call(chunk: list[str]) -> Any:
        batch = other(chunk, padding=True, return_tensors="pt")
        return batch, batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)

    def encode_fast(chunk: list[str]) -> Any:
        return [one.ids for one in backend.encode_batch_fast(chunk, add_special_tokens=False)]

    def encode(chunk: list[str]) -> Any:
        encodings = backend.encode_batch(chunk, add_special_tokens=False)
        return [(one.ids, one.offsets) for one in encodings]

    return {
        "bare": (encode_fast, chunks),
        "text": (whole.prepare_all, of_text),
        "response": (partly.prepare_all, of_pair),
        "offsets": (encode, chunks),
        "collated": (lambda chunk: whole.collate(whole.prepare_all(chunk)), of_text),
        "called": (call, chunks),
    }


def measure(texts: list[str], repeats: int) -> dict[str, Any]:
    from trainers.inputs.tokenizer import train_tokenizer

    with tempfile.TemporaryDirectory(prefix="attent-tokenising-") as folder:
        train_tokenizer(texts[:2000], Path(folder), vocab_size=8192)
        ways = ways_of(Path(folder), texts)
        seconds = {name: [inf] * len(chunks) for name, (_, chunks) in ways.items()}
        for turn in range(repeats + 1):
            for name, (function, chunks) in ways.items():
                for number, chunk in enumerate(chunks):
                    started = process_time()
                    function(chunk)
                    if turn:  # the first one fills caches
                        spent = process_time() - started
                        seconds[name][number] = min(seconds[name][number], spent)
    rates = {name: len(texts) / sum(fastest) for name, fastest in seconds.items()}
    return {
        "samples": len(texts),
        "characters": sum(map(len, texts)),
        "samples_per_second": rates,
        "share_of_bare": {name: rate / rates["bare"] for name, rate in rates.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with the data sets")
    parser.add_argument("--names", nargs="+", default=["dolly15k"], choices=list(COLUMNS))
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--name", default="tokenising", help="of the results file")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": machine.describe()}
    for name in arguments.names if arguments.data else ["generated"]:
        texts = texts_of(arguments.data, name, arguments.samples)
        results[name] = measure(texts, arguments.repeats)
        shares = results[name]["share_of_bare"]
        print(name, " ".join(f"{way} {share:.2f}" for way, share in shares.items()), flush=True)
    arguments.results.mkdir(parents=True, exist_ok=True)
    path = arguments.results / f"{arguments.name}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
