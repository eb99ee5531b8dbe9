"""Values to strict JSON text and back, without a silent loss.

Owns the text form of an event's ``data`` and ``metadata``. What comes back equals what went in:
JSON's own values are written as they are, and what JSON has no word for is written as an object
with a single key, the *tag*:

=====================  ==============================================  =======================
tag                    content                                         comes back as
=====================  ==============================================  =======================
``$float``             ``"nan"``, ``"inf"`` or ``"-inf"``              float
``$int``               decimal digits, outside [-2**63, 2**64)         int
``$complex``           ``[real, imaginary]``                           complex
``$tuple``             the items                                       tuple
``$set``               the items, in the order of their JSON text      set
``$frozenset``         likewise                                        frozenset
``$bytes``             base64                                          bytes
``$path``              the path                                        pathlib.Path
``$datetime``          ISO 8601                                        datetime.datetime
``$date``, ``$time``   ISO 8601                                        datetime.date, .time
``$mapping``           ``[[key, value], …]``, in the mapping's order   dict
=====================  ==============================================  =======================

``$mapping`` stands for a mapping whose keys are not all strings, or that has a key which starts
with ``$``; so a tag never means anything but a tag.

Guarantees:

- The text is strict JSON, and equal values of equal order give equal text in every process, so
  that two encodings can be compared. -0.0 stays -0.0, 1.0 a float, and True is not 1.
- A subclass of str, int, float, tuple, list or a mapping, and a number of numpy, come back as the
  plain value that they equal. A time with a zone comes back with the zone's offset, and ``fold`` 0.
- Anything else is an ``InvalidEventError`` that names its place; nothing is dropped or replaced.
- An object that looks like a tag and is none that is known here, or has other content than the
  table says, is read as the plain mapping that it is: text from a newer program stays readable.

The shape of a document is left to the caller: it is no schema.
"""

from __future__ import annotations

import base64
import datetime as dt
import enum
import math
import pathlib
from collections.abc import Callable, Collection, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

import msgspec

from eventstore.errors import InvalidEventError

DEPTH_MAX: Final = 100
"""How many containers may lie in each other; far below what makes a JSON reader give up."""

INT_BITS_MAX: Final = 2048
"""How long an int may be; below the number of digits that any Python setting refuses to parse."""

_ALLOWED: Final = (
    "allowed are None, bool, int, float, complex, str, bytes, list, tuple, set, frozenset, mappings, "
    "pathlib paths, datetime, date, time and numpy numbers"
)


class _Step(enum.Enum):
    """A step of a place that has no index or key."""

    KEY = "{key}"
    ITEM = "{item}"


# The way from the root to a value, innermost step first: None, or (way to the parent, step).
# Made for every value and put into words only for an error.
_Place = tuple[Any, Any] | None

_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1

# Keys that need no tag; the same few names of fields come again and again.
_plain_keys: Final[set[str]] = set()
_PLAIN_KEYS_MAX: Final = 4096

_encode_json = msgspec.json.Encoder().encode
_decode_json = msgspec.json.Decoder().decode


def encode(value: Any) -> str:
    """Give a value its JSON text.

    Args:
        value: Any mix of the values in this module's table and JSON's own.

    Raises:
        InvalidEventError: The value holds something that has no text form, text that is not
            Unicode, or itself, or it lies too deep. The message names the place; mend it there.
    """
    return encode_utf8(value).decode()


def encode_utf8(value: Any) -> bytes:
    """As ``encode``; gives the text's UTF-8 bytes, which is what is stored."""
    try:
        return _encode_json(_tag_mapping(value, None, 0) if type(value) is dict else _tag(value, None, 0))
    except RecursionError:
        # The caller's own stack may be nearly used up, however flat the value is.
        message = "the value cannot be encoded: Python's recursion limit was reached; call from higher up"
        raise InvalidEventError(message) from None


def decode(text: str) -> Any:
    """Give the value back that ``encode`` made this text from.

    Raises:
        InvalidEventError: The text is no JSON, or lies too deep; it does not come from ``encode``.
    """
    try:
        value = _decode_json(text)
        return _untag(value) if '"$' in text or "\\u0024" in text else value
    except (msgspec.DecodeError, UnicodeError) as error:
        message = f"the text is not valid JSON ({error}): {text[:80]!r}"
        raise InvalidEventError(message) from error
    except RecursionError:
        message = f"the text nests too deeply to be read: {text[:80]!r}"
        raise InvalidEventError(message) from None


# --- values to JSON ---------------------------------------------------------------------------


