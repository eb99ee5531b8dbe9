"""Where and how to store: ``dacapo.yaml`` and what a program says itself.

Owns which file is read and what its keys mean. Nothing is remembered: options are read anew each
time they are asked for, and neither the environment nor a file is ever changed. What a ``type``
stands for is left to ``create_store``; paths become absolute only when a store is made, so that a
relative one follows the working directory, as in DaCapo.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

logger = logging.getLogger(__name__)

KNOWN_STORE_TYPES: Final = ("files", "mongo")
"""What ``type`` may say; ``create_store`` refuses anything else."""

OPTIONS_FILE_VARIABLE: Final = "DACAPO_OPTIONS_FILE"
"""The environment variable that names the options file."""

_VALUES_MAX: Final = 100_000

# Files and keys that were warned of; options are read again for each store.
_warned: set[tuple[str, frozenset[str]]] = set()


@dataclass(frozen=True)
class Options:
    """Where and how to store; a frozen value, DaCapo's ``DaCapoConfig``.

    Args:
        type: The kind of store, one of ``KNOWN_STORE_TYPES``.
        runs_base_dir: The base directory of all stores; ``~`` is expanded. Or an address, such as
            ``shared:///data/base``; see ``location``.
        compute_context: How DaCapo runs its workers; kept for it, not used here.
        mongo_db_host: The MongoDB server of type ``mongo``: ``host:port``, or a connection string.
        mongo_db_name: The MongoDB database of type ``mongo``.
        extra: What else the options file said, by key.

    Raises:
        ValueError: An option has the wrong type, or ``runs_base_dir`` is an address that
            is not known; the message says what is expected.

    Example:
        >>> Options(runs_base_dir="/data/dacapo").base_path
        PosixPath('/data/dacapo')
    """

    type: str = "files"
    runs_base_dir: Path | str = Path("~/dacapo")
    compute_context: Mapping[str, Any] = field(default_factory=lambda: {"type": "LocalTorch", "config": {}})
    mongo_db_host: str | None = None
    mongo_db_name: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    if TYPE_CHECKING:
        # For type checkers: the base directory may be given as text, and is a Path afterwards.
        def __init__(
            self,
            type: str = "files",  # noqa: A002 - DaCapo's name
            runs_base_dir: str | os.PathLike[str] = ...,
            compute_context: Mapping[str, Any] = ...,
            mongo_db_host: str | None = None,
            mongo_db_name: str | None = None,
            extra: Mapping[str, Any] = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        _expect(isinstance(self.type, str), "type", "text such as 'files'", self.type)
        for name in ("compute_context", "extra"):
            value = getattr(self, name)
            _expect(isinstance(value, Mapping), name, "a mapping", value)
            object.__setattr__(self, name, dict(value))
        for name in ("mongo_db_host", "mongo_db_name"):
            value = getattr(self, name)
            _expect(value is None or isinstance(value, str), name, "text or nothing", value)
        object.__setattr__(self, "runs_base_dir", _base(self.runs_base_dir))

    @property
    def base_path(self) -> Path | str:
        """The base directory as an absolute path, as of the present working directory; or the address.

        Of type ``mongo`` that is the database, with weights and arrays in ``runs_base_dir``, as in DaCapo;
        this may be the address of a bucket, then.

        Raises:
            ValueError: The type is ``mongo``, and host or database are missing.
        """
        directory = self.runs_base_dir
        if self.type == "mongo":
            from dacapo_store.mongo_stores import base_address

            return base_address(self.mongo_db_host or "", self.mongo_db_name or "", directory)
        return directory.absolute() if isinstance(directory, Path) else directory

    @classmethod
    def instance(cls, **overrides: Any) -> Self:
        """Read the options file, if there is one, and put these options above it.

        Args:
            overrides: Options by name.

        Raises:
            TypeError: An override is no option; the message lists them.
            ValueError: An option in the file or an override is wrong, or the file is not YAML.
            FileNotFoundError: ``DACAPO_OPTIONS_FILE`` names a file that is not there.
        """
        unknown = overrides.keys() - _names()
        if unknown:
            raise TypeError(f"no such option: {', '.join(sorted(unknown))}; there are {', '.join(_names())}")
        path = cls.config_file()
        options = {} if path is None else _read(path)
        return cls._checked({**options, **overrides}, path)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Read one options file.

        A key that is no option is kept in ``extra``; a warning names it once.

        Raises:
            FileNotFoundError: The file is not there.
            ValueError: The file is not YAML, holds no mapping, or an option in it is wrong; the
                message names the file and what is expected.
        """
        path = Path(path).expanduser()
        return cls._checked(_read(path), path)

    @classmethod
    def config_file(cls) -> Path | None:
        """Find the options file: the first of these that exists.

        1. what ``$DACAPO_OPTIONS_FILE`` names,
        2. ``./dacapo.yaml``,
        3. ``~/dacapo.yaml``,
        4. ``~/.config/dacapo/dacapo.yaml``,
        5. ``dacapo.yaml`` beside DaCapo's package, if DaCapo is imported.

        Returns:
            The file, or None: then all options have their defaults.

        Raises:
            FileNotFoundError: ``$DACAPO_OPTIONS_FILE`` names a file that is not there. DaCapo goes
                on to the next place; a trainer should not write to another base by mistake.
                Correct the variable, or unset it.
        """
        named = os.environ.get(OPTIONS_FILE_VARIABLE)
        if named:
            path = _expanded(named)
            if not path.is_file():
                raise FileNotFoundError(
                    f"${OPTIONS_FILE_VARIABLE} names {str(path)!r}, which is not a file: "
                    "correct the variable or unset it"
                )
            return path
        places = [
            Path("dacapo.yaml"),
            _expanded("~/dacapo.yaml"),
            _expanded("~/.config/dacapo/dacapo.yaml"),
            *_beside_dacapo(),
        ]
        return next((path for path in places if path.is_file()), None)

    @classmethod
    def _checked(cls, options: Mapping[str, Any], path: Path | None) -> Self:
        """Make options of a file's content and overrides; ``path`` is what an error names."""
        known = {name: value for name, value in options.items() if name in _names()}
        extra = {str(name): value for name, value in options.items() if name not in _names()}
        if extra and (str(path), frozenset(extra)) not in _warned:
            _warned.add((str(path), frozenset(extra)))
            logger.warning("%s: not used here: %s", path, ", ".join(sorted(extra)))
        try:
            return cls(**known, extra=extra)
        except ValueError as error:
            raise ValueError(f"{path}: {error}" if path is not None else str(error)) from error


