"""`attent demo`: the whole loop on real data, against all data and random subsets of equal size.

A demonstration has three arms, which are three ordinary runs. Run it again to resume.
"""

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from attent_select.errors import InputError
from attent_select.plugins import load_plugin
from catalogs import IndexFile, storage
from catalogs.layout import join
from catalogs.shard_format import Sample
from pipeline import stages
from pipeline.cluster import Client, connect, on_every_worker
from pipeline.config import run_config
from pipeline.config.cluster_settings import ClusterSettings
from pipeline.demo import data as demo_data
from pipeline.reports.html_report import write_report
from pipeline.reports.run_results import verdict_on
from pipeline.runs.state import prepare
from pipeline.scoring.score_stage import score_stage
from pipeline.selection.select_stage import select_stage

_log = logging.getLogger("attent.pipeline.demo.run")

_SEED = 0
_NUM_SHARDS = 4
_ARMS = ("full", "uniform", "soft")


@dataclass(frozen=True)
class Demo:
    """A demonstration.

    Attributes:
        name: its name in `--task`.
        samples: returns training and held-out samples.
        settings: returns the sections `task`, `model`, `schedule` and `training` for a folder.
        prepare: writes what else is needed into that folder (training samples, folder).
    """

    name: str
    samples: Callable[[], tuple[list[Sample], list[Sample]]]
    settings: Callable[[str], dict[str, Any]]
    prepare: Callable[[list[Sample], str], None]


@dataclass(frozen=True)
class Arm:
    """Result of one way to select samples. `seconds_saved` is relative to the arm `full`."""

    accuracy: float | None
    eval_loss: float
    samples_seen: int
    seconds: dict[str, float]
    seconds_saved: float


@dataclass(frozen=True)
class DemoResult:
    """Results of the arms; `webdataset_selects_same_rows`: the tars give the same subset."""

    task: str
    full: Arm
    uniform: Arm
    soft: Arm
    webdataset_selects_same_rows: bool
    report: str
    seconds: float

    @property
    def arms(self) -> dict[str, Arm]:
        """The arms by name."""
        return {"full": self.full, "uniform": self.uniform, "soft": self.soft}


def run_demo(task: str, *, out: str) -> DemoResult:
    """Train on all data, on random subsets and on taught subsets, and compare.

    Args:
        task: `vision` (digits, a small ViT) or `text` (docstrings, a small causal language model).
        out: folder for the data, the runs and report.html; an earlier demo there is resumed.

    Raises:
        InputError: there is no such demonstration, or a library for it is missing.
    """
    if task not in DEMOS:
        raise InputError(f"--task {task}: expected {' or '.join(DEMOS)}")
    return compare(DEMOS[task], out=out)


def compare(demo: Demo, *, out: str) -> DemoResult:
    """Run the arms of `demo` in the folder `out`, one after the other, on one local cluster."""
    started = monotonic()
    out = storage.normalise(out)
    _log.info(f"writing the data to {out}/data")
    _write_data(demo, out)
    settings = {arm: _settings(demo, out, arm=arm) for arm in (*_ARMS, "webdataset")}
    with connect(ClusterSettings(workers=2)) as client:
        on_every_worker(client, _import_libraries)
        _import_libraries()
        described = {}
        for arm in _ARMS:
            _log.info(f"training {arm}: {_TITLES[arm]}")
            described[arm] = stages.run(run_config.parse(settings[arm]), client=client)
        same = _selects_same_rows(settings, client=client)
    _log.info(
        f"the WebDataset shards select {'the same' if same else 'OTHER'} rows as the Parquet shards"
    )
    arms = _arms(described)
    report = write_report(
        join(out, "soft"),
        controls={arm: join(out, arm) for arm in ("full", "uniform")},
        verdict=verdict_on(join(out, "soft"), all_data=[join(out, "full")]),
        out=join(out, "report.html"),
    )
    return DemoResult(
        task=demo.name,
        full=arms["full"],
        uniform=arms["uniform"],
        soft=arms["soft"],
        webdataset_selects_same_rows=same,
        report=report,
        seconds=monotonic() - started,
    )


_TITLES = {
    "full": "all data in every epoch",
    "uniform": "a fresh random subset per round",
    "soft": "the subset that the teacher selects",
}


def _write_data(demo: Demo, out: str) -> None:
    """Write the shards once: their etags must not change when a demo is resumed."""
    marker = join(out, "data", "complete")
    if storage.info(marker) is not None:
        return
    training, held_out = demo.samples()
    _write_shards(training, join(out, "data", "parquet"), shard_format="parquet")
    _write_shards(training, join(out, "data", "webdataset"), shard_format="webdataset")
    _write_shards(held_out, join(out, "data", "held-out"), shard_format="parquet")
    demo.prepare(training, out)
    storage.publish(marker, b"")


def _write_shards(samples: Sequence[Sample], folder: str, *, shard_format: str) -> None:
    writer = load_plugin("catalogs.formats", shard_format)()
    for number in range(_NUM_SHARDS):
        first, end = (len(samples) * edge // _NUM_SHARDS for edge in (number, number + 1))
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary, "shard")
            writer.write(path, samples[first:end])
            url = join(folder, f"shard-{number:03d}{writer.suffixes[0]}")
            storage.publish(url, path)


