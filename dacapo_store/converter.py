"""Typed objects to documents and back: what comes back equals what went in.

Owns what a config looks like in the log. A *document* is made of what ``eventstore.tagged_json``
carries: None, bools, numbers, text, bytes, dates, paths, lists, tuples, sets and mappings. Objects
with fields (attrs, dataclasses, msgspec structs, named tuples), enum members and types with hooks
become *typed documents*, mappings whose ``__type__`` says what to make of them:

- ``{"__type__": name, field: value, ...}`` for objects with fields;
- ``{"__type__": name, "__value__": value}`` for whatever is not a mapping of its own fields.

Rules:

- A class is known by its name (``register(cls, name=...)`` gives another). It becomes known when it
  is registered, or when one of its instances is unstructured: within one process nothing needs to
  be registered. A process that only reads registers the classes it expects. Nothing is ever
  imported because a document names it: documents are data, and a name in one runs no code.
- Objects are made by their constructor, with the fields as arguments; fields that it does not
  take (``init=False``) are set afterwards. Private attributes of attrs go by their alias.
- Subclasses of int, float, complex, str, bytes, list, set and mappings count as the plain value
  that they equal, and numpy scalars as Python numbers; a class that is registered stays what it is.
  A tuple with a class of its own (a coordinate) always does.
- A mapping that has a ``__type__`` is taken for a typed document that somebody made before.
- A universal path keeps its storage options, for they are part of what it equals. The log forgets
  nothing: credentials belong into the environment.

Stores use the functions of this module (``unstructure``, ``structure``), which go to ``converter``
unless ``use_converter`` has put another one in its place.
"""

from __future__ import annotations

import dataclasses
import decimal
import enum
import operator
import pathlib
import sys
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime, time, timedelta
from functools import cache, partial
from typing import Any, Final, Protocol, TypeVar, overload

import msgspec

from dacapo_store.errors import DaCapoStoreError

_T = TypeVar("_T")
_AnyType = TypeVar("_AnyType", bound=type)

TYPE_KEY: Final = "__type__"
VALUE_KEY: Final = "__value__"
_OWN_KEYS: Final = frozenset({TYPE_KEY, VALUE_KEY})

Hook = Callable[[Any], Any]


class ConversionError(DaCapoStoreError, TypeError, ValueError):
    """An object has no document, or a document no object: mend it, or register hooks for its type.

    Attributes:
        path: Where in the document, e.g. ``$.trainer.augments[2]``.
    """

    def __init__(self, message: str, *, path: str = "$") -> None:
        super().__init__(message)
        self.path = path


class UnknownTypeError(ConversionError, LookupError):
    """A document names a type that this process does not know: ``register`` the class first.

    The document itself can be had without its types: ``raw=True`` in the config stores, or SQL.

    Attributes:
        path: Where in the document.
        type_name: The name that is not known.
    """

    def __init__(self, message: str, *, path: str = "$", type_name: str = "") -> None:
        super().__init__(message, path=path)
        self.type_name = type_name


class TypeNameError(DaCapoStoreError, ValueError):
    """Two classes would go by one name: register one of them with another ``name``."""


class DocumentConverter(Protocol):
    """What a store needs of a converter; DaCapo's own fits."""

    def unstructure(self, obj: Any, /) -> Any:
        """Give the object's document."""
        ...

    def structure(self, document: Any, cls: Any, /) -> Any:
        """Make an object of a document, an instance of ``cls`` if that is not None."""
        ...


