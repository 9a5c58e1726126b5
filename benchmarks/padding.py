"""Cost of padding: processor seconds per counted token of training on texts of different length.

Every arm trains the same small Llama with AdamW on the same texts, 16 per step, in a separate
process with one thread:

    before       fit with micro-batches of the whole share of a rank
    default      fit as configured by default: micro-batches filled to a number of tokens
    packed       fit with `task.packing`
    collator     a plain loop over DataCollatorForLanguageModeling, in random order
    trl          SFTTrainer of trl (of the extra `test`; without it, its arms are skipped)
    trl_packed   SFTTrainer with packing, in rows of `--max-length` tokens

Processor seconds are those from the first step to the last, all threads together; `fit` tokenizes
in them, the other arms before. Padding is the share of the positions of the model's input ids.
Writes a table, and JSON to benchmarks/results/.

    python benchmarks/padding.py                       # generated texts, as long as those of Dolly
    python benchmarks/padding.py --data FOLDER         # dolly15k, gsm8k_train, eltec_prose_train
    python benchmarks/padding.py --quick               # a few short texts: does it run?
"""

import argparse
import json
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from time import process_time
from typing import Any

import machine
import numpy as np
import polars as pl

RESULTS = Path(__file__).parent / "results"
OURS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "before": ({}, {"micro_batch_size": 16}),
    "default": ({}, {}),
    "packed": ({"packing": True}, {}),
}
ARMS = (*OURS, "collator", "trl", "trl_packed")
BATCH_SIZE, RATE, SEED = 16, 1e-3, 7
COLUMNS = {
    "dolly15k": ("instruction", "input", "output"),
    "gsm8k_train": ("question", "answer"),
    "eltec_prose_train": ("text",),
}