def _names() -> list[str]:
    """The options that a file or a program may set."""
    return [each.name for each in fields(Options) if each.name != "extra"]


def _expect(ok: bool, name: str, expected: str, value: Any) -> None:  # noqa: FBT001  # the outcome of a check
    if not ok:
        raise ValueError(f"option {name} must be {expected}, not {value!r}")


def _base(value: Any) -> Path | str:
    text = str(value) if isinstance(value, str | os.PathLike) or hasattr(value, "protocol") else ""
    _expect(bool(text), "runs_base_dir", "a path", value)
    if "://" not in text:
        return _expanded(text)
    from eventstore import Address  # only those who give an address wait for it

    try:
        Address.parse(text)
    except ValueError as error:
        raise ValueError(f"option runs_base_dir: {error}") from error
    return text


def _expanded(text: str) -> Path:
    # Not Path.expanduser(), which raises where there is no home.
    return Path(os.path.expanduser(text))  # noqa: PTH111


def _beside_dacapo() -> list[Path]:
    """DaCapo's own folder; it is not imported only to look there."""
    place = getattr(sys.modules.get("dacapo"), "__file__", None)
    return [Path(place).parent.parent / "dacapo.yaml"] if place else []


def _read(path: Path) -> dict[Any, Any]:
    """What the file says; an empty file says nothing."""
    import yaml  # only those who read a file wait for it

    try:
        loader = yaml.SafeLoader(path.read_bytes())
        node = loader.get_single_node()
        _refuse_bombs(node)
        content = None if node is None else loader.construct_document(node)
    # A date that there is not is a ValueError; what is nested without end, a RecursionError.
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(  # noqa: TRY004  # the file is wrong, no argument is
            f"{path}: expected a mapping of options such as 'runs_base_dir: ~/dacapo', "
            f"not {type(content).__name__}"
        )
    return content


def _refuse_bombs(node: Any) -> None:
    """A few lines of aliases of aliases stand for more values than there is memory."""
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if not isinstance(node.value, list):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = _VALUES_MAX  # while it is being counted: a node within itself has no end
            children = [
                child for item in node.value for child in (item if isinstance(item, tuple) else (item,))
            ]
            sizes[id(node)] = 1 + sum(map(size, children))
        return sizes[id(node)]

    if node is not None and size(node) >= _VALUES_MAX:
        raise ValueError(f"it stands for {_VALUES_MAX:,} values or more: mind its aliases")