class Converter:
    """Turns typed objects into documents and back; see the module for the rules.

    Example:
        >>> @dataclasses.dataclass
        ... class Trainer:
        ...     name: str
        ...     betas: tuple[float, float]
        >>> Converter().unstructure(Trainer("adam", (0.9, 0.999)))
        {'__type__': 'Trainer', 'name': 'adam', 'betas': (0.9, 0.999)}
    """

    def __init__(self) -> None:
        self._by_class: dict[type, _Kind] = {}
        self._by_name: dict[str, _Kind] = {}
        for cls, unstructure, structure in _BUILT_IN:
            self.register(cls, unstructure=unstructure, structure=structure)
        self._by_name |= _NAMED_ONLY

    @overload
    def register(
        self,
        cls: _AnyType,
        *,
        name: str | None = None,
        unstructure: Hook | None = None,
        structure: Hook | None = None,
    ) -> _AnyType: ...
    @overload
    def register(
        self,
        cls: None = None,
        *,
        name: str | None = None,
        unstructure: Hook | None = None,
        structure: Hook | None = None,
    ) -> Callable[[_AnyType], _AnyType]: ...
    def register(
        self,
        cls: Any = None,
        *,
        name: str | None = None,
        unstructure: Hook | None = None,
        structure: Hook | None = None,
    ) -> Any:
        """Make a class known, so that its documents can be structured; also as a decorator.

        Registering a class again replaces its entry, and so does registering a class of the same
        module and qualified name (a notebook cell that ran twice, a reloaded module). Subclasses
        are registered on their own.

        Args:
            cls: The class; None gives a decorator.
            name: What ``__type__`` says; None is the class's own name.
            unstructure: Gives an instance's content: anything that has a document, best a
                mapping. None takes the fields.
            structure: Makes an instance of such content. None calls the class, with a mapping as
                its keyword arguments, with anything else as its only one.

        Returns:
            The class, or a decorator for one.

        Raises:
            TypeNameError: Another class goes by this name: give one of the two another ``name``.
            TypeError: The class has no fields that one could take (pass hooks), or documents carry
                it as it is, like str and dict.
        """
        if cls is None:
            return lambda decorated: self.register(
                decorated, name=name, unstructure=unstructure, structure=structure
            )
        if not isinstance(cls, type):
            raise TypeError(f"register() takes a class, not {cls!r}")
        if cls in _PLAIN or cls in _CONTAINERS:
            raise TypeError(
                f"{_full_name(cls)} is carried as it is; only a type of its own can be registered"
            )
        if unstructure is None and not _is_convertible(cls):
            raise TypeError(
                f"{_full_name(cls)} has no fields to take (it is no attrs class, dataclass, msgspec struct, "
                "named tuple or enum): pass hooks, register(cls, unstructure=..., structure=...)"
            )
        self._add(_Kind(cls, name or cls.__name__, unstructure, structure))
        return cls

    def unstructure(self, obj: Any, /) -> Any:
        """Give an object's document.

        Classes that are met and not known yet are registered by their name.

        Args:
            obj: A config: an object with fields, a mapping, or anything that either may hold.

        Raises:
            ConversionError: The object holds something that has no document, or itself; the
                message names the place and says what to do. Or it nests too deeply.
            TypeNameError: It holds instances of two classes of one name.
        """
        try:
            return self._unstructure(obj, "$", ())
        except RecursionError:
            raise ConversionError("the object nests too deeply for a document: make it flatter") from None

    @overload
    def structure(self, document: Any, cls: type[_T], /) -> _T: ...
    @overload
    def structure(self, document: Any, cls: None = None, /) -> Any: ...
    def structure(self, document: Any, cls: type[Any] | None = None, /) -> Any:
        """Make the object of a document.

        Args:
            document: What ``unstructure`` gave, in whatever process.
            cls: The class that the object must have. It also serves a document that names no type.

        Raises:
            UnknownTypeError: The document names a type that is not known here: register it.
            ConversionError: A constructor refused its fields (a class changed since, a validator),
                or the object is not a ``cls``. Register the class with a ``structure`` hook.
        """
        if cls is not None:
            kind = self._kind_of(cls) if _has_fields(cls) or cls in self._by_class else None
            if kind is not None and isinstance(document, Mapping) and TYPE_KEY not in document:
                return self._make(kind, self._structure(dict(document), "$"), "$")
        made = self._structure(document, "$")
        if cls is not None and not isinstance(made, cls):
            raise ConversionError(f"expected a {cls.__name__}; the document is a {type(made).__name__}")
        return made

    def _add(self, kind: _Kind) -> None:
        other = self._by_name.get(kind.name)
        if other is not None and (other.name in _NAMED_ONLY or _full_name(other.cls) != _full_name(kind.cls)):
            owner = "one of this module's own" if other.name in _NAMED_ONLY else _full_name(other.cls)
            raise TypeNameError(
                f"two types would be called {kind.name!r}: {owner} and {_full_name(kind.cls)}; "
                "register one of them with another name: register(cls, name=...)"
            )
        before = self._by_class.get(kind.cls)
        if before is not None and before.name != kind.name:
            # What was stored under the earlier name can still be read.
            self._by_name[before.name] = dataclasses.replace(kind, name=before.name)
        self._by_name[kind.name] = self._by_class[kind.cls] = kind

    def _kind_of(self, cls: type) -> _Kind:
        """The class's entry; a class that is not known becomes so."""
        known = self._by_class.get(cls)
        if known is None:
            known = self._reloaded(cls) or _Kind(cls, cls.__name__, None, None)
            self._add(known)
        return known

    def _reloaded(self, cls: type) -> _Kind | None:
        """The entry that a class takes over: that of the same module and qualified name."""
        same = (kind for kind in self._by_class.values() if _full_name(kind.cls) == _full_name(cls))
        kind = next(same, None)
        if kind is None:
            return None
        # Each call of a function makes its classes anew, and what it makes may be up to its arguments.
        if "<locals>" in cls.__qualname__ and _parts(kind.cls) != _parts(cls):
            raise TypeNameError(
                f"{_full_name(cls)} was made more than once, with different fields; "
                "register each with a name of its own: register(cls, name=...)"
            )
        return dataclasses.replace(kind, cls=cls)

    # --- objects to documents ---

    def _unstructure(self, obj: Any, path: str, above: tuple[int, ...]) -> Any:
        cls = type(obj)
        if cls in _PLAIN:
            return obj
        if id(obj) in above:
            raise ConversionError(f"{path}: the object holds itself; a document cannot", path=path)
        above = (*above, id(obj))
        if cls is list or cls is tuple:
            return cls(self._items(obj, path, above))
        if cls in self._by_class:
            return self._typed(self._by_class[cls], obj, path, above)
        if isinstance(obj, enum.Enum) or _has_fields(cls):
            return self._typed(self._kind_of_met(cls, path), obj, path, above)
        return self._rare(obj, path, above)

    def _rare(self, obj: Any, path: str, above: tuple[int, ...]) -> Any:
        """Containers; subclasses, which count as their base; what other packages bring along."""
        containers: tuple[tuple[Any, Callable[..., Any]], ...] = (
            (Mapping, self._mapping),
            (list, self._items),
            (tuple, self._tuple),
            ((set, frozenset), self._set),
        )
        for kinds, convert in containers:
            if isinstance(obj, kinds):
                return convert(obj, path, above)
        for base in _SCALARS:
            if isinstance(obj, base):
                return _base_value(obj, base)
        document = _foreign(obj)
        if document is None:
            raise ConversionError(f"{path}: {_refusal(obj)}", path=path)
        return self._unstructure(document, path, above)

    def _typed(self, kind: _Kind, obj: Any, path: str, above: tuple[int, ...]) -> dict[str, Any]:
        content = kind.content(obj)
        if type(content) is kind.cls:
            raise ConversionError(
                f"{path}: the unstructure hook of {kind.name} gives a {kind.name} again; "
                "it must give its content, e.g. a mapping",
                path=path,
            )
        if type(content) is dict and kind.may_inline(content):
            return {TYPE_KEY: kind.name} | {
                key: item if type(item) in _PLAIN else self._unstructure(item, _key_path(path, key), above)
                for key, item in content.items()
            }
        return {TYPE_KEY: kind.name, VALUE_KEY: self._unstructure(content, path, above)}

    def _mapping(self, obj: Mapping[Any, Any], path: str, above: tuple[int, ...]) -> dict[Any, Any]:
        if TYPE_KEY in obj and not isinstance(obj[TYPE_KEY], str):
            raise ConversionError(
                f"{path}: {TYPE_KEY!r} names a type in a document and must be text, not {obj[TYPE_KEY]!r}; "
                "use another key",
                path=path,
            )
        pairs = [
            (
                self._unstructure(key, f"{path}{{key}}", above),
                self._unstructure(item, _key_path(path, key), above),
            )
            for key, item in obj.items()
        ]
        if any(_is_typed(key) for key, _ in pairs):
            return {TYPE_KEY: "dict", VALUE_KEY: [list(pair) for pair in pairs]}
        return dict(pairs)

    def _items(self, obj: Collection[Any], path: str, above: tuple[int, ...]) -> list[Any]:
        if _PLAIN.issuperset(map(type, obj)):
            return list(obj)
        return [
            item if type(item) in _PLAIN else self._unstructure(item, f"{path}[{index}]", above)
            for index, item in enumerate(obj)
        ]

    def _tuple(self, obj: tuple[Any, ...], path: str, above: tuple[int, ...]) -> Any:
        return self._typed(self._kind_of_tuple(obj, path), obj, path, above)

    def _set(self, obj: AbstractSet[Any], path: str, above: tuple[int, ...]) -> Any:
        items = [self._unstructure(item, f"{path}{{item}}", above) for item in obj]
        base: type[Any] = set if isinstance(obj, set) else frozenset
        if not any(map(_is_typed, items)):
            return base(items)
        # A set has no order of its own; its document has one, so that equal sets have equal ones.
        return {TYPE_KEY: base.__name__, VALUE_KEY: sorted(items, key=repr)}

    def _kind_of_met(self, cls: type, path: str) -> _Kind:
        try:
            return self._kind_of(cls)
        except TypeNameError as error:
            raise TypeNameError(f"{path}: {error}") from error

    def _kind_of_tuple(self, obj: tuple[Any, ...], path: str) -> _Kind:
        """A tuple with a class of its own (a coordinate, a size) comes back as one, if it can."""
        cls = type(obj)
        try:
            again = cls(tuple(obj))
        except Exception:  # noqa: BLE001  # whatever a foreign constructor raises: it cannot be called so
            again = None
        if type(again) is not cls or again != obj:
            raise ConversionError(f"{path}: {_refusal(obj)}", path=path)
        return self._kind_of_met(cls, path)

    # --- documents to objects ---

    def _structure(self, document: Any, path: str) -> Any:
        cls = type(document)
        if cls is list or cls is tuple:
            return cls(
                [
                    item if type(item) in _PLAIN else self._structure(item, f"{path}[{index}]")
                    for index, item in enumerate(document)
                ]
            )
        if cls is not dict:
            return document
        name = document.get(TYPE_KEY)
        content = {
            key: item if type(item) in _PLAIN else self._structure(item, _key_path(path, key))
            for key, item in document.items()
            if key != TYPE_KEY
        }
        if TYPE_KEY not in document:
            return content
        kind = self._by_name.get(name) if isinstance(name, str) else None
        if kind is None:
            raise UnknownTypeError(
                f"{path}: the document names a type {name!r} that is not known here; register its class "
                "(dacapo_store.converter.register) before, or read the document alone (raw=True, SQL)",
                path=path,
                type_name=str(name),
            )
        return self._make(kind, content[VALUE_KEY] if set(content) == {VALUE_KEY} else content, path)

    def _make(self, kind: _Kind, content: Any, path: str) -> Any:
        try:
            return kind.make(content)
        except Exception as error:
            raise ConversionError(
                f"{path}: {_full_name(kind.cls)} cannot be made of its document: {error}; if the class has "
                "changed since, register it with a structure hook, or read the document alone (raw=True)",
                path=path,
            ) from error


