"""Sections of a run's configuration: keys, units and defaults.

Frozen models. The settings of a task, a strategy, the schedule, scoring, streaming and training
are frozen dataclasses of other packages; the file has their fields under the same names.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Generic, Literal, TypeVar, cast

from pydantic import (
    BaseModel,
    Field,
    field_validator,
    model_serializer,
    model_validator,
)

from attent_select.errors import InputError
from attent_select.schedule.budget import Pool
from attent_select.schedule.rounds import Schedule
from attent_select.schema import FUNCTIONAL_GRADIENT, LOSSES, ROW, SHARD_ID
from attent_select.selection.blocks import check_composition
from attent_select.selection.composition import Composition
from attent_select.selection.quotas import MovingQuotas
from catalogs import storage
from catalogs.mixture import NAME, with_quotas
from pipeline.config.annotation_kinds import with_carried_columns
from pipeline.config.cluster_settings import ClusterSettings
from pipeline.config.shard_settings import CorpusSettings, ShardSettings, TargetSettings
from pipeline.config.validation import INSIDE, SETTINGS, Section, keys_of
from trainers.settings import ScoringSettings, StreamingSettings, TrainingSettings

BudgetUnit = Literal["samples", "units"]
TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]

TaskT = TypeVar("TaskT")
StrategyT = TypeVar("StrategyT")

_COMPOSED = frozenset(field.name for field in fields(Composition))

# Keys of plug-ins whose field has another name: a strategy has a method `key`.
PLUGIN_FIELDS = {"key": "expression"}


class TaskSection(Section, Generic[TaskT]):
    """The task by name; in the file its own settings stand beside the name."""

    name: str
    task: TaskT = Field(alias="settings")

    @model_validator(mode="before")
    @classmethod
    def _nest(cls, values: Any) -> Any:
        return _nest_settings(values, cls)

    @model_serializer(mode="wrap")
    def _flat(self, serialise: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return _flatten_settings(serialise(self), type(self))


class SelectionSection(Section, Generic[StrategyT]):
    """Selection of the teaching subset.

    In the file, the settings of the strategy and of its composition (`where`, `by`, `explore`, …)
    stand beside its name, under the key `strategy`.

    Attributes:
        strategy_name: a strategy, or the dotted path of a class; the key `strategy`.
        granularity: what is selected as a whole: `sample`, `row_group`, `shard`, or the number of
            rows per block.
        budget_unit: what `schedule.ratio` is a share of, `samples` or `units` (tokens); default:
            units where they are counted.
        composition: settings around the strategy.
        strategy: settings of the strategy.
    """

    strategy_name: str = Field(default="soft", alias="strategy")
    granularity: str | int = "sample"
    budget_unit: BudgetUnit | None = None
    composition: Composition = Composition()
    strategy: StrategyT = Field(alias="settings")

    @model_validator(mode="before")
    @classmethod
    def _nest(cls, values: Any) -> Any:
        return _nest_settings(values, cls)

    @model_serializer(mode="wrap")
    def _flat(self, serialise: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        return _flatten_settings(serialise(self), type(self))

    @field_validator("granularity")
    @classmethod
    def _known(cls, granularity: str | int) -> str | int:
        rows = isinstance(granularity, int) and 1 <= granularity < 1 << 32
        if not rows and granularity not in ("sample", "row_group", "shard"):
            raise InputError(
                f"expected sample, row_group, shard, or rows per block, found {granularity!r}"
            )
        return granularity

    @model_validator(mode="after")
    def _whole_blocks(self) -> "SelectionSection[StrategyT]":
        if self.granularity != "sample":
            check_composition(self.composition)
        return self

    @property
    def resolved_composition(self) -> Composition:
        """The composition with the `explore` that applies to the strategy."""
        if self.granularity != "sample":
            return replace(self.composition, explore=0.0)
        strategy: Any = self.strategy
        return self.composition.for_strategy(strategy)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the selection reads, without num_units for a budget in units."""
        strategy: Any = self.strategy
        return tuple(dict.fromkeys((*strategy.columns, *self.composition.columns)))


