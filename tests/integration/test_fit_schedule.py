"""The learning rate of a round on the schedule of its run, and losses reported at its steps."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from digits import TASK, VIT, samples, stream_of, write_corpus, write_index

from trainers import checkpoint, fit
from trainers.fitting import FitResult
from trainers.settings import TrainingSettings

SGD = TrainingSettings(
    batch_size=16, learning_rate=0.2, torch_threads=1, arguments={"optim": "sgd"}
)


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., FitResult]:
    corpus = write_corpus(tmp_path / "corpus", samples(70))
    index = write_index(tmp_path / "index.parquet", corpus)

    def run(name: str, *, settings: TrainingSettings, **others: Any) -> FitResult:
        return fit(
            stream_of(index, corpus, seed=5, batch_size=settings.batch_size),
            task=TASK,
            models=TASK.models(VIT),
            out=str(tmp_path / name),
            settings=settings,
            seed=7,
            **{"start": None, "first_step": 0, **others},
        )

    return run


def weights_at(url: str) -> dict[str, torch.Tensor]:
    found = checkpoint.open(url)
    assert found is not None
    return dict(found.load(TASK.models(VIT)).state_dict())


def test_a_round_that_moves_faster_on_the_schedule_resumes_exactly(
    train: Callable[..., FitResult],
) -> None:
    options: dict[str, Any] = {
        "settings": replace(SGD, save_steps=2, lr_scheduler="cosine"),
        "total_steps": 40,
        "on_schedule": (0, 40),
    }

    def stop(step: int) -> None:
        if step == 3:
            raise TimeoutError

    whole = train("whole", **options)
    with pytest.raises(TimeoutError):
        train("parts", **options, on_step=stop)
    parts = train("parts", **options)
    for name, tensor in weights_at(whole.checkpoint).items():
        assert torch.equal(tensor, weights_at(parts.checkpoint)[name])
    states = [Path(each.checkpoint) / "scheduler.pt" for each in (whole, parts)]
    rates = [torch.load(path, weights_only=True)["_last_lr"][0] for path in states]
    assert rates == [pytest.approx(0, abs=1e-12)] * 2


def test_losses_are_reported_at_the_steps_of_the_run(
    train: Callable[..., FitResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporting = SGD.arguments | {"report_to": ["tensorboard"], "logging_steps": 1}
    settings = replace(SGD, arguments=reporting)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    first = train("first", total_steps=10, settings=settings)
    assert reported_steps(tmp_path / "events", tag="train/loss") == [1, 2, 3, 4, 5]
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "more"))
    train("second", start=first.checkpoint, first_step=5, total_steps=10, settings=settings)
    assert reported_steps(tmp_path / "more", tag="train/loss") == [6, 7, 8, 9, 10]


def reported_steps(folder: Path, *, tag: str) -> list[int]:
    """Return the steps at which the event file in a folder has a value."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = folder.iterdir()
    steps, data, position = [], file.read_bytes(), 0
    while position < len(data):  # length u64, its checksum u32, the event, its checksum u32
        first = position + 12
        position = first + int.from_bytes(data[position : position + 8], "little") + 4
        event = Event.FromString(data[first : position - 4])
        steps += [event.step for value in event.summary.value if value.tag == tag]
    return steps