def unstructure(obj: Any) -> Any:
    """Give an object's document, by the converter in use; see ``Converter.unstructure``."""
    return _in_use.unstructure(obj)


def structure(document: Any, cls: type[Any] | None = None) -> Any:
    """Make the object of a document, by the converter in use; see ``Converter.structure``."""
    return _in_use.structure(document, cls)


def use_converter(other: DocumentConverter) -> DocumentConverter:
    """Put another converter in place, for all stores of this process.

    Returns:
        The one used so far, to be put back.
    """
    global _in_use
    before, _in_use = _in_use, other
    return before


def documents_equal(a: Any, b: Any, ignore: Collection[str] | None = ()) -> bool:
    """Tell whether two documents say the same.

    NaN equals itself; the order of a mapping's keys does not matter; a list is not a tuple, and
    True not 1. Numbers compare by value: 1 equals 1.0.

    Args:
        a: A document.
        b: Another.
        ignore: Keys of the outermost mapping to leave out on both sides.
    """
    if ignore and isinstance(a, Mapping) and isinstance(b, Mapping):
        a = {key: value for key, value in a.items() if key not in ignore}
        b = {key: value for key, value in b.items() if key not in ignore}
    return _equal(a, b)


def _equal(a: Any, b: Any) -> bool:
    if type(a) is type(b) and type(a) in _SIMPLE:
        return bool(a == b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(value, b[key]) for key, value in a.items())
    for kind in (list, tuple, set, frozenset):
        if isinstance(a, kind) or isinstance(b, kind):
            return isinstance(a, kind) and isinstance(b, kind) and _equal_items(a, b)
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, complex) and isinstance(b, complex):
        return _equal(a.real, b.real) and _equal(a.imag, b.imag)
    return bool(a == b) or (isinstance(a, float) and isinstance(b, float) and a != a and b != b)  # noqa: PLR0124  # NaN


