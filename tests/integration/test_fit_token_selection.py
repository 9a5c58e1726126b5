"""Token selection in training: loss and gradients of a plain loop, however a step is divided."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from digits import samples, write_corpus, write_index
from fit_process import FitRequest, launch, main, observed, result
from safetensors.torch import load_file
from small_runs import small_run
from task_cases import LLAMA, TaskCase, causal_lm
from torch.nn import functional

from attent_select.errors import InputError
from pipeline.config import run_config
from trainers.inputs.tokenizer import train_tokenizer
from trainers.token_selection import TokenSelector

# One step of so large a rate that the difference of the weights has the gradients' own precision.
RATE, KEEP = 64.0, 0.6


class Setting:
    """A corpus of texts with weights, a reference model, and the requests to train."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.case: TaskCase = causal_lm(folder / "reference")  # with the tokenizer
        models = self.case.task.models(LLAMA)
        self.reference, self.student = models.build(3).eval(), models.build(7).train()
        models.save(self.reference, folder / "reference")
        self.corpus = write_corpus(folder / "shards", self.case.samples * 3)
        self.corpus.save(str(folder / "run"))
        weights = 0.5 + pl.col("row") % 3
        write_index(folder / "index.parquet", self.corpus, weights=weights)

    def request(self, name: str, *, packing: bool = False, **training: Any) -> FitRequest:
        settings: dict[str, Any] = {
            "batch_size": self.corpus.num_samples,
            "torch_threads": 1,
            "learning_rate": RATE,
            "lr_scheduler": "constant",
            "max_grad_norm": 0.0,
            "arguments": {"optim": "sgd"},
            "token_selection": {"reference": str(self.folder / "reference"), "keep": KEEP},
        }
        return FitRequest(
            run=str(self.folder / "run"),
            index=str(self.folder / "index.parquet"),
            out=str(self.folder / name),
            model=LLAMA,
            training=settings | training,
            stream={"seed": 5},
            text={
                "tokenizer": str(self.folder / "reference"),
                "prompt": "prompt",
                "response": "response",
                "max_length": 96,
                "packing": packing,
            },
        )

    def gradients(self, average: str) -> dict[str, torch.Tensor]:
        """The gradients of the step in plain torch: each sample alone, the top ⌈keep · n⌉."""
        sums, counts, weights = [], [], []
        for shard in self.corpus.shards:
            rows = range(shard.num_samples)
            read = self.corpus.read(shard.shard_id, rows=rows, columns=self.case.task.columns)
            for row, sample in zip(rows, read.samples, strict=True):
                item = self.case.task.prepare(sample, generator=None)
                nats = self.nats(self.student, item)
                with torch.no_grad():
                    excess = nats - self.nats(self.reference, item)
                kept = excess.topk(-(-len(nats) * 6 // 10)).indices
                sums.append(nats[kept].sum())
                counts.append(len(kept))
                weights.append(0.5 + row % 3)
        total, number, scale = torch.stack(sums), torch.tensor(counts), torch.tensor(weights)
        if average == "tokens":
            loss = (total * scale).sum() / number.sum()
        else:
            loss = (total / number * scale).sum() / len(number)
        self.student.zero_grad()
        loss.backward()
        return {n: p.grad.clone() for n, p in self.student.named_parameters() if p.grad is not None}

    def nats(self, model: Any, item: dict[str, Any]) -> torch.Tensor:
        labels = torch.tensor(item["labels"][1:])
        logits = model(input_ids=torch.tensor([item["input_ids"]])).logits[0, :-1]
        return functional.cross_entropy(logits[labels >= 0], labels[labels >= 0], reduction="none")


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    return Setting(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def gradients(setting: Setting) -> dict[str, dict[str, torch.Tensor]]:
    return {average: setting.gradients(average) for average in ("tokens", "samples")}


@pytest.mark.parametrize(
    ("training", "num_ranks"),
    [
        ({}, 1),
        ({"packing": True, "micro_batch_units": 120}, 1),
        ({"micro_batch_units": 90}, 2),
        ({"packing": True, "average": "samples"}, 2),
    ],
)
def test_any_micro_batches_have_the_gradients_of_the_selected_tokens(
    setting: Setting,
    gradients: dict[str, dict[str, torch.Tensor]],
    training: dict[str, Any],
    num_ranks: int,
) -> None:
    request = setting.request(f"{training}-{num_ranks}", **training)
    assert launch(request, num_ranks=num_ranks) == 0
    trained = load_file(f"{request.out}/model.safetensors")
    start = setting.student.state_dict()
    expected = gradients[training.get("average", "tokens")]
    errors = torch.cat(
        [
            ((start[name].double() - trained[name].double()) / RATE - gradient.double()).flatten()
            for name, gradient in expected.items()
        ]
    )
    assert errors.norm() / torch.cat([each.flatten() for each in expected.values()]).norm() < 1e-6
    # What is observed is the loss of whole samples.
    seen = observed(request)
    assert sorted(seen["num_units"].to_list()) == sorted(setting.case.num_units * 3)
    assert result(request)["units_seen"] == 3 * sum(setting.case.num_units)


@pytest.mark.parametrize("packing", [False, True])
def test_the_mask_and_the_losses_are_those_of_single_samples(
    setting: Setting, *, packing: bool
) -> None:
    task = replace(setting.case.task, packing=packing)
    items = [task.prepare(sample, generator=None) for sample in setting.case.samples]
    selector = TokenSelector(setting.reference, KEEP)
    losses = selector.losses(task, setting.student, task.collate(items))
    for row, item in enumerate(items):
        nats = setting.nats(setting.student, item)
        excess = nats - setting.nats(setting.reference, item)
        kept = excess.topk(-(-len(nats) * 6 // 10)).indices
        torch.testing.assert_close(losses.learned[row], nats[kept].mean(), rtol=1e-6, atol=0)
        torch.testing.assert_close(losses.whole[row], nats.mean().detach(), rtol=1e-6, atol=0)
        assert (losses.num_learned[row], losses.num_units[row]) == (len(kept), len(nats))


def test_whole_samples_are_observed_and_all_tokens_kept_change_nothing(setting: Setting) -> None:
    kept = {"reference": str(setting.folder / "reference"), "keep": 1.0}
    selected = setting.request("all", token_selection=kept)
    plain = setting.request("plain", token_selection=None)
    for request in (selected, plain):
        assert launch(request) == 0
    first, second = (load_file(f"{each.out}/model.safetensors") for each in (selected, plain))
    assert all(map(torch.equal, first.values(), second.values()))
    some = setting.request("some")
    assert launch(some) == 0
    assert observed(some)["loss"].to_list() == observed(plain)["loss"].to_list()


def test_a_killed_round_learns_the_same_tokens_and_refuses_another_reference(
    setting: Setting, tmp_path: Path
) -> None:
    shutil.copytree(setting.folder / "reference", tmp_path / "reference")
    settings: dict[str, Any] = {
        "batch_size": 4,
        "save_steps": 1,
        "learning_rate": 1e-3,
        "token_selection": {"reference": str(tmp_path / "reference"), "keep": KEEP},
    }
    undisturbed, killed = (setting.request(n, **settings) for n in ("undisturbed", "killed"))
    assert launch(undisturbed) == 0
    assert launch(replace(killed, kill_after_step=2)) == -9
    weights = tmp_path / "reference" / "model.safetensors"
    before = weights.read_bytes()
    shutil.copy(f"{undisturbed.out}/model.safetensors", weights)
    with pytest.raises(
        InputError, match=r"token_selection\.reference: .*/step-\d was trained with .*: restore"
    ):
        main(killed)
    weights.write_bytes(before)
    assert launch(killed) == 0
    first, second = (load_file(f"{each.out}/model.safetensors") for each in (undisturbed, killed))
    assert all(map(torch.equal, first.values(), second.values()))
    assert observed(killed).equals(observed(undisturbed))


# --- bad input ----------------------------------------------------------------------------------


@pytest.fixture
def values(setting: Setting, tmp_path: Path) -> dict[str, Any]:
    values = small_run(tmp_path / "run", setting.folder / "shards")
    values["task"] = {"name": "causal_lm", **(setting.request("x").text or {})}
    values["model"] = LLAMA
    values["corpus"] = {"shards": [str(setting.folder / "shards" / "*.parquet")]}
    del values["evaluation"]
    return values


def parse(values: dict[str, Any], **selection: Any) -> Any:
    values["training"] = {"token_selection": selection}
    return run_config.parse(values).training.token_selection


def test_a_selection_is_checked_before_a_run_is_made(
    setting: Setting, values: dict[str, Any], tmp_path: Path
) -> None:
    reference = str(setting.folder / "reference")
    assert parse(values, reference=reference).keep == KEEP
    for keep, message in ((0, "keep is 0.0: expected a share"), (1.5, "keep is 1.5: expected")):
        with pytest.raises(InputError, match=rf"training\.token_selection\.{message}"):
            parse(values, reference=reference, keep=keep)
    with pytest.raises(
        InputError, match=r"token_selection\.kepe: unknown key, did you mean 'keep'"
    ):
        parse(values, reference=reference, kepe=0.5)
    with pytest.raises(InputError, match=r"training\.token_selection\.reference: is missing"):
        parse(values, keep=0.5)
    with pytest.raises(InputError, match=r"training\.token_selection\.reference: .*nowhere"):
        parse(values, reference=str(tmp_path / "nowhere"))


def test_a_reference_with_other_tokens_is_refused(
    setting: Setting, values: dict[str, Any], tmp_path: Path
) -> None:
    for name, vocabulary in (("same", 300), ("few", 100)):
        models = setting.case.task.models(LLAMA)
        models.save(models.build(1), tmp_path / name)
        file = tmp_path / name / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"vocab_size": vocabulary}))
    with pytest.raises(InputError, match=r"token_selection\.reference: .*tokens"):
        parse(values, reference=str(tmp_path / "few"))
    train_tokenizer(["another language", "altogether"] * 9, tmp_path / "same", vocab_size=300)
    with pytest.raises(InputError, match=r"the tokenizer of the model has other tokens"):
        parse(values, reference=str(tmp_path / "same"))


def test_a_task_without_tokens_is_refused(tmp_path: Path) -> None:
    write_corpus(tmp_path / "parquet", samples(8), num_shards=1)
    values = small_run(tmp_path / "run", tmp_path)
    del values["evaluation"]
    with pytest.raises(InputError, match=r"training\.token_selection: the task ImageClassific"):
        parse(values, reference="x")