class RunSettings(Section, Generic[TaskT, StrategyT]):
    """All sections of a run.

    Attributes:
        run: URL or folder of the run.
        seed: seed of all random draws.
        corpus: the samples to choose from: shards, the folder of a shared corpus, or a list of
            named parts (a mixture).
        evaluation: held-out shards, evaluated after every round.
        target: examples of what the model should be good at.
        annotations: annotations of the corpus by name; those it lacks are made before the first
            round.
        task: the task, and its settings.
        model: the model to start from.
        selection: how each round's subset is selected.
        schedule: rounds, their ratio or budget, and what is scored before each.
        scoring: how losses are measured.
        training: how a round trains.
        streaming: how training reads the subset.
        cluster: the Dask cluster for scoring and ingesting.
        tracking: programs that are sent the curves of the run, round after round.
    """

    run: str = Field(min_length=1)
    seed: int = Field(default=0, ge=0, lt=1 << 63)
    corpus: CorpusSettings
    evaluation: ShardSettings | None = None
    target: TargetSettings | None = None
    annotations: dict[str, dict[str, Any]] = Field(default_factory=dict)
    task: TaskSection[TaskT]
    model: dict[str, Any]
    selection: SelectionSection[StrategyT]
    schedule: Schedule = Schedule()
    scoring: ScoringSettings = ScoringSettings()
    training: TrainingSettings = TrainingSettings()
    streaming: StreamingSettings = StreamingSettings()
    cluster: ClusterSettings = ClusterSettings()
    tracking: tuple[TrackerName, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _annotate_carried_columns(cls, values: Any) -> Any:
        return with_quotas(with_carried_columns(values))

    @model_validator(mode="after")
    def _measured_columns_need_scoring(self) -> "RunSettings[TaskT, StrategyT]":
        if self.carry_schema and self.schedule.rescore.kind == "observed":
            key = "scoring.functional_gradient" if self.scoring.functional_gradient else "task"
            raise InputError(
                f"{key}: its columns ({', '.join(self.carry_schema)}) are written by scoring, and "
                "with schedule.rescore.kind observed nothing is scored: omit one of them"
            )
        return self

    @model_validator(mode="after")
    def _quotas_of_a_mixture(self) -> "RunSettings[TaskT, StrategyT]":
        composition, parts = self.selection.composition, self.corpus.mixture
        if isinstance(composition.quotas, MovingQuotas) and parts and composition.by == NAME:
            try:
                composition.quotas.check_strata(len(parts))
            except InputError as error:
                raise InputError(f"selection.quotas.{error}") from error
        return self

    @model_validator(mode="after")
    def _proxy_scores_everything(self) -> "RunSettings[TaskT, StrategyT]":
        kind = self.schedule.rescore.kind
        if self.scoring.proxy is not None and kind != "full":
            raise InputError(
                f"scoring.proxy: with schedule.rescore.kind {kind}, its losses would be mixed with"
                " those that training observes, which are of another model: omit one of them"
            )
        return self

    @field_validator("target")
    @classmethod
    def _absolute_target(cls, target: TargetSettings | None) -> TargetSettings | None:
        if target is None:
            return None
        return replace(target, shards=tuple(storage.normalise(url) for url in target.shards))

    @model_validator(mode="after")
    def _adaptive_counts_samples(self) -> "RunSettings[TaskT, StrategyT]":
        if self.selection.budget_unit == "units" and self.schedule.ratio.kind == "adaptive":
            raise InputError(
                "selection.budget_unit: an adaptive ratio has a budget of optimizer steps: omit "
                "the key"
            )
        return self

    @model_validator(mode="after")
    def _budget_is_selected(self) -> "RunSettings[TaskT, StrategyT]":
        schedule, selection = self.schedule, self.selection
        if schedule.budget is None:
            return self
        if schedule.counts_units and selection.budget_unit == "samples":
            raise InputError(
                "schedule.budget: units are asked for, and selection.budget_unit is samples, the"
                " only unit of tasks without text: give samples or epochs"
            )
        if selection.budget_unit == "units" and schedule.budget.units is None:
            raise InputError("selection.budget_unit: schedule.budget has its own unit: omit it")
        if self.pool is None:
            if schedule.num_rounds > 1 and not self.needs_losses:
                raise InputError(
                    "schedule.rounds: each round would choose from the whole corpus, also samples"
                    " that earlier ones had: set it to 1, or add `pool: {multiple: 3}`"
                )
            return self
        takes_all = self.pool.multiple == 1 and not self.pool.keep_rounds
        if takes_all and selection.composition.by is not None:
            raise InputError(
                "schedule.pool.multiple: a round that takes all of its candidates has no choice, so"
                " that selection.by and quotas would do nothing: raise it, or omit the pool"
            )
        if self.pool.multiple == "auto" and not self.needs_losses:
            raise InputError(
                "schedule.pool.multiple: auto weighs the losses of candidates against the cost of"
                " scoring them, and this selection scores nothing: give a number"
            )
        if selection.granularity != "sample":
            raise InputError(
                "selection.granularity: rounds with a pool select single samples; the rows that are"
                " drawn together are schedule.pool.block_rows"
            )
        if selection.composition.max_visits is not None:
            raise InputError("selection.max_visits: a pool draws a sample once a pass: omit it")
        return self

    @property
    def pool(self) -> Pool | None:
        """The pool that rounds choose from; None if they choose from the whole corpus.

        Where the choice reads no column, a budget is drawn without more candidates than it takes.
        Strata are a choice: their quotas are met from the whole corpus.
        """
        if self.schedule.budget is None or self.schedule.pool is not None:
            return self.schedule.pool
        strategy: Any = self.selection.strategy
        is_choice = strategy.columns or self.selection.composition.by is not None
        return None if is_choice else Pool(multiple=1)

    @field_validator("run")
    @classmethod
    def _absolute(cls, run: str) -> str:
        return storage.normalise(run).rstrip("/")

    @property
    def carry_schema(self) -> dict[str, Any]:
        """The columns beside the losses (polars dtypes) in every part of the catalog."""
        return self.scoring.carry_schema(self.task.task)

    @property
    def needs_losses(self) -> bool:
        """Whether the selection reads a column of the losses; others are ids or annotations."""
        names = {*LOSSES, FUNCTIONAL_GRADIENT, *self.carry_schema} - {SHARD_ID, ROW}
        return not names.isdisjoint(self.selection.columns)

    def to_plain_values(self) -> dict[str, Any]:
        """Return every key with its value, defaults included, as plain YAML values."""
        return self.model_dump(mode="json")


# The configuration of a run with any task and strategy.
RunConfig = RunSettings[Any, Any]


def run_settings_of(task: Any, strategy: Any) -> type[RunConfig]:
    """Return the model of a configuration with these classes of task and strategy."""
    return cast(type[RunConfig], RunSettings.__class_getitem__((task, strategy)))


def selection_section_of(strategy: Any) -> type[SelectionSection[Any]]:
    """Return the model of the section `selection` with this class of strategy."""
    return cast(type[SelectionSection[Any]], SelectionSection.__class_getitem__(strategy))


def _nest_settings(values: Any, section: type[BaseModel]) -> Any:
    """Sort the keys of a flat section into the model's fields; the rest are the plug-in's."""
    if not isinstance(values, Mapping) or SETTINGS in values:
        return values
    keys = keys_of(section)
    nested: dict[str, Any] = {SETTINGS: {}}
    for key, value in values.items():
        if key in keys and key not in INSIDE:
            nested[key] = value
        elif "composition" in keys and key in _COMPOSED:
            composed = _by_stratum(value) if key == "quotas" else value
            nested.setdefault("composition", {})[key] = composed
        else:
            nested[SETTINGS][PLUGIN_FIELDS.get(key, key)] = value
    return nested


def _by_stratum(quotas: Any) -> Any:
    if not isinstance(quotas, Mapping):
        return quotas
    if isinstance(kind := quotas.get("kind"), str):
        return _of_kind(kind, {name: quotas[name] for name in quotas if name != "kind"})
    return {_stratum(name): quotas[name] for name in quotas}


def _of_kind(kind: str, values: Mapping[str, Any]) -> Any:
    """Return the quotas of a kind with these settings.

    Raises:
        InputError: there is no such kind, or a setting is missing or wrong.
    """
    if kind in ("equal", "proportional"):
        known, expected = {"kind"}, "no more keys"
    else:
        known = {field.name for field in fields(MovingQuotas)}
        expected = f"some of {', '.join(sorted(known))}"
    if unknown := sorted(map(str, values.keys() - known)):
        raise InputError(f"quotas.{unknown[0]}: unknown key of kind {kind}: expected {expected}")
    if kind in ("equal", "proportional"):
        return kind
    if kind == "excess" and not isinstance(values.get("reference"), str):
        raise InputError(
            "quotas.reference: name an annotation with the losses of a reference model"
        )
    try:
        return MovingQuotas(kind=kind, **values)  # type: ignore[arg-type]  # it is checked
    except (InputError, TypeError) as error:
        raise InputError(f"quotas.{error}") from error


def _stratum(name: Any) -> str:
    """Return the name of a stratum that YAML reads as a number, a boolean or null."""
    if name is None:
        return "null"
    return str(name).lower() if isinstance(name, bool) else str(name)


def _flatten_settings(values: dict[str, Any], section: type[BaseModel]) -> dict[str, Any]:
    by_key = dict(zip(keys_of(section), values.values(), strict=True))
    settings, composition = by_key.pop(SETTINGS), by_key.pop("composition", {})
    keys = {field: key for key, field in PLUGIN_FIELDS.items()}
    settings = {keys.get(name, name): settings[name] for name in settings}
    return dict(by_key | composition | settings)