def _equal_items(a: Collection[Any], b: Collection[Any]) -> bool:
    if isinstance(a, AbstractSet) and a != b:
        # By way of an order for the sake of NaN, which is in no other set than its own.
        a, b = sorted(a, key=repr), sorted(b, key=repr)
    return len(a) == len(b) and (isinstance(a, AbstractSet) or all(map(_equal, a, b)))


# --- classes ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A class under its name, with what takes its instances apart and makes them."""

    cls: type
    name: str
    unstructure: Hook | None
    structure: Hook | None

    def content(self, obj: Any) -> Any:
        """What an instance holds."""
        return (self.unstructure or _apart(self.cls))(obj)

    def may_inline(self, content: dict[Any, Any]) -> bool:
        """Whether the content's keys can stand beside ``__type__``."""
        return content.keys().isdisjoint(_OWN_KEYS) and all(type(key) is str for key in content)

    def make(self, content: Any) -> Any:
        """The instance that holds this."""
        if self.structure is not None:
            return self.structure(content)
        if self.unstructure is None and _has_fields(self.cls):
            return _make_from_fields(self.cls, content)
        if issubclass(self.cls, enum.Enum) and not issubclass(self.cls, enum.Flag):
            return self.cls[content]
        make: Any = self.cls
        return make(**content) if type(content) is dict and not issubclass(make, Mapping) else make(content)


