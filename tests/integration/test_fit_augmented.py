"""Training on mixed samples: exact losses and gradients, which are not recorded as observed."""

from pathlib import Path

import polars as pl
import pytest
import torch
from digits import VIT, samples, stream_of, write_corpus, write_index

from trainers import checkpoint, fit
from trainers.inputs.augmentation.settings import Augmentation
from trainers.settings import TrainingSettings
from trainers.tasks.image_classification import ImageClassification

PLAIN = {
    "config": VIT["config"] | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
}
SGD = TrainingSettings(
    batch_size=8,
    micro_batch_size=4,
    learning_rate=0.2,
    lr_scheduler="constant",
    max_grad_norm=0.0,
    arguments={"optim": "sgd"},
)


def test_a_round_on_mixed_samples_is_that_of_plain_torch_and_observes_the_others(
    tmp_path: Path,
) -> None:
    good = samples(40)
    rows = [sample | ({"image": b"x"} if k == 9 else {}) for k, sample in enumerate(good)]
    corpus = write_corpus(tmp_path / "shards", rows)
    index = write_index(tmp_path / "index.parquet", corpus)
    task = ImageClassification(image_size=8, num_channels=1, augment=Augmentation(mixup=0.5))
    batches = list(stream_of(index, corpus, task, batch_size=8, max_failed_share=0.5))
    stream = stream_of(index, corpus, task, batch_size=8, micro_batch_size=4, max_failed_share=0.5)
    seen: list[pl.DataFrame] = []
    result = fit(
        stream,
        task=task,
        models=task.models(PLAIN),
        start=None,
        out=str(tmp_path / "out"),
        settings=SGD,
        first_step=0,
        total_steps=stream.num_steps,
        seed=7,
        on_losses=lambda step, frame: seen.append(frame),
    )
    model = task.models(PLAIN).build(7).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    total = 0.0
    for batch in batches:
        log_shares = model(pixel_values=batch["pixel_values"]).logits.log_softmax(dim=1)
        own, other = (
            -log_shares.gather(1, batch[name][:, None])[:, 0] for name in ("labels", "other_labels")
        )
        losses = batch["shares"] * own + (1 - batch["shares"]) * other
        (losses.sum() / 8).backward()
        optimizer.step()
        optimizer.zero_grad()
        total += float(losses.detach().sum())
    assert result.samples_seen == 39
    assert result.train_loss == pytest.approx(total / 39, rel=1e-5)
    published = checkpoint.open(str(tmp_path / "out"))
    assert published is not None
    trained = published.load(task.models(PLAIN)).state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(trained[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    # Only the partner of the unreadable image was not mixed.
    assert sum(map(len, seen)) == 1
