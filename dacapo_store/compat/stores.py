"""The four stores with DaCapo's own classes at the border. Alone in the project, this imports dacapo.

Each is a store of this package and an instance of DaCapo's interface: what DaCapo hands over is taken
as it is, what it gets back is of its own classes, and what goes wrong is what its code catches.

- Configs are documents of DaCapo's converter, which says nothing when it cannot make an object of one
  (it gives the document back) and evaluates the names in it as Python: both end in an error here.
- A scalar that DaCapo's stats have no field for is an attribute of the row, so that a trainer which
  hands the rows back hands it back, too.
- A run that DaCapo's own stores keep in the same base directory, and that this history does not know,
  is not begun anew: that would look like a training that starts from nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from dacapo import Options
from dacapo.experiments import (
    RunConfig,
    TrainingIterationStats,
    TrainingStats,
    ValidationIterationScores,
)
from dacapo.experiments.architectures import ArchitectureConfig
from dacapo.experiments.datasplits import DataSplitConfig
from dacapo.experiments.datasplits.datasets import DatasetConfig
from dacapo.experiments.datasplits.datasets.arrays import ArrayConfig
from dacapo.experiments.tasks import TaskConfig
from dacapo.experiments.trainers import TrainerConfig
from dacapo.store import array_store, config_store, conversion_hooks, stats_store, weights_store
from dacapo.store.converter import converter as dacapo_converter

from dacapo_store.array_store import LocalArrayStore
from dacapo_store.config_store import DuplicateNameError, FileConfigStore, LogConfigStore
from dacapo_store.converter import TYPE_KEY, ConversionError, UnknownTypeError
from dacapo_store.converter import converter as plain_converter
from dacapo_store.errors import ConfigMissingError, NotImportedError
from dacapo_store.history import TRAINING, VALIDATION, Kind
from dacapo_store.mongo_stores import MongoConfigStore, MongoStatsStore, base_address
from dacapo_store.names import run_name_of
from dacapo_store.options import KNOWN_STORE_TYPES
from dacapo_store.stats_store import FileStatsStore, LogStatsStore
from dacapo_store.training_iteration_stats import no_garbage
from dacapo_store.weights_store import LocalWeightsStore

if TYPE_CHECKING:
    from dacapo_store.background import Pending
    from dacapo_store.training_stats import TrainingStats as Columns

_CONFIG_TYPES: Final = {
    "runs": RunConfig,
    "tasks": TaskConfig,
    "architectures": ArchitectureConfig,
    "trainers": TrainerConfig,
    "datasplits": DataSplitConfig,
    "datasets": DatasetConfig,
    "arrays": ArrayConfig,
}


def config_store_of_options() -> Any:
    """The config store that DaCapo's own options ask for now.

    Raises:
        ValueError: They ask for a type that is not known here, or do not say which database.
    """
    options = _options()
    if options.type == "mongo":
        return DaCapoMongoConfigStore(*_database(options), files=options.runs_base_dir)
    return DaCapoConfigStore(options.runs_base_dir / "configs")


def stats_store_of_options() -> Any:
    """The stats store that DaCapo's own options ask for now.

    Raises:
        ValueError: They ask for a type that is not known here, or do not say which database.
    """
    options = _options()
    if options.type == "mongo":
        return DaCapoMongoStatsStore(*_database(options), files=options.runs_base_dir)
    return DaCapoStatsStore(options.runs_base_dir / "stats")


def base_of_options() -> Any:
    """The base that DaCapo's own options name now: a directory, as its kind of path, or an address.

    Raises:
        ValueError: They ask for a type that is not known here, or do not say which database.
    """
    options = _options()
    if options.type == "mongo":
        return base_address(*_database(options), options.runs_base_dir)
    return options.runs_base_dir


def _options() -> Any:
    options = Options.instance()
    if options.type not in KNOWN_STORE_TYPES:
        known = " or ".join(f"type: {name}" for name in KNOWN_STORE_TYPES)
        raise ValueError(
            f"dacapo.yaml says type: {options.type}; say {known}, or go without DACAPO_STORE_COMPAT"
        )
    return options


def _database(options: Any) -> tuple[str, str]:
    return options.mongo_db_host or "", options.mongo_db_name or ""


class DaCapoDuplicateNameError(DuplicateNameError, config_store.DuplicateNameError):  # type: ignore[misc]
    """Ours and DaCapo's in one; see ``dacapo_store.DuplicateNameError``."""