def _has_fields(cls: type) -> bool:
    return (
        hasattr(cls, "__attrs_attrs__")
        or dataclasses.is_dataclass(cls)
        or hasattr(cls, "__struct_fields__")
        or (issubclass(cls, tuple) and hasattr(cls, "_fields"))
    )


def _is_convertible(cls: type) -> bool:
    """Whether instances can be taken apart without a hook."""
    return _has_fields(cls) or issubclass(cls, (enum.Enum, *_BASES))


@cache
def _apart(cls: Any) -> Hook:
    """What takes the instances of a class apart that is convertible."""
    if issubclass(cls, enum.Flag):
        return operator.attrgetter("value")  # several flags together have no name of their own
    if issubclass(cls, enum.Enum):
        return operator.attrgetter("name")
    if _has_fields(cls):
        return partial(_values_of, tuple(name for name, _ in _fields(cls)))
    base = next(base for base in _BASES if issubclass(cls, base))
    return lambda obj: _base_value(obj, base)


def _values_of(names: Sequence[str], obj: Any) -> dict[str, Any]:
    # An attribute that was never set (init=False, no default) stays so, and so does msgspec's UNSET.
    return {
        name: value for name in names if (value := getattr(obj, name, msgspec.UNSET)) is not msgspec.UNSET
    }


