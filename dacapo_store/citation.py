"""Citations: ``base@position#chain`` names a state of a base so that others can query the very same.

The chain's value at a position vouches for every event below it: whoever has a base, or a copy or
backup of it, in which that position has that value, has the same history up to there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from eventstore import ReadOnlyLogError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from eventstore import EventLog

_FORM: Final = re.compile(r"(?P<base>.*)@(?P<position>\d+)#(?P<chain>[0-9a-f]{64})")


@dataclass(frozen=True)
class Citation:
    """A state of a base.

    Attributes:
        base: What the base was called; a word for people.
        position: The state is the fold of the events below it.
        chain: The chain's value there, 64 hexadecimal digits.
    """

    base: str
    position: int
    chain: str

    def __str__(self) -> str:
        return f"{self.base}@{self.position}#{self.chain}"

    @classmethod
    def parse(cls, text: str) -> Citation:
        """Read a citation.

        Raises:
            ValueError: It is none.
        """
        match = _FORM.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is no citation; one looks like my_base@4711#<64 hexadecimal digits>")
        return cls(match["base"], int(match["position"]), match["chain"])


def cite(path: Path, log: EventLog, position: int) -> Citation:
    """The citation of a position of a base; what it names is durable when this returns.

    Raises:
        ValueError: The log has no such position.
        ReadOnlyLogError: The log is open read-only, and its last events are not known to be durable:
            cite an earlier position, or open the base for writing.
    """
    chain = log.chain_at(position)
    if log.durable_position < position:
        try:
            log.sync()
        except (ReadOnlyLogError, StorageError) as error:
            raise ReadOnlyLogError(
                f"events up to position {position} are not known to survive a power cut yet ({error}): cite "
                f"position {log.durable_position}, or open the base for writing first"
            ) from error
    return Citation(path.name, position, chain.hex())