def texts_of(data: Path | None, name: str, number: int) -> list[str]:
    """Return random texts of a data set, or generated ones."""
    generator = np.random.default_rng(SEED)
    if data is None:
        # Characters of Dolly's texts: the median is 500, the mean 860.
        sizes = np.exp(generator.normal(6.2, 1.05, number)).astype(int)
        words = ["".join(generator.choice(list("etaoinshr"), 5)) for _ in range(2000)]
        return [" ".join(generator.choice(words, max(size // 6, 2))) for size in sizes]
    rows = pl.read_parquet(data / f"{name}.parquet", columns=list(COLUMNS[name]))
    rows = rows.sample(number, shuffle=True, seed=SEED)
    return ["\n".join(filter(None, row)) for row in rows.iter_rows()]


def prepare(folder: Path, texts: list[str]) -> None:
    """Write corpus, index, tokenizer and model of all arms."""
    from catalogs import storage
    from catalogs.corpus import Corpus
    from catalogs.index import IndexFile
    from catalogs.shards import inspect_shard
    from trainers.inputs.tokenizer import train_tokenizer
    from trainers.tasks.causal_lm import CausalLm

    shard = folder / "texts.parquet"
    pl.DataFrame({"text": texts}).write_parquet(shard)
    train_tokenizer(texts, folder / "tokenizer", vocab_size=8192)
    stored = storage.info(str(shard))
    assert stored is not None
    corpus = Corpus.from_inspections([(stored, "parquet", inspect_shard(str(shard), "parquet"))])
    corpus.save(str(folder / "run"))
    one = pl.lit(1.0, pl.Float32)
    IndexFile.write(
        str(folder / "index.parquet"),
        corpus.rows().with_columns(weight=one, probability=one),
        provenance={"corpus_id": corpus.corpus_id},
    )
    models = CausalLm(tokenizer=str(folder / "tokenizer"), text="text").models(
        {
            "config": {
                "model_type": "llama",
                "vocab_size": 8192,
                "hidden_size": 128,
                "intermediate_size": 384,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "max_position_embeddings": 8192,
                "tie_word_embeddings": True,
            }
        }
    )
    models.save(models.build(SEED), folder / "model")


class Meter:
    """Positions and tokens of the input ids that a model gets, and processor seconds."""

    def __init__(self, model: Any) -> None:
        self.num_positions = self.num_tokens = 0
        self.started: float | None = None
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, __: Any, inputs: dict[str, Any]) -> None:
        self.started = process_time() if self.started is None else self.started
        mask = inputs.get("attention_mask")
        self.num_positions += inputs["input_ids"].numel()
        self.num_tokens += inputs["input_ids"].numel() if mask is None else int(mask.sum())

    def figures(self) -> dict[str, float]:
        assert self.started is not None
        seconds = process_time() - self.started
        return {
            "seconds": seconds,
            "tokens": self.num_tokens,
            "microseconds_per_token": 1e6 * seconds / self.num_tokens,
            "padding": 1 - self.num_tokens / self.num_positions,
        }


class Metered:
    """A model store whose new model has a meter."""

    def __init__(self, models: Any) -> None:
        self._models, self._model = models, models.build(SEED)
        self.meter = Meter(self._model.base_model)

    def build(self, _: int) -> Any:
        return self._model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._models, name)


def ours(arm: str, folder: Path, max_length: int) -> dict[str, float]:
    from catalogs import Corpus, IndexFile
    from trainers import OrderSettings, RankShare, TeachingStream, TrainingSettings, fit
    from trainers.tasks.causal_lm import CausalLm

    of_task, limits = OURS[arm]
    task = CausalLm(
        tokenizer=str(folder / "tokenizer"), text="text", max_length=max_length, **of_task
    )
    models = Metered(task.models({"path": str(folder / "model")}))
    meter = models.meter
    corpus = Corpus.open(str(folder / "run"))
    stream = TeachingStream(
        IndexFile.open(str(folder / "index.parquet"), corpus=corpus),
        corpus,
        task,
        order=OrderSettings(SEED, BATCH_SIZE),
        share=RankShare(**limits),
    )
    figures: dict[str, float] = {}

    def after_step(step: int) -> None:
        if step == stream.num_steps:
            figures.update(meter.figures())

    fit(
        stream,
        task=task,
        models=models,
        start=None,
        out=str(folder / arm),
        settings=TrainingSettings(
            batch_size=BATCH_SIZE, learning_rate=RATE, torch_threads=1, **limits
        ),
        first_step=0,
        total_steps=stream.num_steps,
        seed=SEED,
        on_step=after_step,
    )
    return figures


def token_ids(folder: Path, max_length: int) -> tuple[Any, list[list[int]]]:
    """Return the tokenizer, and the tokens of each text as `causal_lm` makes them."""
    from trainers.hf import load_tokenizer
    from trainers.tasks.causal_lm import CausalLm

    task = CausalLm(tokenizer=str(folder / "tokenizer"), text="text", max_length=max_length)
    rows = pl.read_parquet(folder / "texts.parquet").to_dicts()
    ids = [item["input_ids"] for item in task.prepare_all(rows) if isinstance(item, dict)]
    return load_tokenizer(str(folder / "tokenizer")), ids


def collator(folder: Path, max_length: int) -> dict[str, float]:
    import torch
    from transformers import AutoModelForCausalLM, DataCollatorForLanguageModeling

    tokenizer, ids = token_ids(folder, max_length)
    collate = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    model = AutoModelForCausalLM.from_pretrained(folder / "model").train()
    meter = Meter(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    order = np.random.default_rng(SEED).permutation(len(ids))
    for first in range(0, len(order), BATCH_SIZE):
        batch = collate([{"input_ids": ids[k]} for k in order[first : first + BATCH_SIZE]])
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return meter.figures()


def sft(arm: str, folder: Path, max_length: int) -> dict[str, float]:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    tokenizer, ids = token_ids(folder, max_length)
    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    meter, figures = Meter(model), dict[str, float]()
    is_packed = arm == "trl_packed"
    tokens_per_step = BATCH_SIZE * sum(map(len, ids)) / len(ids)

    class Figures(TrainerCallback):
        def on_train_end(self, *_: Any, **__: Any) -> None:
            figures.update(meter.figures())

    trainer = SFTTrainer(
        model,
        args=SFTConfig(
            output_dir=str(folder / arm),
            per_device_train_batch_size=(
                max(1, round(tokens_per_step / max_length)) if is_packed else BATCH_SIZE
            ),
            max_length=max_length,
            packing=is_packed,
            num_train_epochs=1,
            learning_rate=RATE,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"input_ids": ids}),
        processing_class=tokenizer,
        callbacks=[Figures()],
    )
    trainer.train()
    return figures


def run_arm(arm: str, folder: Path, max_length: int) -> dict[str, float]:
    import torch

    torch.set_num_threads(1)
    if arm in OURS:
        return ours(arm, folder, max_length)
    return collator(folder, max_length) if arm == "collator" else sft(arm, folder, max_length)


def measure(arms: list[str], folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run all arms in turns, each in a separate process, and return the median run of each."""
    runs: dict[str, list[dict[str, float]]] = {arm: [] for arm in arms}
    for _ in range(arguments.repeats):
        for arm in arms:
            if (figures := _run_once(arm, folder, arguments)) is not None:
                runs[arm].append(figures)
                print(
                    f"  {arm:<10} {figures['microseconds_per_token']:7.1f} µs per token, "
                    f"padding {figures['padding']:.1%}",
                    flush=True,
                )
    return {arm: _median(figures) for arm, figures in runs.items() if figures}


def _median(runs: list[dict[str, float]]) -> dict[str, Any]:
    runs = sorted(runs, key=lambda figures: figures["microseconds_per_token"])
    each = [round(figures["microseconds_per_token"], 1) for figures in runs]
    return {**runs[len(runs) // 2], "microseconds_per_token_of_each_run": each}


def _run_once(arm: str, folder: Path, arguments: argparse.Namespace) -> dict[str, float] | None:
    command = [sys.executable, __file__, "--arm", arm, "--folder", str(folder)]
    command += ["--max-length", str(arguments.max_length)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{arm} failed: {done.stderr[-1000:]}", file=sys.stderr)
        return None
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with the data sets")
    parser.add_argument("--names", nargs="+", default=list(COLUMNS), choices=list(COLUMNS))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--samples", type=int, default=480)
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--quick", action="store_true", help="32 texts of at most 128 tokens")
    parser.add_argument(
        "--repeats", type=int, default=1, help="turns of all arms; the median counts"
    )
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--name", default="padding", help="of the results file")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.arm:
        print(json.dumps(run_arm(arguments.arm, arguments.folder, arguments.max_length)))
        return
    if arguments.quick:
        arguments.samples, arguments.max_length = 32, 128
    arms = arguments.arms
    if find_spec("trl") is None:
        print("trl is not installed and not measured: run make install")
        arms = [arm for arm in arms if not arm.startswith("trl")]
    path = arguments.results / f"{arguments.name}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    for name in arguments.names if arguments.data else ["generated"]:
        print(name)
        with tempfile.TemporaryDirectory(prefix="attent-padding-") as temporary:
            prepare(Path(temporary), texts_of(arguments.data, name, arguments.samples))
            of_data = results.setdefault(name, {"arms": {}})
            of_data |= {"samples": arguments.samples, "max_length": arguments.max_length}
            of_data["arms"] |= measure(arms, Path(temporary), arguments)
        results["machine"] = machine.describe()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