def _parts(cls: Any) -> list[str]:
    """The names of the fields or of the enum's members."""
    return list(cls.__members__) if issubclass(cls, enum.Enum) else [name for name, _ in _fields(cls)]


@cache
def _fields(cls: type[Any]) -> list[tuple[str, str | None]]:
    """The fields as (attribute, argument of the constructor); None where it takes none."""
    if hasattr(cls, "__attrs_attrs__"):
        return [
            (field.name, (getattr(field, "alias", None) or field.name.lstrip("_")) if field.init else None)
            for field in cls.__attrs_attrs__
        ]
    if dataclasses.is_dataclass(cls):
        return [(field.name, field.name if field.init else None) for field in dataclasses.fields(cls)]
    names: tuple[str, ...] = getattr(cls, "__struct_fields__", ()) or getattr(cls, "_fields", ())
    return [(name, name) for name in names]


def _make_from_fields(cls: Any, content: Any) -> Any:
    if not isinstance(content, dict):
        raise TypeError(f"expected its fields, not {type(content).__name__}")
    rest = dict(content)
    arguments: dict[str, Any] = {}
    later: dict[str, Any] = {}
    for name, argument in _fields(cls):
        if name in rest:
            (later if argument is None else arguments)[argument or name] = rest.pop(name)
    made = cls(**arguments, **rest)  # a field that the class has lost is the constructor's to refuse
    for name, value in later.items():
        object.__setattr__(made, name, value)  # frozen classes, too
    return made


def _base_value(obj: Any, base: type) -> Any:
    """A subclass's instance as an exact one of the base that it equals."""
    # The base's own methods, for a subclass may answer otherwise.
    plain: dict[type, Hook] = {str: str.__str__, int: int.__int__, float: float.__float__}
    return plain.get(base, base)(obj)


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _is_typed(document: Any) -> bool:
    """Whether the document is, or has inside, what cannot be a key or a set's item."""
    if isinstance(document, tuple):
        return any(map(_is_typed, document))
    return isinstance(document, dict | list | set)


def _key_path(path: str, key: Any) -> str:
    return f"{path}.{key}" if isinstance(key, str) and key.isidentifier() else f"{path}[{ascii(key)[:80]}]"


def _refusal(obj: Any) -> str:
    """Why an object has no document, and what to do."""
    cls = type(obj)
    shape = getattr(obj, "shape", None)
    # A numpy scalar has shape and tolist(), too, but nothing can be set in it.
    if isinstance(shape, tuple) and hasattr(obj, "tolist") and hasattr(obj, "__setitem__"):
        return (
            f"an array ({_full_name(cls)} of shape {tuple(shape)}) is no config; pass array.tolist(), "
            "or register hooks: dacapo_store.converter.register(cls, unstructure=..., structure=...)"
        )
    what = f"the class {_full_name(obj)}" if isinstance(obj, type) else f"a {_full_name(cls)}"
    return (
        f"{what} cannot be stored in a config; use numbers, text, lists, mappings and objects with fields, "
        "or register hooks: dacapo_store.converter.register(cls, unstructure=..., structure=...)"
    )


