"""`attent explore`: what its server answers, and whom it refuses."""

import http.client
import io
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from annotated import annotate, rows_of, write_corpus
from commands import ENVIRONMENT, ROOT, answer_here, attent
from explored import Explored, explored
from PIL import Image
from scored_runs import score, scored_run

from attent_select import schema
from catalogs import AnnotationStore, Corpus, LossCatalog, storage
from catalogs.losses import pools
from catalogs.shards import inspect_shard

SHARD_ROWS = [40, 30]
LOSSES = [[float(row) for row in range(40)], [100.0 + row for row in range(29)] + [None]]


def png(color: int) -> bytes:
    target = io.BytesIO()
    Image.new("L", (6, 4), color).save(target, "PNG")
    return target.getvalue()


def shard(shard_id: int, num_rows: int) -> pa.Table:
    return pa.table(
        {
            "image": [png(10 + row) for row in range(num_rows)],
            "text": [f"text {shard_id}/{row}" for row in range(num_rows)],
            "label": list(range(num_rows)),
            "chat": [[{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]]
            * num_rows,
        }
    )


def make_corpus(run: Path) -> None:
    """Two shards with images, texts and chats."""
    inspections = []
    for shard_id, num_rows in enumerate(SHARD_ROWS):
        path = run / "shards" / f"{shard_id:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(shard(shard_id, num_rows), path, row_group_size=10)
        stored = storage.info(str(path))
        assert stored is not None
        inspections.append((stored, "parquet", inspect_shard(str(path), "parquet")))
    Corpus.from_inspections(inspections).save(str(run))


def make_run(run: Path) -> Path:
    """Two shards; losses of rounds 0 and 1, in which row 7 of shard 0 is forgotten; an index."""
    make_corpus(run)
    earlier: list[list[float | None]] = [list(values) for values in LOSSES]
    earlier[0][7] = 1.0
    score(run, earlier)
    score(run, LOSSES, round_number=1)
    groups = pl.when(pl.col("row") < 10).then(pl.lit("few")).otherwise(pl.lit("many"))
    rows = rows_of(SHARD_ROWS, {"value": groups})
    annotate(str(run), "source", rows)
    cluster = (pl.col("row") % 20).cast(pl.Int64)
    copies = rows_of(SHARD_ROWS, {"value": cluster})
    annotate(str(run), "copies", copies)
    how = ("--strategy", "hard", "--num-samples", 20)
    answer_here("select", run, *how, "--out", f"{run}/index/00001.parquet")
    return run


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Explored]:
    with explored(make_run(tmp_path_factory.mktemp("explored") / "run")) as running:
        yield running


def test_the_state_names_what_there_is_to_explore(server: Explored) -> None:
    state = server.ask("state")
    assert (state["samples"], state["shards"], state["rounds"]) == (70, 2, [0, 1])
    columns = {column["name"]: column["kind"] for column in state["columns"]}
    assert columns["loss"] == columns["loss_round_0"] == "number"
    assert columns["source"] == "category"
    assert "cut" in state["orders"]
    assert "forgotten" in state["orders"]


def test_a_distribution_counts_every_sample_and_those_that_match(server: Explored) -> None:
    where = {"ranges": {"loss": [100, None]}, "values": {"source": ["few"]}}
    answer = server.ask("distributions", columns=["loss", "source"], filter=where)
    loss, source = answer["charts"]
    assert (answer["rows"], answer["total"], answer["is_sample"]) == (70, 70, False)
    assert answer["matching"] == sum(loss["matching"]) == 10
    assert sum(loss["all"]) == 69
    assert dict(zip(source["labels"], source["matching"], strict=True))["few"] == 10
    assert dict(zip(source["labels"], source["all"], strict=True))["many"] == 50


def test_groups_are_counted_side_by_side(server: Explored) -> None:
    answer = server.ask("distributions", columns=["loss"], by="source")
    sizes = {
        name: sum(counts)
        for name, counts in zip(answer["strata"], answer["charts"][0]["groups"], strict=True)
    }
    assert (sizes["few"], sizes["many"]) == (20, 49)
    assert answer["matching"] == 70


