"""Configs by kind and name: DaCapo's config store over the log.

Owns what a name and a kind are, when two configs are the same, and what is stored with a run. How
an object becomes a document and comes back is ``converter``'s.

A config is the last event of its stream ``config/<kind>/<name>``. To store one is to read that
stream, compare, and append with the stream version that was compared: of several processes that
store one name at once exactly one appends, and the others look again at what it left. One config
is read from its stream; lists of names are asked of the SQL views.
"""

from __future__ import annotations

import difflib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeGuard

from dacapo_store import converter
from dacapo_store.base import Base
from dacapo_store.differences import ABSENT, Difference, differences, shown
from dacapo_store.errors import ConfigMissingError
from dacapo_store.events import EVENT_TYPES, ConfigDeleted, ConfigStored
from dacapo_store.names import validate_run_name
from dacapo_store.store_paths import absolute_path, base_of_store
from eventstore import NO_STREAM, ExpectedVersionError, StreamAppend

if TYPE_CHECKING:
    import os

    from upath import UPath

    from dacapo_store.moments import Moment
    from eventstore import Event, RecordedEvent

KINDS: Final = ("runs", "tasks", "architectures", "trainers", "datasplits", "datasets", "arrays")

PARTS_OF_A_RUN: Final = {
    "task_config": "tasks",
    "architecture_config": "architectures",
    "trainer_config": "trainers",
    "datasplit_config": "datasplits",
}
"""The fields of a run config that are configs of their own, and their kinds."""

_DIFFERENCES_SHOWN: Final = 3


class DuplicateNameError(Exception):
    """Another config of this kind has the name; nothing was stored.

    Choose another name, or delete the config that has it.
    """