# --- types that need no registration ------------------------------------------------------------

_PLAIN: Final = frozenset(
    {
        type(None),
        bool,
        int,
        float,
        complex,
        str,
        bytes,
        datetime,
        date,
        time,
        type(pathlib.Path()),
    }
)

# Those of them whose values are equal when == says so.
_SIMPLE: Final = frozenset({type(None), bool, int, str, bytes})

_CONTAINERS: Final = (dict, list, tuple, set, frozenset)

_SCALARS: Final[tuple[type, ...]] = (str, int, float, complex, bytes)

_BASES: Final[tuple[type, ...]] = (*_SCALARS, *_CONTAINERS)

_BUILT_IN: Final[tuple[tuple[type, Hook, Hook], ...]] = (
    (
        timedelta,
        lambda delta: (delta.days, delta.seconds, delta.microseconds),
        lambda parts: timedelta(*parts),
    ),
    (decimal.Decimal, str, decimal.Decimal),
    (uuid.UUID, str, uuid.UUID),
    (range, lambda numbers: (numbers.start, numbers.stop, numbers.step), lambda parts: range(*parts)),
    (slice, lambda cut: (cut.start, cut.stop, cut.step), lambda parts: slice(*parts)),
    # The kinds of path that are not this system's own; tagged_json carries that one.
    (pathlib.PurePosixPath, str, pathlib.PurePosixPath),
    (pathlib.PureWindowsPath, str, pathlib.PureWindowsPath),
)


def _make_universal_path(content: Any) -> Any:
    from upath import UPath

    return UPath(content["path"], **content.get("options", {}))


def _make_numpy_type(name: str) -> Any:
    import numpy as np

    return np.dtype(name).type


def _make_numpy_dtype(name: str) -> Any:
    import numpy as np

    return np.dtype(name)


_NAMED_ONLY: Final = {
    kind.name: kind
    for kind in (
        _Kind(dict, "dict", None, dict),  # of pairs: a mapping whose keys have types of their own
        _Kind(set, "set", None, set),
        _Kind(frozenset, "frozenset", None, frozenset),
        _Kind(object, "UPath", None, _make_universal_path),
        _Kind(object, "numpy.type", None, _make_numpy_type),
        _Kind(object, "numpy.dtype", None, _make_numpy_dtype),
    )
}


def _foreign(obj: Any) -> Any:
    """The document of a buffer, or of what comes from other packages; None for anything else.

    An object of a package can only be met where that is loaded, so none is imported.
    """
    if isinstance(obj, bytearray | memoryview):
        return bytes(obj)
    upath: Any = sys.modules.get("upath")
    if upath is not None and isinstance(obj, upath.UPath):
        options = dict(obj.storage_options)
        return {TYPE_KEY: "UPath", "path": str(obj)} | ({"options": options} if options else {})
    np: Any = sys.modules.get("numpy")
    return None if np is None else _numpy_document(obj, np)


def _numpy_document(obj: Any, np: Any) -> Any:
    if isinstance(obj, np.generic):
        value = obj.item()
        # A date or a long double has no Python number that it equals.
        return value if type(value) in (bool, int, float, complex) and obj.dtype.kind in "biufc" else None
    if isinstance(obj, type) and issubclass(obj, np.generic):
        return {TYPE_KEY: "numpy.type", VALUE_KEY: np.dtype(obj).name}
    if isinstance(obj, np.dtype) and obj.names is None and not obj.hasobject:
        return {TYPE_KEY: "numpy.dtype", VALUE_KEY: obj.str}
    return None


# --- the converter of this process; it stands last because it takes everything above to make one ---

converter: Final = Converter()
"""What ``register`` registers with, and what the stores use unless another one is put in place."""

register = converter.register

_in_use: DocumentConverter = converter
