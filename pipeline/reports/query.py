"""`attent query`: SQL over a run's tables, and the tables themselves as LazyFrames.

The SQL of polars would read any file of the machine (`read_parquet('/…')`) and answer DELETE with
success. So a statement is parsed and checked, and what is executed is written from the parsed tree.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import ClassVar

import polars as pl
import sqlglot
from sqlglot import expressions as exp
from sqlglot.dialects.duckdb import DuckDB

from attent_select import schema, sql_expression
from attent_select.errors import AttentError, InputError, MissingError
from catalogs import AnnotationStore, Corpus, IndexFile, LossCatalog, storage
from catalogs.annotations.columns import AnnotationColumns
from catalogs.corpus import has_corpus
from catalogs.layout import Layout
from catalogs.losses import pools
from pipeline import metrics
from pipeline.adaptive import decision_log, quota_log
from pipeline.antk.drift_table import drift_table
from pipeline.reports.exact_sql import exact_statement

_MAX_CHARACTERS = 200_000
# Beyond it, polars takes minutes or overflows its stack.
_MAX_DEPTH = 250
# Of joins in a row without ON or USING: the parser takes twice as long for each one.
_MAX_OPEN_JOINS = 10


class SqlDialect(DuckDB):
    """The dialect of DuckDB, which keeps the text of the SQL that polars knows."""

    class Tokenizer(DuckDB.Tokenizer):
        """Its words."""

        # `row < 3` is about our column; it does not begin a type ROW<…>.
        KEYWORDS: ClassVar = {k: v for k, v in DuckDB.Tokenizer.KEYWORDS.items() if k != "ROW"}


def query(run: str, sql: str, *, limit: int | None = None) -> pl.DataFrame:
    """Return the rows of one SELECT or WITH … SELECT over a run's tables, at most `limit`.

    Tables: `losses` (the newest of every sample), `pools` (of the candidates of each round, with
    `round`), `index` (all rounds, with `round`), `corpus` (the manifest), `metrics` and `scoring`
    (a row per round), `decisions` (a row per adaptive round), `quotas` (a row per round and stratum
    of moving quotas), `antk` (a row per kernel and parameter group).

    Raises:
        InputError: it is not one SELECT, it names another table or a table function, or polars
            cannot run it.
        MissingError: there is no run, or it does not have the table yet.
    """
    statement, names = checked_select(sql, tables=TABLES)
    if not has_corpus(run):
        raise MissingError(f"{run}: no corpus there, so it is not a run: see `attent ingest`")
    tables = {name: _wide(TABLES[name](run)) for name in names}
    try:
        rows = pl.SQLContext(frames=tables).execute(_exact_text(statement, tables))
        return (rows if limit is None else rows.head(limit)).collect(engine="streaming")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the query does not run: {reason}{_others_with(reason, run)}") from error


def _others_with(reason: str, run: str) -> str:
    """Return which tables have the column that a query did not find, as the end of its error."""
    if (missing := re.match('unable to find column "([^"]+)"', reason)) is None:
        return ""
    tables = []
    for name, table in TABLES.items():
        with suppress(AttentError):
            if missing[1] in table(run).collect_schema():
                tables.append(name)
    return f". Tables with this column: {', '.join(tables)}" if tables else ""


def _wide(table: pl.LazyFrame) -> pl.LazyFrame:
    return table.select(sql_expression.wide_columns(table.collect_schema()))


def _exact_text(statement: exp.Expression, tables: Mapping[str, pl.LazyFrame]) -> str:
    """Return the statement to execute, in which no integer wraps."""
    schemas = {name: table.collect_schema() for name, table in tables.items()}
    try:
        return text_of(exact_statement(statement, schemas, dialect=SqlDialect))
    except RecursionError as error:
        raise _too_deep() from error


def text_of(statement: exp.Expression) -> str:
    """Return the text of a statement, without comments."""
    return statement.sql(dialect=SqlDialect, comments=False)


def checked_select(sql: str, *, tables: Collection[str]) -> tuple[exp.Expression, set[str]]:
    """Return the parsed statement, and the names of the `tables` that it reads.

    Raises:
        InputError: it is not one SELECT over these tables, or is too long or nested too deeply.
    """
    if len(sql) > _MAX_CHARACTERS:
        raise InputError(f"the query has {len(sql)} characters, the limit is {_MAX_CHARACTERS}")
    try:
        return _checked_select(sql, known=set(tables))
    except RecursionError as error:
        raise _too_deep() from error


def _too_deep() -> InputError:
    return InputError("the query is nested too deeply: write it with fewer operators")


def _checked_select(sql: str, *, known: set[str]) -> tuple[exp.Expression, set[str]]:
    try:
        statements = _parse(sql)
    except sqlglot.errors.SqlglotError as error:
        raise InputError(f"the query does not parse: {str(error).splitlines()[0]}") from error
    if len(statements) != 1 or not isinstance(statements[0], exp.Select | exp.SetOperation):
        raise InputError("a query is one SELECT or WITH statement")
    statement = statements[0]
    if statement.find(exp.Into, exp.DML, exp.DDL, exp.Command):
        raise InputError("a query only reads: expected SELECT without INTO or other statements")
    if _depth(statement) > _MAX_DEPTH:
        raise RecursionError
    _refuse_functions(statement)
    named = {cte.alias_or_name for cte in statement.find_all(exp.CTE)}
    used = set()
    for table in statement.find_all(exp.Table):
        if table.name not in named:
            used.add(_known_name(table, known))
    return statement, used


def _parse(sql: str) -> list[exp.Expr | None]:
    dialect = SqlDialect()
    tokens = dialect.tokenize(sql)
    _check_joins(tokens)
    return dialect.parser(error_level=sqlglot.ErrorLevel.IMMEDIATE).parse(tokens, sql)


def _check_joins(tokens: Sequence[sqlglot.Token]) -> None:
    num_open = 0
    for token in tokens:
        if token.token_type in (sqlglot.TokenType.ON, sqlglot.TokenType.USING):
            num_open = 0
        elif token.token_type == sqlglot.TokenType.JOIN:
            num_open += 1
        if num_open > _MAX_OPEN_JOINS:
            raise InputError(
                f"the query has more than {_MAX_OPEN_JOINS} joins in a row without ON or USING: "
                "write the condition after each one"
            )


def _depth(statement: exp.Expression) -> int:
    """Return the number of levels of a parsed statement; `a + b + c` has one for each operator."""
    depth, level = 0, [statement]
    while level:
        level = [child for node in level for child in node.iter_expressions()]
        depth += 1
    return depth


def _refuse_functions(statement: exp.Expression) -> None:
    """Refuse functions that could return a table: as a table, LATERAL, or `read_…` and `scan_…`."""
    for node in statement.find_all(exp.Table, exp.Lateral, exp.Func):
        if isinstance(node, exp.Table):
            allowed = isinstance(node.this, exp.Identifier) and not node.args.get("db")
        elif isinstance(node, exp.Func):
            name = node.name if isinstance(node, exp.Anonymous) else node.sql_name()
            allowed = not name.lower().startswith(("read_", "scan_"))
        else:
            allowed = False
        if not allowed:
            raise InputError(f"{node.sql(dialect=SqlDialect)}: table functions are not allowed")


def _known_name(table: exp.Table, known: set[str]) -> str:
    """Return the name of the table in lower case, and rename `table` to it."""
    written, name = table.name, table.name.lower()
    if name not in known:
        raise InputError(f"no table {written!r}: expected {', '.join(sorted(known))}")
    if written != name:
        table.set("this", exp.to_identifier(name))
        if not table.alias:  # `LOSSES.row` stays valid
            table.set("alias", exp.TableAlias(this=exp.to_identifier(written)))
    return name


def _samples(run: str) -> pl.LazyFrame:
    """Return every sample of the corpus with the columns of its annotations, in order."""
    columns = AnnotationColumns.of(run)
    return columns.join(None).frame() if columns.annotations else Corpus.open(run).rows()


def _annotations(run: str) -> pl.LazyFrame:
    """Return one row per annotation."""
    store = AnnotationStore(run)
    kinds = ("name", "kind", "value_type", "num_rows", "coverage", "units", "digest")
    rows = [[getattr(record, key) for key in kinds] for record in store.records()]
    types = (pl.String, pl.String, pl.String, pl.Int64, pl.Float64, pl.Int64, pl.String)
    return pl.LazyFrame(rows, schema=dict(zip(kinds, types, strict=True)), orient="row")


def losses(run: str) -> pl.LazyFrame:
    """Return the newest loss of every sample, with the carried columns and annotations.

    Of a run with pools: of every candidate, without annotations.
    """
    catalog, columns = LossCatalog(run), AnnotationColumns.of(run)
    if not catalog.rounds() and pools.pool_rounds(run):
        newest = _pools(run).unique(["shard_id", "row"], keep="last").drop("round")
        return newest.sort("shard_id", "row")
    scan = catalog.scan()
    return columns.join(scan).frame() if columns.annotations else scan.frame()


def _pools(run: str) -> pl.LazyFrame:
    """Return the losses of the candidates of each round: `round` u32, then `schema.LOSSES`."""
    catalog = LossCatalog(run)
    drawn = [
        pools.pool_losses(catalog, number)
        .frame()
        .select(pl.lit(number, dtype=pl.UInt32).alias("round"), *schema.LOSSES)
        for number in pools.pool_rounds(run)
    ]
    empty = pl.LazyFrame(schema={"round": pl.UInt32, **schema.LOSSES})
    return pl.concat([empty, *drawn])


def index(run: str, *, rounds: Sequence[int] | None = None) -> pl.LazyFrame:
    """Return the index rows of `rounds` (default: all): `round` u32, `schema.INDEX`, `origin` u8.

    `origin` is 0 for rows selected by key and 1 for rows drawn uniformly; null if all rows of a
    round are of one origin.
    """
    kinds = schema.INDEX | schema.INDEX_ORIGIN
    indexes = [
        IndexFile.open(Layout(run).index(number))
        .frame_with_origin()
        .select(pl.lit(number, dtype=pl.UInt32).alias("round"), *kinds)
        for number in (selected_rounds(run) if rounds is None else rounds)
    ]
    empty = pl.LazyFrame(schema={"round": pl.UInt32, **kinds})
    return pl.concat([empty, *indexes])


def selected_rounds(run: str) -> list[int]:
    """Return the rounds that have an index, ascending.

    Raises:
        InputError: another file is among the indexes.
    """
    urls = [file.url for file in storage.list_objects(Layout(run).indexes)]
    names = [url.rpartition("/")[2].removesuffix(".parquet") for url in urls]
    for url, name in zip(urls, names, strict=True):
        if not name.isdecimal():
            raise InputError(f"{url} is not an index: expected only <round>.parquet; remove it")
    return sorted(map(int, names))


def corpus(run: str) -> pl.LazyFrame:
    """Return the manifest, `schema.MANIFEST`."""
    return Corpus.open(run).manifest().lazy()


def _metrics(run: str) -> pl.LazyFrame:
    """Return a row per finished round; see `metrics.table`."""
    return metrics.table(run).lazy()


def _scoring(run: str) -> pl.LazyFrame:
    """Return a row per scored round; see `metrics.scoring_table`."""
    return metrics.scoring_table(run).lazy()


def _decisions(run: str) -> pl.LazyFrame:
    """Return a row per adaptive round; see `decision_log.table`."""
    return decision_log.table(run).lazy()


def _quotas(run: str) -> pl.LazyFrame:
    """Return a row per round and stratum of moving quotas; see `quota_log.table`."""
    return quota_log.table(run).lazy()


def _antk(run: str) -> pl.LazyFrame:
    """Return a row per kernel and parameter group; see `drift_table`."""
    return drift_table(run).lazy()


TABLES: dict[str, Callable[[str], pl.LazyFrame]] = {
    "losses": losses,
    "pools": _pools,
    "index": index,
    "corpus": corpus,
    "samples": _samples,
    "annotations": _annotations,
    "metrics": _metrics,
    "scoring": _scoring,
    "decisions": _decisions,
    "quotas": _quotas,
    "antk": _antk,
}