class ConfigStore(ABC):
    """Keeps configs of seven kinds, each under a name of its own kind.

    A config is a typed object that ``converter`` knows, or a mapping; either has a ``name``, which
    may be any text that is not empty. Storing an equal config again does nothing. What comes back
    equals what went in.

    Every ``store_<kind>_config`` takes ``ignore``, fields at the top of the document that are left
    out when the config is compared with one of the same name, and raises

    - ``DuplicateNameError``: another config of this kind has the name, and nothing was stored;
      choose another name, or delete the other config first;
    - ``ValueError`` or ``TypeError``: the config has no name, or it holds, or is, what cannot be
      stored; the text says what.

    Every ``retrieve_<kind>_config`` returns the typed object, or with ``raw=True`` the document
    that it was stored as, and raises

    - ``ConfigMissingError``, which is a ``KeyError`` and a ``ValueError``: there is none of this
      name; the text suggests names that are close;
    - ``ValueError``: the document's type is not known here; register it with ``converter``, or
      ask for the raw document.

    Every ``retrieve_<kind>_config_names`` returns the names in their order, none being an empty
    list. Every ``delete_<kind>_config`` takes the config out of view; its history stays.

    Another kind of store implements the four methods at the end.
    """

    def store_run_config(self, run_config: Any, ignore: Collection[str] | None = None) -> None:
        """Store a run config, and with it those of its parts that are not stored yet.

        Its task, architecture, trainer and datasplit configs are parts; a part without a name
        stays in the run's document only. All are stored or none.

        Args:
            run_config: The run config. Its name will name a folder, so it has no separator, is
                not ``.`` or ``..`` and is none of the base's own names.
            ignore: Fields at the top that do not count when configs are compared.

        Raises:
            DuplicateNameError: A different run has the name, or a different config the name of a
                part; nothing was stored.
            ValueError: The name cannot name a folder, is missing, or the config cannot be stored.
        """
        self._store("runs", run_config, ignore)

    def retrieve_run_config(self, run_name: str, *, raw: bool = False) -> Any:
        """The run config of this name; as every ``retrieve`` (see the class)."""
        return self._retrieve("runs", run_name, raw=raw)

    def retrieve_run_config_names(
        self,
        task_names: Collection[str] | None = None,
        datasplit_names: Collection[str] | None = None,
        architecture_names: Collection[str] | None = None,
        trainer_names: Collection[str] | None = None,
    ) -> list[str]:
        """The names of the runs, of all or of those whose parts have certain names.

        Args:
            task_names: Keep runs whose task has one of these names; an empty list keeps none.
            datasplit_names: Likewise for the datasplit.
            architecture_names: Likewise for the architecture.
            trainer_names: Likewise for the trainer.
        """
        wanted = {
            "task_config": task_names,
            "datasplit_config": datasplit_names,
            "architecture_config": architecture_names,
            "trainer_config": trainer_names,
        }
        return self._names("runs", {part: names for part, names in wanted.items() if names is not None})

    def delete_run_config(self, run_name: str) -> None:
        """Delete a run config. Its parts stay, and so do the run's stats, weights and arrays."""
        self.delete_config("runs", run_name)

    def store_task_config(self, task_config: Any, ignore: Collection[str] | None = None) -> None:
        """Store a task config; as every ``store`` (see the class)."""
        self._store("tasks", task_config, ignore)

    def retrieve_task_config(self, task_name: str, *, raw: bool = False) -> Any:
        """The task config of this name; as every ``retrieve`` (see the class)."""
        return self._retrieve("tasks", task_name, raw=raw)

    def retrieve_task_config_names(self) -> list[str]:
        """The names of the task configs."""
        return self._names("tasks")

    def delete_task_config(self, task_name: str) -> None:
        """Delete a task config."""
        self.delete_config("tasks", task_name)

    def store_architecture_config(
        self, architecture_config: Any, ignore: Collection[str] | None = None
    ) -> None:
        """Store an architecture config; as every ``store`` (see the class)."""
        self._store("architectures", architecture_config, ignore)

    def retrieve_architecture_config(self, architecture_name: str, *, raw: bool = False) -> Any:
        """The architecture config of this name; as every ``retrieve`` (see the class)."""
        return self._retrieve("architectures", architecture_name, raw=raw)

    def retrieve_architecture_config_names(self) -> list[str]:
        """The names of the architecture configs."""
        return self._names("architectures")

    def delete_architecture_config(self, architecture_name: str) -> None:
        """Delete an architecture config."""
        self.delete_config("architectures", architecture_name)

    def store_trainer_config(self, trainer_config: Any, ignore: Collection[str] | None = None) -> None:
        """Store a trainer config; as every ``store`` (see the class)."""
        self._store("trainers", trainer_config, ignore)

    def retrieve_trainer_config(self, trainer_name: str, *, raw: bool = False) -> Any:
        """The trainer config of this name; as every ``retrieve`` (see the class)."""
        return self._retrieve("trainers", trainer_name, raw=raw)

    def retrieve_trainer_config_names(self) -> list[str]:
        """The names of the trainer configs."""
        return self._names("trainers")

    def delete_trainer_config(self, trainer_name: str) -> None:
        """Delete a trainer config."""
        self.delete_config("trainers", trainer_name)

    def store_datasplit_config(self, datasplit_config: Any, ignore: Collection[str] | None = None) -> None:
        """Store a datasplit config; as every ``store`` (see the class)."""
        self._store("datasplits", datasplit_config, ignore)

    def retrieve_datasplit_config(self, datasplit_name: str, *, raw: bool = False) -> Any:
        """The datasplit config of this name; as every ``retrieve`` (see the class)."""
        return self._retrieve("datasplits", datasplit_name, raw=raw)

    def retrieve_datasplit_config_names(self) -> list[str]:
        """The names of the datasplit configs."""
        return self._names("datasplits")

    def delete_datasplit_config(self, datasplit_name: str) -> None:
        """Delete a datasplit config."""
        self.delete_config("datasplits", datasplit_name)

    def store_dataset_config(self, dataset_config: Any, ignore: Collection[str] | None = None) -> None:
        """Store a dataset config; as every ``store`` (see the class)."""
        self._store("datasets", dataset_config, ignore)

    def retrieve_dataset_config(self, dataset_name: str, *, raw: bool = False) -> Any:
        """The dataset config of this name; as every ``retrieve`` (see the class)."""
        return self._retrieve("datasets", dataset_name, raw=raw)

    def retrieve_dataset_config_names(self) -> list[str]:
        """The names of the dataset configs."""
        return self._names("datasets")

    def delete_dataset_config(self, dataset_name: str) -> None:
        """Delete a dataset config."""
        self.delete_config("datasets", dataset_name)

    def store_array_config(self, array_config: Any, ignore: Collection[str] | None = None) -> None:
        """Store an array config; as every ``store`` (see the class)."""
        self._store("arrays", array_config, ignore)

    def retrieve_array_config(self, array_name: str, *, raw: bool = False) -> Any:
        """The array config of this name; as every ``retrieve`` (see the class)."""
        return self._retrieve("arrays", array_name, raw=raw)

    def retrieve_array_config_names(self) -> list[str]:
        """The names of the array configs."""
        return self._names("arrays")

    def delete_array_config(self, array_name: str) -> None:
        """Delete an array config."""
        self.delete_config("arrays", array_name)

    @abstractmethod
    def delete_config(self, database: Any, config_name: str) -> None:
        """Take a config out of view; its history stays.

        Args:
            database: Where it is: one of the store's own places, e.g. ``store.tasks``, or the
                kind as text, e.g. ``"tasks"``.
            config_name: Its name.

        Raises:
            ConfigMissingError: There is none; it is a ``KeyError``, a ``ValueError`` and a
                ``FileNotFoundError``, and its text suggests names that are close.
            ValueError: ``database`` is none of this store.
        """

    @abstractmethod
    def _store(self, kind: str, config: Any, ignore: Collection[str] | None) -> None:
        """Store a config of a kind, as the class says."""

    @abstractmethod
    def _retrieve(self, kind: str, name: str, *, raw: bool) -> Any:
        """The config of a kind and a name, as the class says."""

    @abstractmethod
    def _names(self, kind: str, part_names: Mapping[str, Collection[str]] | None = None) -> list[str]:
        """The names of a kind in their order, those only whose parts' names are in ``part_names``."""


