"""A base as it was: the same faces over the state at one position, which nothing changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, cast

from dacapo_store.base import Base
from eventstore import ReadOnlyLogError
from eventstore.past import PastLog

if TYPE_CHECKING:
    from projections import ReadModels


class PastBase(Base):
    """A base as of a position; get one with ``Base.at(path, as_of=position)``.

    Attributes:
        path: The directory, absolute.
        log: The events below the position.
        as_of: How many there are.
    """

    def __init__(self, base: Base, position: int) -> None:
        """Look at an open base as it was."""
        self.location = base.location
        self.path = base.path
        self.payload_place = base.payload_place
        self.spool_home = base.spool_home
        self.as_of: int | None = position
        self.read_only = True
        self.log = cast("Any", PastLog(base.log, position))
        self.mongo = base.mongo
        self.background = base.background
        self.loggers = base.loggers
        self._present = base
        self._past_views = cast("ReadModels", _PastViews(base, position))

    def __reduce__(self) -> tuple[Any, ...]:
        return _at, (self.location.name, self.as_of)

    @property
    def present(self) -> Base:
        """The base as it is now, read-only."""
        return self._present

    @property
    def has_views(self) -> bool:
        """Whether this process has the present base's read models already."""
        return self._present.has_views

    @property
    def views(self) -> ReadModels:
        """The read models as of the position."""
        return self._past_views

    def append(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: the past does not change."""
        self.require_writable()

    def append_to_streams(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: the past does not change."""
        self.require_writable()

    def decide(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse: the past does not change."""
        self.require_writable()

    def require_writable(self) -> NoReturn:
        """Refuse.

        Raises:
            ReadOnlyLogError: Always.
        """
        raise ReadOnlyLogError(
            f"this is {self.location.shown} as of position {self.as_of}, which does not change: open the "
            "base without as_of to write, or bring the past back with restore or rewind"
        )

    def close(self) -> None:
        """The base that this is a view of stays open."""


class _PastViews:
    """What the stores ask of read models, as of one position."""

    def __init__(self, base: Base, position: int) -> None:
        self._base = base
        self._position = position

    def catch_up(self) -> int:
        return self._position

    def query(self, sql: str, parameters: Any = None) -> Any:
        return self._base.views.select(sql, parameters, position=self._position)

    def arrow(self, sql: str, parameters: Any = None) -> Any:
        return self.query(sql, parameters).arrow()


def _at(path: Any, position: int) -> Base:
    return Base.at(path, as_of=position)