def _tag(value: Any, place: _Place, depth: int) -> Any:  # noqa: PLR0911 - one return a kind, frequent kinds first
    """Replace everything that JSON has no word for by its tag."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if kind is str:
        return value if value.isascii() else _unicode(value, place)
    if kind is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if kind is int:
        return value if _INT_MIN <= value <= _INT_MAX else _long_int(value, place)
    if kind is dict:
        return _tag_mapping(value, place, depth)
    if kind is list:
        return _tag_items(value, place, depth)
    if kind is tuple:
        return {"$tuple": _tag_items(value, place, depth)}
    return _tag_rare(value, place, depth)


def _tag_items(items: Collection[Any], place: _Place, depth: int) -> list[Any]:
    _check_depth(place, depth)
    kinds = set(map(type, items))
    if len(kinds) == 1 and _is_plain_column(kinds.pop(), items):
        return list(items)
    return [_tag(item, (place, index), depth + 1) for index, item in enumerate(items)]


def _is_plain_column(kind: type, items: Collection[Any]) -> bool:
    """Whether JSON has words for all items, of one type: seen at once, which spares looking at each."""
    if kind is float:
        return math.isfinite(sum(items))  # with one that is infinite or NaN, so is the sum
    if kind is int:
        return bool(min(items) >= _INT_MIN and max(items) <= _INT_MAX)
    return kind is str and all(map(str.isascii, items))


def _tag_mapping(mapping: Mapping[Any, Any], place: _Place, depth: int) -> dict[str, Any]:
    if depth >= DEPTH_MAX:
        _check_depth(place, depth)
    tagged: dict[str, Any] = {}
    for key, value in mapping.items():
        # An exact str: a subclass may compare as it likes, so it takes the careful way.
        if type(key) is not str or not (key in _plain_keys or _is_plain_key(key, place)):
            return _tag_pairs(mapping, place, depth)
        kind = type(value)
        if kind is str:
            plain = value.isascii()
        elif kind is float:
            plain = math.isfinite(value)
        else:
            plain = kind is int and _INT_MIN <= value <= _INT_MAX
        tagged[key] = value if plain else _tag(value, (place, key), depth + 1)
    return tagged


def _is_plain_key(key: str, place: _Place) -> bool:
    if key.startswith("$"):
        return False
    if not key.isascii():
        _unicode(key, (place, key))
    elif len(_plain_keys) < _PLAIN_KEYS_MAX:
        _plain_keys.add(key)
    return True


def _tag_pairs(mapping: Mapping[Any, Any], place: _Place, depth: int) -> dict[str, Any]:
    pairs = [
        [_tag(key, (place, _Step.KEY), depth + 1), _tag(value, (place, key), depth + 1)]
        for key, value in mapping.items()
    ]
    keys = [key for key, _ in pairs]
    _check_distinct(keys, place, "keys")
    if all(type(key) is str and not key.startswith("$") for key in keys):
        return dict(pairs)
    return {"$mapping": pairs}


def _tag_rare(value: Any, place: _Place, depth: int) -> Any:
    """Tag what documents seldom hold, and subclasses, which count as their base."""
    for kind, tag in _RARE:
        if isinstance(value, kind):
            return tag(value, place, depth)
    number = _plain_number(value)
    if number is not None:
        return _tag(number, place, depth)
    raise _error(place, f"{_name_of(type(value))} cannot be stored; {_ALLOWED}")


def _plain_number(value: Any) -> bool | int | float | complex | None:
    """Turn a numpy scalar, known by its manners since numpy is not imported, into Python's own number."""
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    if kind not in ("b", "i", "u", "f", "c") or getattr(value, "shape", None) != ():
        return None
    number = value.item()
    # A long double's item() is a long double again: it does not fit a float.
    return number if type(number) in (bool, int, float, complex) else None


def _tag_complex(value: complex, place: _Place, depth: int) -> Any:
    return {"$complex": _tag_items([value.real, value.imag], place, depth)}


def _tag_set(value: AbstractSet[Any], place: _Place, depth: int) -> Any:
    _check_depth(place, depth)
    items = [_tag(item, (place, _Step.ITEM), depth + 1) for item in value]
    _check_distinct(items, place, "items")
    # A set has no order of its own, and str hashes differ from process to process.
    items.sort(key=_encode_json)
    return {"$set" if isinstance(value, set) else "$frozenset": items}


def _tag_bytes(value: bytes | bytearray | memoryview, _place: _Place, _depth: int) -> Any:
    return {"$bytes": base64.b64encode(bytes(value)).decode()}


def _tag_path(value: pathlib.PurePath, place: _Place, _depth: int) -> Any:
    text = _unicode(str(value), place)
    if str(pathlib.Path(text)) != text:
        raise _error(place, f"{value!r} does not survive as a pathlib.Path; store it as a string")
    return {"$path": text}


def _tag_moment(value: Any, place: _Place, _depth: int) -> Any:
    tag = _MOMENT_TAGS.get(type(value))
    if tag is None:
        # pandas.Timestamp, for one, keeps nanoseconds that a datetime has no room for.
        raise _error(place, f"{_name_of(type(value))} is a subclass that may hold more; {_ALLOWED}")
    return {tag: value.isoformat()}


def _long_int(value: int, place: _Place) -> Any:
    if value.bit_length() > INT_BITS_MAX:
        raise _error(place, f"an int of {value.bit_length()} bits is too long; at most {INT_BITS_MAX} bits")
    return {"$int": str(value)}