class LogConfigStore(ConfigStore):
    """The config store over the log of a base, whatever it calls its places.

    Attributes:
        _place: What the store is called in errors.
        duplicate_name_error_type: What is raised when a name is taken. A client whose code catches a
            class of its own puts one here that is both.
    """

    duplicate_name_error_type: ClassVar[type[DuplicateNameError]] = DuplicateNameError
    _base: Base
    _place: str

    def delete_config(self, database: Any, config_name: str) -> None:
        """Take a config out of view; see ``ConfigStore``."""
        kind = self._kind(database)
        name = _checked_name(kind, config_name)

        def deletion(history: list[RecordedEvent]) -> list[Event]:
            if _stored(history) is None:
                raise self._missing(kind, name)
            return [EVENT_TYPES.event(ConfigDeleted(kind=kind, name=name))]

        self._base.decide(_stream(kind, name), deletion)

    def retrieve_config(self, database: Any, config_name: str) -> Any:
        """The document of a config of any kind.

        Args:
            database: As for ``delete_config``.
            config_name: Its name.

        Raises:
            ConfigMissingError: There is none; the text suggests names that are close.
            ValueError: ``database`` is none of this store.
        """
        return self._retrieve(self._kind(database), config_name, raw=True)

    def _store(self, kind: str, config: Any, ignore: Collection[str] | None) -> None:
        documents = _documents(kind, self._document_of(config))
        while True:
            with self._base.log.one_look():
                appends = [self._storing(*key, document, ignore) for key, document in documents.items()]
                if not any(append.events for append in appends):
                    self._base.log.sync()
                    return
            try:
                self._base.append_to_streams(appends)
            except ExpectedVersionError:
                # Another process stored or deleted one of these meanwhile: look at what there is now.
                continue
            return

    def _storing(
        self, kind: str, name: str, document: Mapping[str, Any], ignore: Collection[str] | None
    ) -> StreamAppend:
        """What a document adds to its stream: no event, only the expectation, if it is there already."""
        stream = _stream(kind, name)
        history = list(self._base.log.read_stream(stream))
        version = history[-1].stream_version if history else NO_STREAM
        event = EVENT_TYPES.event(ConfigStored(kind=kind, name=name, document=document))
        # What has the same text is the same, and is not even decoded.
        if history and _says_the_same(history[-1], event):
            return StreamAppend(stream, [], version)
        stored = _stored(history)
        if stored is None:
            return StreamAppend(stream, [event], version)
        if not converter.documents_equal(stored.document, document, ignore=ignore):
            raise self.duplicate_name_error_type(
                _how_they_differ(kind, name, stored.document, document, ignore or ())
            )
        return StreamAppend(stream, [], version)

    def _retrieve(self, kind: str, name: str, *, raw: bool) -> Any:
        stored = _stored(list(self._base.log.read_stream(_stream(kind, _checked_name(kind, name)))))
        if stored is None:
            raise self._missing(kind, name)
        return stored.document if raw else self._config_of(kind, stored.document)

    def _document_of(self, config: Any) -> Any:
        """What is stored of a config."""
        return converter.unstructure(config)

    def _config_of(self, kind: str, document: Any) -> Any:  # noqa: ARG002 - a document may not name its type
        """The config that a document of this kind was made of."""
        return converter.structure(document)

    def _names(self, kind: str, part_names: Mapping[str, Collection[str]] | None = None) -> list[str]:
        conditions: list[str] = ["kind = ?"]
        parameters: list[str | list[str]] = [kind]
        for part, names in (part_names or {}).items():
            # The part is a word of our own; the names come from people and are parameters.
            conditions.append(
                f"json_extract_string(document, '$.{part}.name') IN (SELECT unnest(?::VARCHAR[]))"
            )
            parameters.append(list(names))
        sql = f"SELECT name FROM configs WHERE {' AND '.join(conditions)} ORDER BY name"  # noqa: S608
        return [name for (name,) in self._base.query(sql, parameters).fetchall()]

    def _missing(self, kind: str, name: str) -> ConfigMissingError:
        names = self._names(kind)
        close = difflib.get_close_matches(name, names, n=3)
        if close:
            hint = f"did you mean {' or '.join(map(repr, close))}?"
        elif names:
            hint = f"retrieve_{_singular(kind)}_config_names() lists the {len(names)} that there are"
        else:
            hint = "none is stored"
        return ConfigMissingError(f"no {_singular(kind)} config is named {name!r} in {self._place}; {hint}")

    def _kind(self, database: Any) -> str:
        """The kind that one of the store's places, or a word, means.

        Raises:
            ValueError: It is none of this store.
        """
        for kind in KINDS:
            if self._is_place(database, kind):
                return kind
        raise ValueError(
            f"{database} is no place of this config store; give one of its own, e.g. store.tasks, "
            f"or a kind: {', '.join(KINDS)}"
        )

    @abstractmethod
    def _is_place(self, database: Any, kind: str) -> bool:
        """Whether this is what the store calls the place of a kind, or the kind as text."""


