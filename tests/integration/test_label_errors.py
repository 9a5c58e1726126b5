"""Suspected label errors in `attent explore`: candidates from all losses, labels by the model."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from explored import Explored, explored
from mislabelled import NUM_SAMPLES, SHARD_ROWS, WRONG, mislabelled_run
from scored_runs import score, scored_run

from pipeline.explorer import sample_lists
from pipeline.explorer.filters import Filter
from pipeline.explorer.sample_lists import list_candidates
from pipeline.explorer.source import Source

WRONG_IDS = {divmod(number, SHARD_ROWS) for number in WRONG}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explored]:
    with explored(mislabelled_run(tmp_path_factory.mktemp("explored") / "run")) as running:
        yield running


def candidates(server: Explored, count: int = 30) -> list[list[Any]]:
    answer = server.ask("candidates", count=count)
    assert (answer["next_shard"], answer["rows"]) == (None, NUM_SAMPLES)
    return list(answer["samples"])


def check(server: Explored, rows: list[list[Any]]) -> list[dict[str, Any]]:
    ids = [{"shard_id": shard_id, "row": row} for shard_id, row, _ in rows]
    answer = server.ask("check", samples=ids)
    assert [(one["shard_id"], one["row"]) for one in answer["samples"]] == [
        (shard_id, row) for shard_id, row, _ in rows
    ]
    return list(answer["samples"])


def test_wrong_labels_are_suspected_with_the_right_ones(server: Explored) -> None:
    checks = check(server, candidates(server))
    suspects = [one for one in checks if one["other_share"] >= 0.8]
    right = [one for one in suspects if (one["shard_id"], one["row"]) in WRONG_IDS]
    assert len(right) >= 0.8 * len(WRONG_IDS)
    assert len(right) >= 0.8 * len(suspects)
    assert all((int(one["other"]) + 1) % 10 == int(one["label"]) for one in right)
    assert all(one["label_share"] + one["other_share"] <= 1.001 for one in checks)


def test_a_right_label_keeps_its_share_beside_the_most_probable_other_class(
    server: Explored,
) -> None:
    (one,) = check(server, [[0, 1, None]])
    (name, share), *_ = server.ask("predict", shard_id=0, row=1)["classes"]
    assert (one["label"], pytest.approx(one["label_share"], abs=1e-5)) == (name, share)
    assert one["other"] != name


def test_a_sample_that_cannot_be_read_has_a_reason_and_the_others_a_check(tmp_path: Path) -> None:
    run = mislabelled_run(tmp_path / "run")
    (run / "shards" / "001.parquet").unlink()
    with explored(run) as server:
        missing, present = check(server, [[1, 0, None], [0, 0, None]])
    assert "001.parquet" in missing["reason"]
    assert present["reason"] == ""
    assert present["label"]


def test_candidates_come_from_all_rows_whatever_a_query_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[list[float | None]] = [[float(7 * n % 50) for n in range(50)] for _ in range(5)]
    losses[3][9] = None
    run = scored_run(tmp_path / "run", losses)
    source = Source.open(run, max_rows=60)
    monkeypatch.setattr(sample_lists, "_CANDIDATE_ROWS", 100)
    where = Filter.parse({"where": "loss >= 5"})
    rows, samples, first_shard, answers = 0, [], 0, 0
    while first_shard is not None:
        answer = list_candidates(source, where=where, count=7, first_shard=first_shard)
        rows, answers = rows + answer["rows"], answers + 1
        samples += answer["samples"]
        first_shard = answer["next_shard"]
    assert (rows, answers) == (250, 3)
    expected = sorted(
        ((shard_id, row, loss) for shard_id, each in enumerate(losses)
         for row, loss in enumerate(each) if loss is not None and loss >= 5),
        key=lambda one: (-one[2], *one[:2]),
    )  # fmt: skip
    assert sorted(samples, key=lambda one: (-one[2], *one[:2]))[:7] == expected[:7]


def test_a_sample_that_was_learned_in_one_round_is_not_a_candidate(tmp_path: Path) -> None:
    run = Path(scored_run(tmp_path / "run", [[5.0, 9.0, 1.0]]))
    score(run, [[6.0, 0.1, None]], round_number=1)
    answer = list_candidates(Source.open(str(run)), where=Filter(), count=2)
    assert answer["samples"] == [(0, 0, 5.0), (0, 2, 1.0)]
    assert answer["rounds"] == [2, 2]
    assert (answer["matching"], answer["ranked"]) == (3, 3)


def test_a_run_without_a_checkpoint_and_wrong_questions_are_refused(tmp_path: Path) -> None:
    with explored(scored_run(tmp_path / "run", [[1.0, 2.0]])) as server:
        assert server.ask("check", samples=[{"shard_id": 0, "row": 0}])["error"]
        assert "1 to 10000" in server.ask("candidates", count=0)["error"]
        assert "at most 64" in server.ask("check", samples=[{}] * 65)["error"]
        assert server.ask("candidates", first_shard=99)["samples"] == []
