"""Throughput of streaming a selected subset, and the bytes it reads, against other methods.

Every method streams the same samples of the same corpus, decodes them in the same way and delivers
batches of the same size, in a subprocess on one processor, in alternation. S3 is rclone on loopback
behind a proxy that adds latency and counts requests (`peers/slow_s3.py`), on another processor.
Writes JSON, a table and plots to benchmarks/results/.

    python benchmarks/peers/build.py /path/to/peers       # once: an environment for each peer
    python benchmarks/streaming.py --images fashion_mnist_train.parquet --text eltec.parquet
        --peers /path/to/peers

Without a corpus it uses scikit-learn's digits; without `--peers` it measures only attent-select.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl

HERE = Path(__file__).parent
RESULTS = HERE / "results"
sys.path.insert(0, str(HERE / "peers"))

from corpora import (  # noqa: E402
    METHODS,
    OFFLINE,
    OURS,
    Cell,
    Prepared,
    ingest,
    prepare,
    prepare_peers,
    python_of,
)
from measure import Request  # noqa: E402
from slow_s3 import SlowS3, slow_s3  # noqa: E402

BATCH_SIZE = 256
CELL = ("kind", "place", "share", "layout")


def cells(kinds: Sequence[str], *, quick: bool) -> list[Cell]:
    """All shares on disk and on S3 at 20 ms for images; a selection of the other combinations."""
    every = [(share, layout) for share in (0.01, 0.1, 0.3) for layout in ("scattered", "aligned")]
    few = [(0.1, "scattered"), (1.0, "scattered")]
    selected = []
    for kind in kinds:
        for latency in (None, 20, 0, 100):
            is_full = not quick and kind != "text" and latency in (None, 20)
            shares = [*every, few[1]] if is_full else few
            if latency in (None, 20) or not (quick or kind == "text"):
                selected += [Cell(kind, latency, share, layout) for share, layout in shares]
    return selected


def measure(
    method: str, cell: Cell, corpus: Prepared, *, server: SlowS3, options: argparse.Namespace
) -> dict[str, Any]:
    """Measure one method in a subprocess with empty caches."""
    environment, _ = METHODS[method]
    with tempfile.TemporaryDirectory(dir=options.folder) as work:
        request = Request(
            method=method,
            module="ours" if environment is None else "others",
            kind=cell.kind,
            url=corpus.url(cell),
            index=corpus.index(cell),
            shard_samples=corpus.shard_samples,
            batch_size=BATCH_SIZE,
            seconds=options.seconds,
            cache=f"{work}/cache",
            cpus=[options.cpus[0]],
        )
        path = Path(work, "request.json")
        path.write_text(json.dumps(asdict(request)))
        server.latency_seconds = (cell.latency_ms or 0) / 1000
        server.reset()
        try:
            done = subprocess.run(
                [python_of(environment, options), str(HERE / "peers/measure.py"), str(path)],
                env=os.environ | OFFLINE | server.environment | {"TMPDIR": work, "HF_HOME": work},
                capture_output=True,
                text=True,
                check=False,
                timeout=options.seconds + 60,
            )
        except subprocess.TimeoutExpired:
            return {"problem": f"no end after {options.seconds + 60:.0f} s"}
    if done.returncode:
        return {"problem": (done.stderr.strip().splitlines() or ["no message"])[-1][:300]}
    result = dict(json.loads(done.stdout.splitlines()[-1]))
    if cell.latency_ms is not None:
        result |= {"bytes_read": server.bytes_sent, "num_requests": server.num_requests}
    return result


def compare(
    cell: Cell, corpus: Prepared, *, server: SlowS3, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Run all methods in alternation, so that variations of speed affect all of them."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in options.methods}
    for _ in range(options.repeats):
        for name in options.methods:
            result = measure(name, cell, corpus, server=server, options=options)
            runs[name].append(result)
            rate = (
                result.get("problem") or f"{result['samples'] / result['seconds']:9.0f} samples/s"
            )
            print(f"  {cell.kind} {cell.place:10} {cell.share:4} {cell.layout:9} {name:18} {rate}",
                  file=sys.stderr)  # fmt: skip
    place = {name: getattr(cell, name) for name in CELL}
    place |= {"corpus_samples": corpus.num_samples, "load_average": os.getloadavg()[0]}
    return [place | {"method": name} | summary(each, corpus) for name, each in runs.items()]


def summary(runs: list[dict[str, Any]], corpus: Prepared) -> dict[str, Any]:
    """Medians over the turns of a method."""
    if problems := [run["problem"] for run in runs if "problem" in run]:
        return {"problem": problems[0]}
    rates = [run["samples"] / run["seconds"] for run in runs]
    last = runs[-1]
    read = last.get("bytes_read")
    return {
        "samples_per_second": round(median(rates), 1),
        "all": [round(rate) for rate in rates],
        # Depends little on other load.
        "cpu_ms_per_sample": round(
            1e3 * median(run["cpu_seconds"] / run["samples"] for run in runs), 4
        ),
        "samples": last["samples"],
        "is_complete": last["is_complete"],
        "digest": last["digest"],
        "first_batch_seconds": round(median(run["first_batch_seconds"] for run in runs), 3),
        # On disk: bytes returned by `read`; bytes of memory-mapped files are unknown.
        "bytes_read": last["file_bytes"] if read is None else read,
        "num_requests": last.get("num_requests", last["file_reads"]),
        "read_per_payload": round(
            (last["file_bytes"] if read is None else read)
            / (last["samples"] * corpus.payload_bytes), 2),
        "read_amplification": last.get("read_amplification"),
        "peak_rss_mib": round(max(run["rss_bytes"] for run in runs) / 2**20),
        "imports_rss_mib": round(max(run["rss_before_bytes"] for run in runs) / 2**20),
    }  # fmt: skip


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in (*CELL, "corpus_samples", "method"))


def check_same(results: list[dict[str, Any]]) -> None:
    """Check that all methods that finished a cell delivered the same samples."""
    digests_of: dict[tuple[Any, ...], set[int]] = {}
    for row in results:
        if row.get("is_complete", False):
            digests_of.setdefault(_key(row)[:-1], set()).add(row["digest"])
    if differing := [cell for cell, digests in digests_of.items() if len(digests) > 1]:
        raise SystemExit(f"the methods did not hand out the same samples in {differing}")


def ratios(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Throughput relative to the fastest peer, cell by cell."""
    frame = pl.DataFrame(results, infer_schema_length=None)
    if "samples_per_second" not in frame.columns:
        return []
    rated = frame.drop_nulls("samples_per_second").sort("samples_per_second", descending=True)
    peers = (
        rated.filter(~pl.col("method").is_in(OURS))
        .group_by(*CELL, "corpus_samples", maintain_order=True)
        .first()
    )
    ours = rated.filter(pl.col("method") == "ours")
    both = ours.join(peers, on=[*CELL, "corpus_samples"], suffix="_peer")
    return both.select(
        *CELL,
        fastest_peer="method_peer",
        ours="samples_per_second",
        peer="samples_per_second_peer",
        ratio=(pl.col("samples_per_second") / pl.col("samples_per_second_peer")).round(2),
    ).to_dicts()


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Plot samples/s by cell to `path`.png, and the costs of the 10 % cells to `path`-costs.png."""
    import altair as alt

    frame = pl.DataFrame(results, infer_schema_length=None).drop_nulls("samples_per_second")
    share = (100 * pl.col("share")).round(0).cast(pl.Int64)
    frame = frame.with_columns(cell=pl.format("{}, {}: {} % {}", "kind", "place", share, "layout"))
    method = alt.Y("method:N", sort=list(METHODS), title=None)
    colour = alt.Color("method:N", sort=list(METHODS), legend=None)

    def bars(rows: pl.DataFrame, column: str, title: str, scale: str = "linear") -> Any:
        chart = alt.Chart(rows).mark_bar()
        value = alt.X(f"{column}:Q", title=None, scale=alt.Scale(type=scale))
        cells = alt.Facet("cell:N", title=None, sort=None)
        chart = chart.encode(x=value, y=method, color=colour).properties(width=190, height=120)
        faceted = chart.facet(facet=cells, columns=4)
        return faceted.resolve_scale(x="independent").properties(title=title)

    bars(frame, "samples_per_second", "samples/s").save(path.with_suffix(".png"), scale_factor=1)
    tenth = frame.filter(pl.col("share") == 0.1)
    remote = tenth.filter(pl.col("place") != "local")
    alt.vconcat(
        bars(tenth, "first_batch_seconds", "seconds to the first batch"),
        bars(tenth, "peak_rss_mib", "peak memory, MiB"),
        bars(remote, "read_per_payload", "bytes read for each byte handed out", "symlog"),
        bars(remote, "num_requests", "requests", "symlog"),
    ).save(path.with_name(f"{path.name}-costs.png"), scale_factor=1)


def versions(options: argparse.Namespace) -> dict[str, str]:
    """Package versions of each environment, or why it is missing."""
    versions_of = {}
    for environment in {name for name, _ in METHODS.values() if name is not None}:
        python = Path(f"{options.peers}/{environment}/bin/python")
        failed = Path(f"{options.peers}/{environment}.failed")
        if failed.exists() or not python.exists():
            reason = failed.read_text() if failed.exists() else "was not built"
            versions_of[environment] = f"not installed: {reason}"
            continue
        pinned = (HERE / f"peers/{environment}.txt").read_text().splitlines()
        versions_of[environment] = ", ".join(line for line in pinned if not line.startswith("#"))
    return versions_of


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=Path, help="Parquet with image (PNG) and label")
    parser.add_argument("--text", type=Path, help="Parquet with text")
    parser.add_argument("--document-bytes", type=int, default=0, help="texts are joined to these")
    parser.add_argument("--samples", type=lambda text: int(float(text)), default=20_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "attent-bench"))
    parser.add_argument("--peers", type=Path, help="what peers/build.py made")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement, at most")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", default="", help="methods that begin with one of these, a;b;…")
    parser.add_argument("--cells", default="", help="those whose description has all these words")
    parser.add_argument("--quick", action="store_true", help="10 % scattered and all, two places")
    parser.add_argument("--cpus", default="0,1", help="of the methods, and of the server")
    parser.add_argument("--name", default="streaming", help="of the result files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--add", action="store_true", help="to what the result file has already")
    options = parser.parse_args()
    options.cpus = [int(cpu) % (os.cpu_count() or 1) for cpu in options.cpus.split(",")]
    options.folder = options.folder / f"streaming-{options.samples}-{options.document_bytes}"
    options.folder.mkdir(parents=True, exist_ok=True)
    return options


def measure_cells(options: argparse.Namespace) -> list[dict[str, Any]]:
    sources = {"images": options.images, "text": options.text}
    kinds = [kind for kind, path in sources.items() if path is not None] or ["images"]
    corpora = {kind: prepare(kind, sources[kind], options) for kind in kinds}
    results: list[dict[str, Any]] = []
    with slow_s3(options.folder, cpus=options.cpus[1:]) as server:
        os.environ.update(server.environment)
        for kind, corpus in corpora.items():
            prepare_peers(corpus, options)
            for url in (str(options.folder / kind), f"s3://{kind}"):
                ingest(url)
        for cell in cells(kinds, quick=options.quick):
            description = (
                f"{cell.kind} {cell.place.replace(',', '')} {cell.share:.0%} {cell.layout}"
            )
            if set(options.cells.split()) <= set(description.split()):
                results += compare(cell, corpora[cell.kind], server=server, options=options)
    return results


def main() -> None:
    options = arguments()
    peers = versions(options)
    tried = [name for name in METHODS if name.startswith(tuple(options.only.split(";")))]
    options.methods = [
        name
        for name in tried
        if (environment := METHODS[name][0]) is None
        or not peers[environment].startswith("not installed")
    ]
    if not (results := measure_cells(options)):
        raise SystemExit(f"no cell is described by {options.cells!r}")
    options.results.mkdir(parents=True, exist_ok=True)
    file = options.results / f"{options.name}.json"
    if options.add and file.exists():
        before = json.loads(file.read_text())["results"]
        results = list({_key(row): row for row in before + results}.values())
    check_same(results)
    machine = {"cpus": os.cpu_count(), "processor": platform.machine(), "peers": peers}
    report = {"machine": machine, "ratios": ratios(results), "results": results}
    file.write_text(json.dumps(report, indent=1) + "\n")
    plot(results, options.results / options.name)
    with pl.Config(tbl_rows=-1, tbl_cols=-1, fmt_str_lengths=40):
        print(pl.DataFrame(results, infer_schema_length=None).drop("all", "digest", strict=False))
        print(pl.DataFrame(report["ratios"]))


if __name__ == "__main__":
    main()
