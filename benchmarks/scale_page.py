"""The tables of docs/scale.md and its picture, made from the model of growth.

Replaces what stands between `<!-- NAME -->` and `<!-- end -->` in the page, and writes
benchmarks/results/scale.png. Measures nothing: `scale.py` does.

    python benchmarks/scale_page.py
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path

from pipeline.doctor import scale_constants as per
from pipeline.doctor.prices import Prices
from pipeline.doctor.scale import (
    annotate_cost,
    ingest_cost,
    score_cost,
    select_cost,
    train_cost,
)
from pipeline.doctor.scale_limits import limits
from pipeline.doctor.stage_cost import CorpusSize, Machines, StageCost

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "scale.md"
RESULTS = ROOT / "benchmarks" / "results"
PRICES = Prices()
# Texts of 2 kB; a tenth is selected; a core scores 400 a second and trains on a third.
SAMPLE_BYTES, SHARE = 2000, 10
SIZES = [(10**3, 10**6), (10**4, 10**8), (10**5, 10**9), (10**5, 10**10), (10**6, 10**11)]
WORKERS = (1, 100, 10_000)
# Samples in the picture, as powers of ten.
POWERS = range(6, 12)
# A budget of a million samples in 20 rounds, each from three times as many candidates.
BUDGET, ROUNDS, MULTIPLE = 10**6, 20, 3
# Shards and rows up to which the constants were measured.
MEASURED_SHARDS, MEASURED_ROWS = 10**5, 10**9


def stages(num_shards: int, num_samples: int) -> list[StageCost]:
    """Return each stage once, all losses measured."""
    corpus, machines = CorpusSize(num_shards, num_samples, SAMPLE_BYTES), Machines()
    selected = num_samples // SHARE
    return [
        ingest_cost(corpus),
        annotate_cost(corpus, machines),
        score_cost(corpus, machines),
        select_cost(corpus, rows=num_samples, selected=selected),
        train_cost(corpus, machines, selected=selected),
    ]


def pool_stages(num_shards: int, num_samples: int) -> list[StageCost]:
    """Return the stages of all rounds of a run with a pool, on an ingested corpus."""
    corpus, machines = CorpusSize(num_shards, num_samples, SAMPLE_BYTES), Machines()
    selected = BUDGET // ROUNDS
    drawn = MULTIPLE * selected
    part = corpus.part_of_draw(drawn, block_rows=256)
    round_ = [
        score_cost(corpus, machines, scored=drawn, read_bytes=part.num_bytes),
        select_cost(corpus, rows=drawn, selected=selected),
        train_cost(part, machines, selected=selected),
    ]
    return ROUNDS * round_


def requests_table() -> Iterator[str]:
    yield from _head("shards", "samples", *(f"{one.name}" for one in stages(1, 1)), "together, $")
    for size in SIZES:
        costs = stages(*size)
        cells = (f"{_count(one.requests.reads)} + {_count(one.requests.writes)}" for one in costs)
        dollars = sum(one.dollars(1, _only_requests()) for one in costs)
        yield _row(*map(_power, size), *cells, f"{dollars:,.2f}{_mark(size)}")


def seconds_table() -> Iterator[str]:
    names = [one.name for one in stages(1, 1)]
    yield from _head("shards", "samples", "workers", *names, "together, $")
    for size in SIZES:
        for workers in WORKERS:
            costs = stages(*size)
            times = [_time(one.seconds(_num_workers(one, workers), PRICES)) for one in costs]
            dollars = sum(one.dollars(_num_workers(one, workers), PRICES) for one in costs)
            yield _row(*map(_power, size), f"{workers:,}", *times, f"{dollars:,.2f}{_mark(size)}")


def memory_table() -> Iterator[str]:
    yield from _head(
        *("shards", "samples", "driver, ingest", "driver, score", "a worker", "select"),
        *("a rank", "catalog", "index"),
    )
    for size in SIZES:
        ingest, _, score, select, train = stages(*size)
        memory = (ingest, score)
        cells = [_bytes(one.driver_bytes) for one in memory] + [_bytes(score.worker_bytes)]
        cells += [_bytes(select.driver_bytes), _bytes(train.driver_bytes)]
        at_rest = (size[1] * per.PART_ROW_BYTES, select.written_bytes)
        cells += list(map(_bytes, at_rest))
        yield _row(*map(_power, size), *cells[:-1], cells[-1] + _mark(size))


def pools_table() -> Iterator[str]:
    yield from _head("shards", "samples", "reads", "writes", "read", "driver", "core hours", "$")
    for size in SIZES:
        costs = pool_stages(*size)
        reads, writes = (sum(getattr(one.requests, kind) for one in costs) for kind in KINDS)
        seconds = sum(one.seconds(1, PRICES) for one in costs)
        yield _row(
            *map(_power, size),
            _count(reads),
            _count(writes),
            _bytes(sum(one.read_bytes for one in costs)),
            _bytes(max(one.driver_bytes for one in costs if one.name == "score")),
            f"{seconds / 3600:,.1f}",
            f"{sum(one.dollars(1, PRICES) for one in costs):,.2f}{_mark(size)}",
        )


KINDS = ("reads", "writes")


def limits_table() -> Iterator[str]:
    yield from _head("limit", "grows with", "each", "bound", "reached at", "what would change it")
    for one in limits(PRICES):
        most = f"{_round(one.most):,}"
        yield _row(one.name, one.unit, one.each, one.bound, most, one.change)


def prices_table() -> Iterator[str]:
    yield from _head("name", "default", "of")
    described = dict(re.findall(r"^        (\w+): (.*)\.$", Prices.__doc__ or "", re.MULTILINE))
    for field in fields(Prices):
        yield _row(f"`{field.name}`", f"{getattr(PRICES, field.name):g}", described[field.name])


def checks_table() -> Iterator[str]:
    """Compare the model with results that it was not made from, or only in part."""
    yield from _head("what", "measured", "computed", "file")
    pools, selection, limit, scoring = (
        json.loads((RESULTS / f"{name}.json").read_text())
        for name in ("pools", "selection_1e9", "selection_limits", "scoring_spans")
    )
    shards = 10**5
    opened = pools["results"][-1]["open_seconds"]
    computed = shards * per.MANIFEST_SHARD_SECONDS
    yield _row(
        "open a manifest of 10^5 shards, processor s", opened, f"{computed:.2f}", "pools.json"
    )
    soft = next(one for one in selection["results"] if one["method"] == "ours: soft")
    cost = select_cost(CorpusSize(2000, 10**9, SAMPLE_BYTES), rows=10**9, selected=1)
    yield _row(
        "select from 10^9 rows by soft, s",
        soft["seconds"],
        f"{cost.seconds(1, PRICES):.1f}",
        "selection_1e9.json",
    )
    soft = next(one for one in limit["results"] if one["method"] == "own soft")
    cost = select_cost(CorpusSize(200, 10**8, SAMPLE_BYTES), rows=10**8, selected=1)
    yield _row(
        "select from 10^8 rows by soft, processor s",
        soft["seconds"],
        f"{cost.seconds(1, PRICES):.1f}",
        "selection_limits.json",
    )
    window = scoring["spans"]["window"]
    driver = per.DRIVER_BYTES + window["num_spans"] * per.SPAN_BYTES
    yield _row(
        "driver after 10^5 spans, without their plan, MiB",
        f"{window['driver_rss_mib']:.0f}",
        f"at most {driver / per.MIB:.0f}",
        "scoring_spans.json",
    )


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "requests": requests_table,
    "seconds": seconds_table,
    "memory": memory_table,
    "pools": pools_table,
    "limits": limits_table,
    "prices": prices_table,
    "checks": checks_table,
}


def with_tables(page: str) -> str:
    """Return the page with all tables made again."""
    for name, table in TABLES.items():
        block = "\n\n".join((f"<!-- {name} -->", "\n".join(table()), "<!-- end -->"))
        pattern = re.compile(rf"<!-- {name} -->.*?<!-- end -->", re.DOTALL)
        page, count = pattern.subn(lambda _, block=block: block, page)
        assert count == 1, name
    return page


def draw(path: Path) -> None:
    """Draw dollars against samples: all losses measured, and a pool."""
    import altair as alt
    import polars as pl

    rows = []
    for num_samples in (10**power for power in POWERS):
        size = (max(10**3, num_samples // 10**5), num_samples)
        for stage in (one.name for one in stages(1, 1)):
            cost = next(one for one in stages(*size) if one.name == stage)
            rows.append((num_samples, stage, cost.dollars(1, PRICES)))
        pool = sum(one.dollars(1, PRICES) for one in pool_stages(*size))
        rows.append((num_samples, "a run with a pool", pool))
    table = pl.DataFrame(rows, schema=["samples", "stage", "dollars"], orient="row")
    chart = alt.Chart(table).mark_line(point=True)
    log = alt.Scale(type="log")
    chart.encode(
        x=alt.X(
            "samples:Q",
            scale=log,
            axis=alt.Axis(format="~e", values=[10**power for power in POWERS]),
        ),
        y=alt.Y("dollars:Q", scale=log, title="US dollars, computed"),
        color=alt.Color("stage:N", sort=None, title=None),
    ).properties(width=480, height=300, title="Cost of each stage").save(path, scale_factor=2)


def _num_workers(cost: StageCost, workers: int) -> int:
    """Return the workers that have a task; selection has none."""
    return max(1, min(workers, cost.tasks or (1 if cost.name == "select" else workers)))


def _only_requests() -> Prices:
    return Prices(worker_hour=0.0)


def _head(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield _row(*("---" for _ in names))


def _row(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _mark(size: Sequence[int]) -> str:
    """Mark sizes beyond what was measured."""
    is_measured = size[0] <= MEASURED_SHARDS and size[1] <= MEASURED_ROWS
    return "" if is_measured else " *"


def _power(number: int) -> str:
    return f"10^{len(str(number)) - 1}"


def _round(number: float) -> int:
    """Return two digits of a number."""
    digits = max(0, len(str(int(number))) - 2)
    return round(number / 10**digits) * 10**digits


def _count(number: float) -> str:
    return _format(number, 1000, ("", " k", " M", " G"))


def _bytes(number: float) -> str:
    return _format(number, 1024, (" B", " KiB", " MiB", " GiB", " TiB"))


def _format(number: float, step: int, units: Iterable[str]) -> str:
    unit = ""
    for unit in units:  # noqa: B007 - the last one is used
        if number < step:
            break
        number /= step
    return f"{number:,.0f}{unit}" if number >= 10 or not unit else f"{number:.1f}{unit}"


def _time(seconds: float) -> str:
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / size:,.0f} {unit}"
    days = seconds / 86400
    return f"{days:,.0f} d" if days < 730 else f"{days / 365:,.0f} y"


def main() -> None:
    """Write the tables and the picture."""
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    draw(RESULTS / "scale.png")


if __name__ == "__main__":
    main()