def _unicode(text: str, place: _Place) -> str:
    """Check that the text can be written as UTF-8: half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        problem = f"the text {text[:80]!a} is not Unicode ({error.reason} at {error.start})"
        raise _error(place, f"{problem}; decode or escape it") from None
    return text


_MOMENT_TAGS: Final[dict[type, str]] = {
    dt.datetime: "$datetime",
    dt.date: "$date",
    dt.time: "$time",
}

# Looked at in this order, after the exact types in _tag.
_RARE: Final[tuple[tuple[type | tuple[type, ...], Callable[[Any, _Place, int], Any]], ...]] = (
    (str, lambda value, place, depth: _tag(str.__str__(value), place, depth)),
    (int, lambda value, place, depth: _tag(int.__int__(value), place, depth)),
    (float, lambda value, place, depth: _tag(float.__float__(value), place, depth)),
    (complex, _tag_complex),
    (tuple, lambda value, place, depth: {"$tuple": _tag_items(value, place, depth)}),
    (list, _tag_items),
    (Mapping, _tag_mapping),
    ((set, frozenset), _tag_set),
    ((bytes, bytearray, memoryview), _tag_bytes),
    (pathlib.PurePath, _tag_path),
    ((dt.date, dt.time), _tag_moment),
)


def _check_depth(place: _Place, depth: int) -> None:
    if depth >= DEPTH_MAX:
        problem = f"lies more than {DEPTH_MAX} containers deep; does a container hold itself?"
        raise _error(place, problem)


def _check_distinct(tagged: list[Any], place: _Place, what: str) -> None:
    """Keys and set items must come back hashable, and as many as there were."""
    try:
        distinct = len({_untag(item) for item in tagged})
    except TypeError as error:
        raise _error(place, f"its {what} would not come back hashable ({error})") from None
    if distinct != len(tagged):
        raise _error(place, f"some of its {what} would come back equal to each other")


def _error(place: _Place, problem: str) -> InvalidEventError:
    return InvalidEventError(f"{_in_words(place)}: {problem}")


def _in_words(place: _Place) -> str:
    """Write the place as a JSON path, e.g. ``$.a[3].b``."""
    steps: list[str] = []
    while place is not None:
        place, step = place
        if isinstance(step, _Step):
            steps.append(step.value)
        elif type(step) is str and step.isidentifier():
            steps.append(f".{step}")
        else:
            steps.append(f"[{ascii(step)[:80]}]")
    return "$" + "".join(reversed(steps))


def _name_of(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


# --- JSON to values ---------------------------------------------------------------------------


def _untag(value: Any) -> Any:
    if type(value) is list:
        return [_untag(item) for item in value]
    if type(value) is not dict:
        return value
    if len(value) == 1:
        ((tag, content),) = value.items()
        read = _READERS.get(tag)
        if read is not None:
            try:
                return read(content)
            except (ValueError, TypeError, OverflowError):
                pass  # Not what the tag promises: then it is a mapping like any other.
    return {key: _untag(item) for key, item in value.items()}


# Each reader takes a tag's content and raises ValueError or TypeError when the content is not what
# the table on top says.


def _list(content: Any) -> list[Any]:
    if type(content) is not list:
        message = "expected a list"
        raise TypeError(message)
    return content


def _text(content: Any) -> str:
    if type(content) is not str:
        message = "expected a string"
        raise TypeError(message)
    return content


def _items(content: Any) -> list[Any]:
    return [_untag(item) for item in _list(content)]


def _read_float(content: Any) -> float:
    if content not in ("nan", "inf", "-inf"):
        message = "expected nan, inf or -inf"
        raise ValueError(message)
    # Not math.nan: two NaN keys of one mapping are two only as long as they are two objects.
    return float(content)


def _read_complex(content: Any) -> complex:
    real, imaginary = _items(content)
    if type(real) is not float or type(imaginary) is not float:
        message = "expected two floats"
        raise TypeError(message)
    return complex(real, imaginary)


def _read_frozenset(content: Any) -> frozenset[Any]:
    items = frozenset(_items(content))
    _expect_all(len(items), content)
    return items


def _read_mapping(content: Any) -> dict[Any, Any]:
    mapping = {_untag(key): _untag(value) for key, value in map(_list, _list(content))}
    _expect_all(len(mapping), content)
    return mapping


def _expect_all(count: int, content: list[Any]) -> None:
    if count != len(content):
        message = "expected distinct entries"
        raise ValueError(message)


_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "$float": _read_float,
    "$int": lambda content: int(_text(content)),
    "$complex": _read_complex,
    "$tuple": lambda content: tuple(_items(content)),
    "$set": lambda content: set(_read_frozenset(content)),
    "$frozenset": _read_frozenset,
    "$bytes": lambda content: base64.b64decode(_text(content), validate=True),
    "$path": lambda content: pathlib.Path(_text(content)),
    "$datetime": lambda content: dt.datetime.fromisoformat(_text(content)),
    "$date": lambda content: dt.date.fromisoformat(_text(content)),
    "$time": lambda content: dt.time.fromisoformat(_text(content)),
    "$mapping": _read_mapping,
}