def test_a_condition_in_sql_filters_and_a_wrong_one_says_what_is_wrong(server: Explored) -> None:
    filtered = server.ask(
        "distributions", columns=["loss"], filter={"where": "loss < 10 AND source = 'few'"}
    )
    assert filtered["matching"] == 10
    wrong = server.ask("distributions", columns=["loss"], filter={"where": "los < 10"})
    assert "did you mean loss?" in wrong["error"]
    reads = server.ask(
        "samples", filter={"where": "loss IN (SELECT a FROM read_csv('/etc/hosts'))"}
    )
    assert "not allowed" in reads["error"]


def test_a_scatter_counts_cells(server: Explored) -> None:
    answer = server.ask("scatter", x="loss", y="loss_round_0")
    assert sum(count for *_, count in answer["cells"]) == 69
    assert answer["missing"] == 1
    assert "not a number" in server.ask("scatter", x="loss", y="source")["error"]


ORDERS: dict[str, list[tuple[int, int]]] = {
    "hardest": [(1, 28), (1, 27)],
    "easiest": [(0, 0), (0, 1)],
    "forgotten": [(0, 7), (0, 0)],
    "cut": [(1, 9), (1, 8)],
    "labels": [(1, 28), (1, 27)],
}


@pytest.mark.parametrize("order", ORDERS)
def test_samples_are_listed_in_the_order(server: Explored, order: str) -> None:
    answer = server.ask("samples", order=order, count=2)
    assert [(one["shard_id"], one["row"]) for one in answer["samples"]] == ORDERS[order]


def test_a_random_order_depends_on_its_seed_alone(server: Explored) -> None:
    first, again, other = (
        server.ask("samples", order="random", count=5, seed=seed)["samples"] for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_sample_shows_its_values_its_history_and_its_place(server: Explored) -> None:
    sample = server.ask("sample", shard_id=0, row=7)
    fields = {field["name"]: field for field in sample["fields"]}
    assert fields["image"]["kind"] == "image"
    assert fields["text"]["text"] == "text 0/7"
    assert [turn["role"] for turn in fields["chat"]["turns"]] == ["user", "assistant"]
    assert [one["loss"] for one in sample["history"]] == [1.0, 7.0]
    assert sample["history"][1]["selected"] is False
    assert sample["columns"]["source"] == "few"
    assert sample["place"]["uri"].endswith("000.parquet")
    assert sample["place"]["ranges"]


def test_an_image_is_written_anew_as_png(server: Explored) -> None:
    query = "api/image?shard_id=0&row=3&column=image&side=64"
    with urllib.request.urlopen(server.url + query) as response:
        assert response.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(response.read())).getpixel((0, 0)) == (13, 13, 13)


def test_pictures_are_shown_without_torch() -> None:
    script = (
        "import sys\n"
        "from pipeline.explorer import server\n"
        "from pipeline.explorer.sample_view import picture_of\n"
        "picture_of({'image': bytes.fromhex(sys.argv[1])}, 'image', side=8)\n"
        "assert not {'torch', 'transformers', 'dask'} & sys.modules.keys()\n"
    )
    command = [sys.executable, "-c", script, png(7).hex()]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def status_of(server: Explored, path: str, **headers: str) -> int:
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port)
    connection.request("GET", path, headers=headers)
    return connection.getresponse().status


def test_only_the_right_token_and_host_are_answered(server: Explored) -> None:
    address = urlsplit(server.url)
    assert status_of(server, address.path) == 200
    assert status_of(server, "/") == 403
    assert status_of(server, f"/{'x' * 43}/") == 403
    assert status_of(server, address.path[:-1]) == 403
    assert status_of(server, address.path, Host="evil.example:80") == 403
    assert status_of(server, address.path + "../../etc/passwd") == 404


def test_every_answer_forbids_scripts_from_elsewhere(server: Explored) -> None:
    with urllib.request.urlopen(server.url) as response:
        policy = response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy


def test_a_selection_is_tried_against_the_newest_index(server: Explored) -> None:
    answer = server.ask("what_if", strategy="hard", ratio=0.5, groups="source")
    # The index has the 20 hardest; 35 of 70 are tried, of which the hardest 29 are in shard 1.
    assert (answer["selected"], answer["kept"], answer["gained"], answer["lost"]) == (35, 20, 15, 0)
    assert answer["selected_units"] == 35
    assert answer["reads"]["bytes"] >= answer["reads"]["selected_bytes"] > 0
    groups = {group["name"]: group["selected"] for group in answer["groups"]}
    assert (groups["few"], groups["many"]) == (10, 25)
    assert answer["gained_samples"][0] == [0, 34]
    assert answer["command"].startswith("attent select /")


