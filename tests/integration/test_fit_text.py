"""Rounds of text: any micro-batches, on one rank and two, end where a plain loop ends."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from digits import stream_of, write_corpus, write_index
from fit_process import FitRequest, launch, observed, result
from safetensors.torch import load_file
from task_cases import TaskCase, causal_lm
from torch.nn import functional

from catalogs.corpus import Corpus
from catalogs.index import IndexFile

BATCH_SIZE, RATE = 9, 0.3
Weights = dict[str, torch.Tensor]


class Setting:
    """A corpus of texts with weights, and the requests to train on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.case: TaskCase = causal_lm(folder / "tokenizer")
        self.corpus = write_corpus(folder / "shards", self.case.samples * 3)
        self.corpus.save(str(folder / "run"))
        self.index = write_index(
            folder / "index.parquet", self.corpus, weights=0.5 + pl.col("row") % 3
        )

    def request(self, name: str, *, packing: bool = False, **training: Any) -> FitRequest:
        settings: dict[str, Any] = {
            "batch_size": BATCH_SIZE,  # uneven shares, and a tail of 3 samples
            "torch_threads": 1,
            "save_steps": 2,
            # Adam and clipping forgive a loss of the wrong scale; this does not.
            "learning_rate": RATE,
            "lr_scheduler": "constant",
            "max_grad_norm": 0.0,
            "arguments": {"optim": "sgd"},
        }
        return FitRequest(
            run=str(self.folder / "run"),
            index=str(self.folder / "index.parquet"),
            out=str(self.folder / name),
            model=self.case.model_settings,
            training=settings | training,
            stream={"seed": 5, "epochs": 2},
            text={
                "tokenizer": str(self.folder / "tokenizer"),
                "prompt": "prompt",
                "response": "response",
                "max_length": 96,
                "packing": packing,
            },
        )

    def by_hand(self, average: str) -> Weights:
        """The same round as a plain loop: each sample alone, without padding or micro-batches."""
        corpus = Corpus.open(str(self.folder / "run"))
        index = IndexFile.open(str(self.folder / "index.parquet"), corpus=corpus)
        model = self.case.task.models(self.case.model_settings).build(7).train()
        order = stream_of(index, corpus, None, seed=5, epochs=2, batch_size=BATCH_SIZE)
        for batch in order:
            where = zip(batch["shard_id"].tolist(), batch["row"].tolist(), strict=True)
            nats = [self._nats(model, shard_id, row) for shard_id, row in where]
            if average == "tokens":
                sums = torch.stack([each.sum() for each in nats])
                loss = (sums * batch["weight"]).sum() / sum(map(len, nats))
            else:
                means = torch.stack([each.mean() for each in nats])
                loss = (means * batch["weight"]).sum() / BATCH_SIZE
            model.zero_grad()
            loss.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.sub_(RATE * parameter.grad)
        return dict(model.state_dict())

    def _nats(self, model: Any, shard_id: int, row: int) -> torch.Tensor:
        """Return the losses of the counted tokens of one sample."""
        task = self.case.task
        (sample,) = self.corpus.read(shard_id, rows=[row], columns=task.columns).samples
        item = task.prepare(sample, generator=None)
        labels = torch.tensor(item["labels"][1:])
        logits = model(input_ids=torch.tensor([item["input_ids"]])).logits[0, :-1]
        return functional.cross_entropy(logits[labels >= 0], labels[labels >= 0], reduction="none")


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def by_hand(setting: Setting) -> dict[str, Weights]:
    return {average: setting.by_hand(average) for average in ("tokens", "samples")}


def assert_close(request: FitRequest, expected: Weights) -> None:
    found = load_file(f"{request.out}/model.safetensors")
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=5e-6, msg=name)


@pytest.mark.parametrize(
    ("training", "num_ranks"),
    [
        ({}, 1),
        ({"micro_batch_units": 1, "average": "samples"}, 1),
        ({"micro_batch_units": 90}, 2),
        ({"micro_batch_size": 2, "average": "samples"}, 2),
        ({"packing": True}, 1),
        ({"packing": True, "micro_batch_units": 120}, 2),
    ],
)
def test_any_micro_batches_give_the_weights_of_a_plain_loop_with_the_same_average(
    setting: Setting, by_hand: dict[str, Weights], training: dict[str, Any], num_ranks: int
) -> None:
    request = setting.request(f"{training}-{num_ranks}", **training)
    assert launch(request, num_ranks=num_ranks) == 0
    average = training.get("average", "tokens")
    assert_close(request, by_hand[average])
    seen = observed(request)
    assert len(seen) == 2 * setting.corpus.num_samples
    done = result(request)
    assert done["samples_seen"] == len(seen)
    assert done["units_seen"] == seen["num_units"].sum()
    amounts = seen["num_units"] if average == "tokens" else seen["num_units"].clip(1, 1)
    weighted = (seen["loss"] * (0.5 + seen["row"] % 3) * amounts).sum() / amounts.sum()
    assert done["train_loss"] == pytest.approx(weighted, rel=1e-5)


def test_a_round_killed_on_one_rank_resumes_on_two_with_other_micro_batches(
    setting: Setting, by_hand: dict[str, Weights]
) -> None:
    request = setting.request("killed", micro_batch_units=60)
    assert launch(replace(request, kill_after_step=3)) == -9
    other = request.training | {"micro_batch_units": 200}
    assert launch(replace(request, training=other), num_ranks=2) == 0
    assert_close(request, by_hand["tokens"])
    assert result(request)["units_seen"] == 2 * 3 * sum(setting.case.num_units)
