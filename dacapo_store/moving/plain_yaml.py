"""Config documents in YAML, as DaCapo's file store writes and reads them.

Reading makes plain values and nothing else: what PyYAML's ``full_load`` makes of DaCapo's own
documents (tuples, complex numbers), and NumPy's scalars, ordered dicts and paths, which DaCapo's
store writes but cannot read again. Writing is ``yaml.dump``, proven by reading it again.
"""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Mapping
from typing import Any, Final

import yaml

from dacapo_store.converter import TYPE_KEY, VALUE_KEY, documents_equal
from dacapo_store.moving.found import UnreadableError
from dacapo_store.moving.plain_values import STAND_INS, PlainDtype

_VALUES_MAX: Final = 1_000_000
_PYTHON: Final = "tag:yaml.org,2002:python/"
_APPLY: Final = f"{_PYTHON}object/apply:"
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_Full: Any = getattr(yaml, "CFullLoader", yaml.FullLoader)


class _Loader(_Base):  # type: ignore[misc]
    """A safe loader that knows Python's plain types."""


def load(data: bytes) -> Any:
    """The document in a file.

    Raises:
        UnreadableError: It is no YAML, holds an object of a class, or stands for more values than a
            config can have.
    """
    try:
        loader = _Loader(data)
        node = loader.get_single_node()
        _refuse_bombs(node)
        return None if node is None else loader.construct_document(node)
    except yaml.constructor.ConstructorError as error:
        raise UnreadableError(_in_one_line(error.problem or str(error))) from error
    except (yaml.YAMLError, ValueError, ArithmeticError, RecursionError, TypeError) as error:
        raise UnreadableError(f"it is no YAML: {_in_one_line(str(error))}") from error


def dump(document: Any) -> str:
    """The text that DaCapo's store would write, in which it finds an equal document.

    Raises:
        UnreadableError: The document holds what DaCapo's store cannot read again.
    """
    try:
        text: str = yaml.dump(document)
        again = yaml.load(text, Loader=_Full)  # noqa: S506 - as full_load, of what was written just now
    except yaml.YAMLError as error:
        raise UnreadableError(
            f"it holds what DaCapo's store cannot read: {_in_one_line(str(error))}"
        ) from error
    if not documents_equal(document, again):
        raise UnreadableError("YAML does not keep what it holds")
    return text


def as_dacapo_has_it(document: Any) -> Any:
    """A document without the types that our converter adds and DaCapo's does without.

    DaCapo stores a path as its text and a tuple with a class of its own as a tuple.
    """
    if isinstance(document, pathlib.PurePath):
        return str(document)
    if isinstance(document, list | tuple):
        return type(document)(map(as_dacapo_has_it, document))
    if not isinstance(document, Mapping):
        return document
    if document.get(TYPE_KEY) == "UPath" and isinstance(document.get("path"), str):
        return document["path"]
    if document.keys() == {TYPE_KEY, VALUE_KEY} and isinstance(document[VALUE_KEY], tuple | str):
        return as_dacapo_has_it(document[VALUE_KEY])
    return {key: as_dacapo_has_it(value) for key, value in document.items()}


def _refuse_bombs(node: Any) -> None:
    """A few lines of aliases of aliases stand for more values than there is memory."""
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if not isinstance(node.value, list):
            return 1
        if id(node) not in sizes:
            sizes[id(node)] = _VALUES_MAX  # while it is being counted: a node within itself has no end
            children = [child for item in node.value for child in (item if type(item) is tuple else (item,))]
            sizes[id(node)] = 1 + sum(map(size, children))
        return sizes[id(node)]

    if node is not None and size(node) >= _VALUES_MAX:
        raise UnreadableError(f"it stands for {_VALUES_MAX:,} values or more: mind its aliases")


def _in_one_line(text: str) -> str:
    return " ".join(text.split())


def _tuple(loader: Any, node: Any) -> Any:
    return tuple(loader.construct_sequence(node, deep=True))


def _path(loader: Any, node: Any) -> Any:
    return str(pathlib.Path(*map(str, loader.construct_sequence(node, deep=True))))


def _ordered(loader: Any, node: Any) -> Any:
    (pairs,) = loader.construct_sequence(node, deep=True)
    return dict(collections.OrderedDict(pairs))


def _numpy_scalar(loader: Any, node: Any) -> Any:
    return STAND_INS["numpy.core.multiarray.scalar"](*loader.construct_sequence(node, deep=True))


def _numpy_dtype(loader: Any, node: Any) -> Any:
    call = loader.construct_mapping(node, deep=True)
    dtype: PlainDtype = STAND_INS["numpy.dtype"](*call.get("args", ()))
    if "state" in call:
        dtype.__setstate__(call["state"])
    return dtype


def _unknown(_: Any, suffix: str, node: Any) -> Any:
    raise yaml.constructor.ConstructorError(
        None, None, f"it holds a Python object ({suffix}), which is not made of a file", node.start_mark
    )


def _teach(loader: Any) -> None:
    add = loader.add_constructor
    add(f"{_PYTHON}tuple", _tuple)
    add(f"{_PYTHON}complex", lambda loader, node: complex(loader.construct_scalar(node)))
    for name, standard in (
        ("none", "null"),
        ("bool", "bool"),
        ("str", "str"),
        ("unicode", "str"),
        ("int", "int"),
        ("long", "int"),
        ("float", "float"),
        ("bytes", "binary"),
        ("list", "seq"),
        ("dict", "map"),
    ):
        add(_PYTHON + name, loader.yaml_constructors[f"tag:yaml.org,2002:{standard}"])
    for module in ("pathlib", "pathlib._local"):
        for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"):
            add(f"{_APPLY}{module}.{name}", _path)
    add(f"{_APPLY}collections.OrderedDict", _ordered)
    for name in STAND_INS:
        if name.endswith(".scalar"):
            add(_APPLY + name, _numpy_scalar)
        if name.endswith(".dtype"):
            add(_APPLY + name, _numpy_dtype)
    loader.add_multi_constructor(_PYTHON, _unknown)


_teach(_Loader)