class _DaCapoConfigs(LogConfigStore):
    """A config store for DaCapo's configs."""

    duplicate_name_error_type: ClassVar[type[DuplicateNameError]] = DaCapoDuplicateNameError

    def _document_of(self, config: Any) -> Any:
        # The second step makes Python numbers of NumPy's, which DaCapo's converter leaves as they are.
        return plain_converter.unstructure(dacapo_converter.unstructure(config))

    def _config_of(self, kind: str, document: Any) -> Any:
        for path, name in _type_names(document, "$"):
            # DaCapo evaluates it: a mere name runs nothing.
            if not isinstance(name, str) or not name.isidentifier():
                raise _not_made(path, name)
        config = dacapo_converter.structure(document, _CONFIG_TYPES[kind])
        for path, name in _type_names(config, "$"):
            raise _not_made(path, name)
        return config


class DaCapoConfigStore(_DaCapoConfigs, FileConfigStore, config_store.ConfigStore):  # type: ignore[misc]
    """The config store of a base directory, for DaCapo's configs."""

    def _missing(self, kind: str, name: str) -> ConfigMissingError:
        error = super()._missing(kind, name)
        file = self.path / kind / f"{name}.yaml"
        return ConfigMissingError(f"{error}; {_import_hint(file)}") if file.exists() else error


class DaCapoMongoConfigStore(_DaCapoConfigs, MongoConfigStore, config_store.ConfigStore):  # type: ignore[misc]
    """The config store of a database, for DaCapo's configs."""


class _DaCapoStats(LogStatsStore):
    """A stats store for DaCapo's stats and scores."""

    def store_training_stats(self, run_name: Any, stats: Any) -> None:
        """Store the training stats of a run; see ``dacapo_store.StatsStore``.

        Raises:
            NotImportedError: DaCapo's own store has stats of this run, and this history has none.
        """
        self._require_imported(TRAINING, run_name)
        super().store_training_stats(run_name, stats)

    def retrieve_training_stats(self, run_name: Any, subsample: bool = False) -> Any:  # noqa: FBT001, FBT002 - DaCapo's signature
        """The training stats of a run as DaCapo's ``TrainingStats``; see ``dacapo_store.StatsStore``.

        Raises:
            NotImportedError: DaCapo's own store has stats of this run, and this history has none.
        """
        self._require_imported(TRAINING, run_name)
        return _dacapo_stats(super().retrieve_training_stats(run_name, subsample))

    def store_validation_iteration_scores(self, run_name: Any, scores: Any) -> None:
        """Store the validation scores of a run; see ``dacapo_store.StatsStore``.

        Raises:
            NotImportedError: DaCapo's own store has scores of this run, and this history has none.
        """
        self._require_imported(VALIDATION, run_name)
        super().store_validation_iteration_scores(run_name, scores)

    def retrieve_validation_iteration_scores(
        self,
        run_name: Any,
        subsample: bool = False,  # noqa: FBT001, FBT002 - DaCapo's signature
        validation_interval: int | None = None,
    ) -> Any:
        """The scores of a run as DaCapo's ``ValidationIterationScores``; see ``dacapo_store.StatsStore``.

        Raises:
            NotImportedError: DaCapo's own store has scores of this run, and this history has none.
        """
        self._require_imported(VALIDATION, run_name)
        scores = super().retrieve_validation_iteration_scores(run_name, subsample, validation_interval)
        return [ValidationIterationScores(each.iteration, each.scores) for each in scores]

    def _require_imported(self, kind: Kind[Any], run_name: Any) -> None:
        """Whoever opens a database has been told before of what is in it and was not imported."""


class DaCapoStatsStore(_DaCapoStats, FileStatsStore, stats_store.StatsStore):  # type: ignore[misc]
    """The stats store of a base directory, for DaCapo's stats and scores."""

    def _require_imported(self, kind: Kind[Any], run_name: Any) -> None:
        run = run_name_of(run_name)
        if self._base.log.stream_version(kind.stream(run)) is None:
            folder = self.training_stats if kind is TRAINING else self.validation_scores
            # Only a run whose name can be a folder's has files of DaCapo's.
            _refuse_files(run, [] if "/" in run else [folder / run])


class DaCapoMongoStatsStore(_DaCapoStats, MongoStatsStore, stats_store.StatsStore):  # type: ignore[misc]
    """The stats store of a database, for DaCapo's stats and scores."""