def test_the_command_line_of_a_selection_writes_what_was_tried(
    server: Explored, tmp_path: Path
) -> None:
    wish = {"strategy": "key", "key": "loss - 2", "where": "source = 'few'", "by": "source"}
    answer = server.ask("what_if", ratio=0.1, seed=3, **wish)
    words = shlex.split(answer["command"])
    written = answer_here(*words[1:-1], tmp_path / "index.parquet")
    assert written["selected"] == answer["selected"] == 7
    assert written["threshold"] == answer["threshold"]


def test_a_strategy_of_another_package_is_not_imported(server: Explored) -> None:
    answer = server.ask("what_if", strategy="os.system")
    assert answer["error"].startswith("strategy: expected one of")


def test_sql_is_answered_in_rows_and_only_reads(server: Explored) -> None:
    answer = server.ask("sql", sql="SELECT count(*) AS n FROM losses WHERE loss > 100")
    assert (answer["columns"], answer["rows"]) == (["n"], [[28]])
    reads = server.ask("sql", sql="SELECT * FROM read_parquet('/x')")
    assert "table functions are not allowed" in reads["error"]
    assert "SELECT" in server.ask("sql", sql="DELETE FROM losses")["error"]
    assert server.ask("sql", sql="--help")["error"]


def test_a_page_that_only_reads_marks_nothing(server: Explored) -> None:
    assert "--allow-marks" in server.ask("mark", shard_id=0, row=1, mark="exclude")["error"]
    assert "--allow-marks" in server.ask("save_marks")["error"]