class FileConfigStore(LogConfigStore):
    """The config store of a base directory.

    Making one is cheap: all stores of a base share one open log.

    Args:
        path: ``<base>/configs``, or any other directory, which is then a base of its own.
        read_only: Open the base without writing to it, not even a lock.
        as_of: Look at the store as it was at this position or time, read-only.

    Attributes:
        path: The absolute path. With ``users``, ``runs``, ``tasks`` and so on below it these are
            names that DaCapo knows and that ``delete_config`` takes. The configs lie in the log.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, read_only: bool = False, as_of: Moment | None = None
    ) -> None:
        self.path: UPath = absolute_path(path, "configs")
        base = base_of_store(path, self.path, "configs")
        self._base = Base.at(base, read_only=read_only, as_of=as_of)
        self._place = str(self.path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @property
    def users(self) -> UPath:
        """What DaCapo calls the place of users; it stores none."""
        return self.path / "users"

    @property
    def runs(self) -> UPath:
        """What DaCapo calls the place of the run configs."""
        return self.path / "runs"

    @property
    def tasks(self) -> UPath:
        """What DaCapo calls the place of the task configs."""
        return self.path / "tasks"

    @property
    def datasplits(self) -> UPath:
        """What DaCapo calls the place of the datasplit configs."""
        return self.path / "datasplits"

    @property
    def datasets(self) -> UPath:
        """What DaCapo calls the place of the dataset configs."""
        return self.path / "datasets"

    @property
    def arrays(self) -> UPath:
        """What DaCapo calls the place of the array configs."""
        return self.path / "arrays"

    @property
    def architectures(self) -> UPath:
        """What DaCapo calls the place of the architecture configs."""
        return self.path / "architectures"

    @property
    def trainers(self) -> UPath:
        """What DaCapo calls the place of the trainer configs."""
        return self.path / "trainers"

    def _is_place(self, database: Any, kind: str) -> bool:
        return str(database) in (kind, str(self.path / kind))


def _says_the_same(recorded: RecordedEvent, event: Event) -> bool:
    return (recorded.type, recorded.schema_version, recorded.data_json) == (
        event.type,
        event.schema_version,
        event.data.text.decode(),
    )


def _stored(history: Sequence[RecordedEvent]) -> ConfigStored | None:
    """What a stream says is stored now: its last event, unless that is a deletion."""
    fact = EVENT_TYPES.decode(history[-1]) if history else None
    return fact if isinstance(fact, ConfigStored) else None


def _documents(kind: str, document: Any) -> dict[tuple[str, str], Mapping[str, Any]]:
    """What is stored under which kind and name: the config, and in front of a run its named parts."""
    if not isinstance(document, Mapping):
        raise TypeError(f"{_called(kind)} is an object with fields or a mapping, not {document!r}")
    name = _checked_name(kind, document.get("name"))
    documents = {}
    if kind == "runs":
        validate_run_name(name)
        parts = {part_kind: document.get(field) for field, part_kind in PARTS_OF_A_RUN.items()}
        documents = {(part_kind, part["name"]): part for part_kind, part in parts.items() if _is_named(part)}
    return documents | {(kind, name): document}


def _is_named(part: Any) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(part, Mapping) and isinstance(part.get("name"), str) and part["name"] != ""


def _checked_name(kind: str, name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError(f"{_called(kind)} has a 'name', text that is not empty; this one has {name!r}")
    return str(name)


def _called(kind: str) -> str:
    return f"{'an' if kind.startswith('a') else 'a'} {_singular(kind)} config"


def _singular(kind: str) -> str:
    return kind.removesuffix("s")


def _stream(kind: str, name: str) -> str:
    return f"config/{kind}/{name}"


def _how_they_differ(
    kind: str, name: str, stored: Mapping[str, Any], given: Mapping[str, Any], ignore: Collection[str]
) -> str:
    relevant = [{key: doc[key] for key in doc if key not in ignore} for doc in (stored, given)]
    told = list(itertools.islice(map(_told, differences(*relevant)), _DIFFERENCES_SHOWN + 1))
    if len(told) > _DIFFERENCES_SHOWN:
        told[-1] = "and more"
    return (
        f"{_called(kind)} named {name!r} is stored with other content, and nothing was changed: "
        f"{'; '.join(told)}. Choose another name, or delete the stored config first."
    )


def _told(difference: Difference) -> str:
    if difference.after is ABSENT:
        return f"{difference.place} is stored and not given"
    if difference.before is ABSENT:
        return f"{difference.place} is given and not stored"
    return f"{difference.place} is {shown(difference.before)} and was given as {shown(difference.after)}"
