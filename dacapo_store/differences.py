"""Where two documents differ, place by place: as deep as it can be told, and no deeper."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dacapo_store import converter

_CHARACTERS_SHOWN: Final = 60


class Absent(enum.Enum):
    """The one value that says: there is nothing at this place."""

    ABSENT = "absent"

    def __repr__(self) -> str:
        return "(absent)"


ABSENT: Final = Absent.ABSENT


@dataclass(frozen=True)
class Difference:
    """One place at which two documents differ.

    Attributes:
        place: Where, as one would write it: ``trainer_config.augments[0].p``; empty for the whole.
        before: What the first one has there, or ``ABSENT``.
        after: What the second one has there, or ``ABSENT``.
    """

    place: str
    before: Any
    after: Any

    def __str__(self) -> str:
        where = self.place or "it"
        if self.before is ABSENT:
            return f"{where}: + {shown(self.after)}"
        if self.after is ABSENT:
            return f"{where}: - {shown(self.before)}"
        return f"{where}: {shown(self.before)} -> {shown(self.after)}"


def differences(before: Any, after: Any, *, place: str = "") -> Iterator[Difference]:
    """The places at which two documents differ, in the order of the first one, then of the second."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in dict.fromkeys([*before, *after]):
            at = f"{place}.{key}" if place else str(key)
            if key not in after:
                yield Difference(at, before[key], ABSENT)
            elif key not in before:
                yield Difference(at, ABSENT, after[key])
            else:
                yield from differences(before[key], after[key], place=at)
    elif _are_sequences_of_one_length(before, after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from differences(one, other, place=f"{place}[{number}]")
    elif not converter.documents_equal(before, after):
        yield Difference(place, before, after)


def laid_flat(document: Any, place: str = "") -> dict[str, Any]:
    """A document laid flat: each value that holds no other, by its place."""
    if isinstance(document, dict) and document:
        parts = [(f"{place}.{key}" if place else str(key), value) for key, value in document.items()]
    elif isinstance(document, list) and document:
        parts = [(f"{place}[{number}]", value) for number, value in enumerate(document)]
    else:
        return {place: document} if place else {}
    return {leaf: value for at, part in parts for leaf, value in laid_flat(part, at).items()}


def shown(value: Any) -> str:
    """A value as a line of text has room for it."""
    text = repr(value)
    return text if len(text) <= _CHARACTERS_SHOWN else f"{text[:_CHARACTERS_SHOWN]}…"


def _are_sequences_of_one_length(first: Any, second: Any) -> bool:
    return isinstance(first, list | tuple) and type(first) is type(second) and len(first) == len(second)