def test_marks_become_an_annotation_that_a_condition_uses(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with explored(run, "--allow-marks") as server:
        server.ask("mark", shard_id=1, row=28, mark="exclude")
        server.ask("mark", shard_id=0, row=5, mark="relabel")
        server.ask("mark", shard_id=0, row=6, mark="keep")
        marks = server.ask("mark", shard_id=0, row=6, mark="")
        assert marks["marks"] == [[0, 5, "relabel"], [1, 28, "exclude"]]
        assert marks["unsaved"] == 4
        assert "expected one of" in server.ask("mark", shard_id=0, row=1, mark="x")["error"]
        saved = server.ask("save_marks")
        assert saved["unsaved"] == 0
        assert server.ask("samples", filter={"values": {"marks": ["exclude"]}})["matching"] == 1
        lines = server.ask("marks_csv")["csv"].splitlines()
        assert lines[0] == "shard_id,row,mark,uri"
        assert lines[2].startswith("1,28,exclude,")
    how = ("--strategy", "hard", "--num-samples", 1, "--where", saved["where"], "--dry-run")
    assert answer_here("select", run, *how)["threshold"] == 127.0
    with explored(run, "--allow-marks") as server:  # what was saved is there again
        assert server.ask("marks")["marks"] == [[0, 5, "relabel"], [1, 28, "exclude"]]


def test_another_annotation_of_that_name_is_not_replaced(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    annotate(str(run), "marks", rows_of(SHARD_ROWS, {"value": pl.lit("theirs")}))
    with explored(run, "--allow-marks") as server:
        assert "another annotation" in server.ask("mark", shard_id=0, row=1, mark="keep")["error"]


def test_duplicates_are_those_of_the_same_cluster(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    rows = rows_of(SHARD_ROWS, {"value": (pl.col("row") % 20).cast(pl.Int64)})
    store = AnnotationStore(str(run))
    store.publish("twins", kind="duplicates", parts=[store.write_part("twins", rows)])
    with explored(run) as server:
        (cluster,) = server.ask("duplicates", shard_id=0, row=3)["clusters"]
    assert cluster["count"] == 3
    assert {"shard_id": 0, "row": 23} in cluster["samples"]
    assert {"shard_id": 1, "row": 3} in cluster["samples"]


def test_a_run_with_pools_shows_its_candidates_as_a_sample(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_corpus(run)
    drawn = pl.DataFrame(
        {"shard_id": [0, 0, 1], "row": [3, 9, 4], "loss": [0.5, 2.5, 1.5], "num_units": 1}
    ).with_columns(status=pl.lit("ok"), measured_step=0, origin=pl.lit("scored"), visits=0)
    catalog = LossCatalog(str(run))
    catalog.write_span("drawn", drawn.select(*schema.LOSSES))
    pools.publish_pool(catalog, 0, ["drawn"], provenance={})
    annotate(str(run), "source", rows_of(SHARD_ROWS, {"value": pl.col("row").cast(pl.String)}))
    with explored(run) as server:
        assert server.ask("state")["pool_rounds"] == [0]
        answer = server.ask("distributions", columns=["loss"], filter={"where": "source = '9'"})
        assert (answer["rows"], answer["total"], answer["is_sample"]) == (3, 70, True)
        assert answer["matching"] == 1
        hardest = server.ask("samples", order="hardest")["samples"]
        assert [(one["shard_id"], one["row"]) for one in hardest] == [(0, 9), (1, 4), (0, 3)]
        assert server.ask("sample", shard_id=1, row=4)["history"] == [
            {"round": 0, "loss": 1.5, "selected": None}
        ]
        assert server.ask("what_if", ratio=0.02)["selected"] == 1


def test_a_corpus_without_losses_shows_its_samples(tmp_path: Path) -> None:
    with explored(write_corpus(tmp_path, [3, 2])) as server:
        assert server.ask("state")["columns"] == []
        assert len(server.ask("samples", order="random")["samples"]) == 5
        assert "no losses" in server.ask("samples", order="hardest")["error"]
        assert server.ask("sample", shard_id=1, row=0)["fields"][0]["text"] == "1/0"


@pytest.mark.parametrize(
    ("question", "values"),
    [
        ("distributions", {"columns": "loss"}),
        ("distributions", {"columns": ["loss"], "filter": {"ranges": {"loss": ["a", None]}}}),
        ("samples", {"order": "worst"}),
        ("samples", {"count": 10**9}),
        ("sample", {"shard_id": 99, "row": 0}),
        ("sample", {"shard_id": 0, "row": -1}),
        ("previews", {"samples": [{"row": 1}]}),
        ("distributions", {"columns": ["loss"], "by": {"a": 1}}),
        ("distributions", {"columns": ["loss"], "filter": [1]}),
        ("distributions", {"columns": ["loss"], "filter": {"values": {"loss": 3}}}),
        ("samples", {"order": "column", "column": ["loss"]}),
        ("samples", {"order": ["x"], "count": "many"}),
        ("sample", {"shard_id": 10**30, "row": 0}),
        ("what_if", {"ratio": 2}),
        ("what_if", {"where": "loss >"}),
        ("what_if", {"where": "loss > 10000"}),
        ("predict", {"shard_id": 0, "row": 0}),
    ],
)
def test_a_wrong_question_is_refused_with_a_reason(
    server: Explored, question: str, values: dict[str, Any]
) -> None:
    answer = server.ask(question, **values)
    assert answer["error"]
    assert "internal" not in answer["error"]


def test_a_missing_shard_and_a_changed_corpus_are_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with explored(run) as server:
        (run / "shards" / "000.parquet").unlink()
        (run / "shards" / "001.parquet").write_bytes(b"PAR1 damaged PAR1")
        missing = server.ask("previews", samples=[{"shard_id": 0, "row": 1}])["samples"][0]
        assert "000.parquet" in missing["reason"]
        damaged = server.ask("sample", shard_id=1, row=1)
        assert "001.parquet" in damaged["reason"]
        assert damaged["columns"]["loss"] == 101.0
        make_run(tmp_path / "other")
        manifest = Path("corpus") / "manifest.parquet"
        (run / manifest).write_bytes((tmp_path / "other" / manifest).read_bytes())
        changed = server.ask("samples", order="hardest")
        assert changed["changed"]
        assert "has changed" in changed["error"]


def test_a_large_corpus_is_sampled_by_shards_and_says_so(tmp_path: Path) -> None:
    losses = [[float(row) for row in range(700)] for _ in range(4)]
    with explored(scored_run(tmp_path / "run", losses), "--max-rows", 1000) as server:
        answer = server.ask("distributions", columns=["loss"])
        assert (answer["rows"], answer["total"], answer["is_sample"]) == (700, 2800, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_cleanly(tmp_path: Path, number: int) -> None:
    with explored(make_run(tmp_path / "run")) as server:
        assert server.ask("state")["samples"] == 70
        assert server.stop(number) == 0
        assert server.process.wait() == "", "nothing on stderr"


def test_what_is_not_a_corpus_is_refused(tmp_path: Path) -> None:
    done = attent("explore", tmp_path, "--no-open")
    assert done.returncode == 2
    assert "run `attent ingest` first" in done.stderr