class DaCapoWeightsStore(LocalWeightsStore, weights_store.WeightsStore):  # type: ignore[misc]
    """The weights store of a base directory, for DaCapo's weights."""

    def latest_iteration(self, run: Any) -> int | None:
        """The greatest iteration that the run has weights of; see ``dacapo_store.LocalWeightsStore``.

        Raises:
            NotImportedError: DaCapo's own store has weights of this run, and this history has none.
        """
        self._require_imported(run)
        return super().latest_iteration(run)

    def store_weights(self, run: Any, iteration: int, *, wait: bool = True) -> Pending | None:  # type: ignore[override]
        """Store the weights that the run has now; see ``dacapo_store.LocalWeightsStore``.

        Raises:
            NotImportedError: DaCapo's own store has weights of this run, and this history has none.
        """
        self._require_imported(run)
        return super().store_weights(run, iteration, wait=wait)

    def retrieve_weights(self, run: Any, iteration: int) -> Any:
        """The weights of an iteration as DaCapo's ``Weights``; see ``dacapo_store.LocalWeightsStore``."""
        weights = super().retrieve_weights(run, iteration)
        return weights_store.Weights(weights.model, weights.optimizer)

    def _retrieve_weights(self, run: Any, key: str) -> Any:
        weights = super()._retrieve_weights(run, key)
        return weights_store.Weights(weights.model, weights.optimizer)

    def _require_imported(self, run: Any) -> None:
        name = self._run_name(run)
        if self._base.log.stream_version(f"weights/{name}") is None:
            _refuse_files(name, (self.basedir / name / "checkpoints" / "iterations").glob("[0-9]*"))


class DaCapoArrayStore(LocalArrayStore, array_store.ArrayStore):  # type: ignore[misc]
    """Where the arrays of a base directory lie, in DaCapo's identifiers."""

    array_identifier_type: ClassVar[Any] = array_store.LocalArrayIdentifier
    container_identifier_type: ClassVar[Any] = array_store.LocalContainerIdentifier


def _type_names(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The ``__type__`` of each mapping in a document, or in the objects made of one, and where it is."""
    if isinstance(value, Mapping):
        if TYPE_KEY in value:
            yield path, value[TYPE_KEY]
        parts = [(f"{path}.{key}", item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    else:
        names = [field.name for field in getattr(type(value), "__attrs_attrs__", ())]
        parts = [(f"{path}.{name}", getattr(value, name, None)) for name in names]
    for part_path, part in parts:
        yield from _type_names(part, part_path)


def _not_made(path: str, name: Any) -> ConversionError:
    if isinstance(name, str) and isinstance(getattr(conversion_hooks, name, None), type):
        return ConversionError(
            f"{path}: DaCapo could make no {name} of its document, and printed why; ask for the document "
            "itself with raw=True",
            path=path,
        )
    return UnknownTypeError(
        f"{path}: the document names a type {name!r} that DaCapo does not know here; import the module that "
        "registers it with dacapo.store.converter, or ask for the document itself with raw=True",
        path=path,
        type_name=str(name),
    )


def _dacapo_stats(stats: Columns) -> Any:
    """DaCapo's stats of columns."""
    columns = {name: _values(stats, name) for name in stats.columns}
    absent: list[float | None] = [None] * len(stats.iterations)
    loss, time = columns.pop("loss", absent), columns.pop("time", absent)
    with no_garbage():
        rows = list(map(TrainingIterationStats, stats.iterations.tolist(), loss, time))
    for name, values in columns.items():
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                setattr(row, name, value)
    return TrainingStats(rows)


def _values(stats: Columns, name: str) -> list[float | None]:
    """A scalar of all rows, None where a row does not have it."""
    values: list[float | None] = stats.column(name).tolist()
    for place in np.flatnonzero(~stats.present(name)).tolist():
        values[place] = None
    return values


def _refuse_files(run: str, files: Iterable[Any]) -> None:
    """Refuse what DaCapo's own stores have left of a run that this history knows nothing of."""
    for file in files:
        if file.exists():
            raise NotImportedError(f"of run {run!r} {_import_hint(file)}")


def _import_hint(file: Any) -> str:
    return (
        f"DaCapo's own store keeps {file}, which this history does not have: import the base first "
        "(dacapo-store import), or let dacapo.yaml name another runs_base_dir"
    )