def _settings(demo: Demo, out: str, *, arm: str) -> dict[str, Any]:
    """Return the configuration of an arm, as a user would write it; epochs are equal in all."""
    kind = "webdataset" if arm == "webdataset" else "parquet"
    values = {
        "run": join(out, arm),
        "seed": _SEED,
        "corpus": {"shards": [join(out, "data", kind)]},
        "evaluation": {"shards": [join(out, "data", "held-out")]},
        **demo.settings(out),
    }
    values["selection"] = {"strategy": "soft" if arm in ("soft", "webdataset") else "uniform"}
    if arm == "full":
        values["schedule"] = values["schedule"] | {"ratio": {"start": 1.0}}
    return values


def _selects_same_rows(settings: dict[str, dict[str, Any]], *, client: Client) -> bool:
    """Score and select the first taught round again from the tars, with the same weights."""
    soft = prepare(run_config.parse(settings["soft"]), cluster=lambda: client)
    tars = prepare(run_config.parse(settings["webdataset"]), cluster=lambda: client)
    taught = next(round_ for round_ in soft.rounds if round_.phase == "teach")
    score_stage(tars, taught, cluster=lambda: client, checkpoint=soft.start_checkpoint(taught))
    chosen = IndexFile.open(soft.layout.index(taught.number), corpus=soft.corpus)
    return select_stage(tars, taught).digest == chosen.digest


def _arms(described: dict[str, dict[str, Any]]) -> dict[str, Arm]:
    seconds = {
        arm: {
            stage: sum(round_["seconds"].get(stage, 0.0) for round_ in result["rounds"])
            for stage in ("score", "select", "train", "evaluate")
        }
        for arm, result in described.items()
    }
    # Evaluation is the same in all arms and not part of the cost.
    for stages_ in seconds.values():
        stages_["total"] = stages_["score"] + stages_["select"] + stages_["train"]
    return {
        arm: Arm(
            accuracy=result["rounds"][-1].get("accuracy"),
            eval_loss=result["rounds"][-1]["eval_loss"],
            samples_seen=sum(round_["samples_seen"] for round_ in result["rounds"]),
            seconds=seconds[arm],
            seconds_saved=seconds["full"]["total"] - seconds[arm]["total"],
        )
        for arm, result in described.items()
    }


def _import_libraries() -> None:
    """Import torch, which takes seconds once per process, before an arm is timed."""
    import trainers.fitting
    import trainers.scoring.scorer
    import trainers.tasks.causal_lm
    import trainers.tasks.image_classification  # noqa: F401


def _vision(out: str) -> dict[str, Any]:  # noqa: ARG001
    return {
        "task": {"name": "image_classification", "image_size": 8, "num_channels": 1},
        "model": {
            "config": {
                "model_type": "vit",
                "image_size": 8,
                "patch_size": 2,
                "num_channels": 1,
                "num_labels": 10,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
            }
        },
        "schedule": {
            "epochs": 30,
            "warmup_epochs": 3,
            "ratio": {"start": 0.4},
            "interval": {"kind": "incremental", "epochs": 2, "end": 7},
        },
        "training": {
            "batch_size": 32,
            "learning_rate": 1e-3,
            "weight_decay": 0.01,
            "warmup_steps": 20,
            "torch_threads": 1,  # more threads slow down so small a model
        },
    }


def _text(out: str) -> dict[str, Any]:
    return {
        "task": {
            "name": "causal_lm",
            "tokenizer": join(out, "data", "tokenizer"),
            "prompt": "prompt",
            "response": "response",
            "max_length": 72,
        },
        "model": {
            "config": {
                "model_type": "llama",
                "vocab_size": _VOCABULARY,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "max_position_embeddings": 72,
                "pad_token_id": 0,
                "bos_token_id": None,
                "eos_token_id": 1,
                "tie_word_embeddings": True,
            }
        },
        "schedule": {
            "epochs": 11,
            "warmup_epochs": 1,
            "ratio": {"start": 0.4},
            "interval": {"kind": "incremental", "epochs": 1, "end": 4},
        },
        "training": {
            "batch_size": 32,
            "learning_rate": 2e-3,
            "weight_decay": 0.01,
            "warmup_steps": 20,
            "torch_threads": 1,
        },
    }


_VOCABULARY = 1024
_NUM_DOCSTRINGS = 2000


def _prepare_nothing(training: list[Sample], out: str) -> None:
    """Do nothing: the digits need only the shards."""


def _train_tokenizer(training: list[Sample], out: str) -> None:
    from trainers.inputs.tokenizer import train_tokenizer

    texts = (f"{sample['prompt']}\n{sample['response']}" for sample in training)
    with tempfile.TemporaryDirectory() as temporary:
        train_tokenizer(texts, Path(temporary), vocab_size=_VOCABULARY)
        storage.upload_folder(Path(temporary), join(out, "data", "tokenizer"))


DEMOS = {
    "vision": Demo(
        name="vision",
        samples=lambda: demo_data.digits(seed=_SEED),
        settings=_vision,
        prepare=_prepare_nothing,
    ),
    "text": Demo(
        name="text",
        samples=lambda: demo_data.docstrings(seed=_SEED, limit=_NUM_DOCSTRINGS),
        settings=_text,
        prepare=_train_tokenizer,
    ),
}
