"""SQL statements whose integers do not wrap: casts are added to a parsed statement.

The rules are those of `attent_select.exact_integers`. polars says which operands are integers: it
resolves them over tables without rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import polars as pl
from sqlglot import expressions as exp

from attent_select.errors import InputError
from attent_select.exact_integers import (
    DECIMAL,
    LARGEST,
    PRODUCT_BOUND,
    SUM_BOUND,
    Bound,
    bound_of,
    column_sum_bound,
    exact_dtype,
    wide_dtype,
)

_SQL_TYPES: Final[Mapping[pl.DataType, str]] = {
    pl.Int64(): "BIGINT",
    pl.Int128(): "INT128",
    DECIMAL: "DECIMAL(38, 0)",
    pl.Float64(): "DOUBLE",
}
_ARITHMETIC: Final[Mapping[type[exp.Expression], Bound]] = {
    exp.Add: SUM_BOUND,
    exp.Sub: SUM_BOUND,
    exp.Mul: PRODUCT_BOUND,
}
# What belongs to the function before it, such as OVER: a cast goes around both.
_SUFFIXES: Final = (exp.Window, exp.Filter, exp.IgnoreNulls, exp.RespectNulls, exp.WithinGroup)
_CLAUSES_OF_ROWS: Final = ("where", "having", "qualify", "order", "limit", "offset", "distinct")
_BOUND, _DTYPE = "bound", "dtype"


def exact_statement(
    statement: exp.Expression, schemas: Mapping[str, pl.Schema], *, dialect: Any
) -> exp.Expression:
    """Return a statement over tables of these schemas in which no integer wraps.

    Raises:
        InputError: polars cannot resolve an operand.
    """
    tables = {name: pl.LazyFrame(schema=schema) for name, schema in schemas.items()}
    exact = statement.copy()
    _widen_query(exact, _Resolver(tables, dialect), ())
    return exact


def _widen_query(
    query: exp.Expression, resolver: "_Resolver", outer_ctes: Sequence[exp.Expression]
) -> None:
    """Widen a SELECT or a set operation, after the queries inside it."""
    ctes = list(outer_ctes)
    if (with_ := query.args.get("with_")) is not None:
        for cte in with_.expressions:
            _widen_query(cte.this, resolver, ctes)
            ctes.append(cte)
    for inner in _queries_below(query):
        _widen_query(inner, resolver, ctes)
    if isinstance(query, exp.Select | exp.SetOperation):
        _Scope(query.copy(), resolver, ctes).widen(query)


def _queries_below(node: exp.Expression) -> Iterator[exp.Expression]:
    for child in node.iter_expressions():
        if isinstance(child, exp.Select | exp.SetOperation):
            yield child
        elif not isinstance(child, exp.With):
            yield from _queries_below(child)


def _nodes_of(query: exp.Expression) -> list[exp.Expression]:
    """Return the nodes of a query without those of the queries inside it, parents first."""
    nodes, level = [], [query]
    while level:
        children = [child for node in level for child in node.iter_expressions()]
        level = [
            child
            for child in children
            if not isinstance(child, exp.Select | exp.SetOperation | exp.With)
        ]
        nodes += level
    return nodes


@dataclass(frozen=True)
class _Resolver:
    """Types of queries over tables without rows."""

    tables: Mapping[str, pl.LazyFrame]
    dialect: Any

    def dtype_of(self, query: exp.Expression) -> pl.DataType | None:
        """Return the type of the only column; None if there are several.

        Raises:
            polars.exceptions.PolarsError: polars cannot run the query.
        """
        context = pl.SQLContext(frames=dict(self.tables))
        dtypes = context.execute(query.sql(dialect=self.dialect)).collect_schema().dtypes()
        return dtypes[0] if len(dtypes) == 1 else None


@dataclass(frozen=True)
class _Scope:
    """The expressions of one SELECT, or of the clauses after a set operation."""

    query: exp.Expression
    resolver: _Resolver
    ctes: Sequence[exp.Expression]
    _known: dict[str, pl.DataType | None] = field(default_factory=dict)

    def widen(self, query: exp.Expression) -> None:
        """Widen `query`, of which this scope has a copy."""
        for node in reversed(_nodes_of(query)):
            if type(node) in _ARITHMETIC:
                self._widen_arithmetic(node)
            elif isinstance(node, exp.Neg | exp.Abs):
                self._widen_sign(node)
            elif isinstance(node, exp.Pow):  # a power of integers soon exceeds any type
                for operand in (node.this, node.expression):
                    if self._bound(operand) is not None:
                        _cast(operand, pl.Float64())
            elif isinstance(node, exp.Sum):
                self._widen_sum(node)
            elif _is_function(node):
                self._widen_result(node)

    def _widen_arithmetic(self, node: exp.Expression) -> None:
        left, right = self._bound(node.this), self._bound(node.expression)
        if left is None or right is None:
            return
        bound = _ARITHMETIC[type(node)](left, right)
        for operand in (node.this, node.expression):
            _cast(operand, exact_dtype(bound))
        _mark(node, bound)

    def _widen_sign(self, node: exp.Expression) -> None:
        bound = self._bound(node.this)
        if bound is None or isinstance(node.this, exp.Literal):
            return
        _cast(node.this, exact_dtype(bound))
        _mark(node, bound)

    def _widen_sum(self, node: exp.Expression) -> None:
        value = node.this.expressions[0] if isinstance(node.this, exp.Distinct) else node.this
        if (bound := self._bound(value)) is None:
            return
        _cast(value, exact_dtype(column_sum_bound(bound)))
        _mark(_with_suffixes(node), column_sum_bound(bound))

    def _widen_result(self, node: exp.Expression) -> None:
        dtype = self._dtype(node)
        if dtype is not None and dtype != wide_dtype(dtype):
            _cast(node, wide_dtype(dtype))

    def _bound(self, node: exp.Expression) -> int | None:
        """Return the bound of an operand of integers, true and false; None for other values."""
        if isinstance(node, exp.Paren):
            return self._bound(node.this)
        if isinstance(node, exp.Literal):
            return int(node.this) if node.is_int else None
        if _BOUND in node.meta:
            bound: int = node.meta[_BOUND]
            return bound
        dtype = self._dtype(node, needed=True)
        return None if dtype is None else bound_of(dtype)

    def _dtype(self, node: exp.Expression, *, needed: bool = False) -> pl.DataType | None:
        """Return the type of an expression; None if polars does not tell, unless it is `needed`."""
        text = node.sql(dialect=self.resolver.dialect)
        if text not in self._known:
            try:
                self._known[text] = self._resolve(node)
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
                if needed:
                    reason = str(error).splitlines()[0]
                    raise InputError(f"the query does not run: {text}: {reason}") from error
                return None
        return self._known[text]

    def _resolve(self, node: exp.Expression) -> pl.DataType | None:
        # Alone, beside its GROUP BY, and with the SELECT's own names in it, as ORDER BY has them.
        named = node.copy().transform(self._without_alias)
        for is_last, value, grouped in (
            (False, node, False),
            (False, node, True),
            (False, named, False),
            (True, named, True),
        ):
            try:
                return self.resolver.dtype_of(self._probe(value, grouped=grouped))
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
                if is_last:
                    raise
        raise AssertionError

    def _without_alias(self, node: exp.Expression) -> exp.Expression:
        if isinstance(node, exp.Column) and not node.table and isinstance(self.query, exp.Select):
            for item in self.query.expressions:
                if isinstance(item, exp.Alias) and item.alias.lower() == node.name.lower():
                    return exp.paren(item.this.copy())
        return node

    def _probe(self, value: exp.Expression, *, grouped: bool) -> exp.Expression:
        """Return a query for one value over the tables of this scope."""
        column = exp.alias_(value.copy(), "value", quoted=True)
        if isinstance(self.query, exp.Select):
            probe = self.query.copy()
            for clause in (*_CLAUSES_OF_ROWS, *(() if grouped else ("group",))):
                probe.set(clause, None)
            probe.set("expressions", [column])
        else:
            union = self.query.copy()
            for clause in ("with_", *_CLAUSES_OF_ROWS[3:6]):
                union.set(clause, None)
            probe = exp.select(column).from_(exp.Subquery(this=union).as_("united"))
        ctes = [cte.copy() for cte in self.ctes]
        probe.set("with_", exp.With(expressions=ctes) if ctes else None)
        return probe


def _is_function(node: exp.Expression) -> bool:
    """Whether a node is a whole call of a function, with what belongs to it."""
    parent = node.parent
    if isinstance(parent, _SUFFIXES) and parent.this is node:
        return False
    if isinstance(node, exp.Connector) or (
        isinstance(node, exp.If) and isinstance(parent, exp.Case)
    ):
        return False
    return isinstance(node, (exp.Func, *_SUFFIXES)) and _BOUND not in node.meta


def _with_suffixes(node: exp.Expression) -> exp.Expression:
    while isinstance(node.parent, _SUFFIXES) and node.parent.this is node:
        node = node.parent
    return node


def _mark(node: exp.Expression, bound: int) -> None:
    """Record that a node computes integers up to `bound`, at most an Int128."""
    dtype = exact_dtype(bound)
    node.meta.update({_BOUND: min(bound, LARGEST), _DTYPE: dtype})
    if dtype == DECIMAL:
        _cast(node, pl.Int128())


def _cast(node: exp.Expression, dtype: pl.DataType) -> None:
    """Replace a node by its value in another type."""
    if node.unnest().meta.get(_DTYPE) == dtype:
        return
    cast = exp.Cast(to=exp.DataType.build(_SQL_TYPES[dtype], dialect="duckdb"))
    if (bound := node.meta.get(_BOUND)) is not None:
        cast.meta[_BOUND] = bound
    cast.meta[_DTYPE] = dtype
    node.replace(cast)
    cast.set("this", node)
