"""``Turns``: who wins place after place lets others in, and who wins none asks for it."""

from __future__ import annotations

import contextlib
import random
import secrets
import threading
import time
from collections.abc import Callable

from eventstore.errors import EventStoreError
from eventstore.storage.numbered.commit_store import DerivedObjects, RefusedError, UnclearError
from eventstore.storage.numbered.patience import PAUSE_SECONDS, PatientStore
from eventstore.storage.numbered.winning import Contest

_COMPANY_SECONDS = 5.0
_WINS_MAX = 64
_GAP = 6
_LOSSES = 2
_LOOK_EACH = 4
_TURN = "turn"


class Turns:
    """What one writer knows of the others, and the pauses that it makes for them.

    Args:
        store: Where the log is; hints are among its derived objects.
        contest: Knows how long a request takes.
    """

    def __init__(self, store: PatientStore, contest: Contest) -> None:
        self._store = store
        self._contest = contest
        self._others_seen = -_COMPANY_SECONDS
        self._wins = 0
        self._losses = 0
        self._won_at = 0.0
        self._asked: bytes | None = None
        self._has_looked = False

    def let_others_in(self) -> None:
        """Whoever wins one commit after the other waits a little in between.

        The winner knows the next place at once, and those who lost must first read: without a pause
        they would find it taken each time, for as long as the winner has something to write. Where
        nobody else was seen, a hint tells whether somebody is waiting; and because a hint may get
        lost, a longer pause now and then lets them in anyway.
        """
        latency, now = self._contest.latency, time.monotonic()
        if now - self._won_at > _GAP * latency:
            self._wins = 0  # whoever waited had time enough
        if now - self._others_seen < _COMPANY_SECONDS:
            pause = random.uniform(0, 4 * latency) if self._wins else 0.0  # noqa: S311 - no secret
        elif self._wins >= _WINS_MAX:
            pause, self._wins = _GAP * latency, 0
        else:
            hints = self._store.engine.derived
            if hints is not None and self._wins and self._wins % _LOOK_EACH == 0:
                self._in_background(lambda: self._look_for_company(hints))
            return
        # What the caller has spent on other things since is a pause as well.
        time.sleep(max(0.0, min(pause, PAUSE_SECONDS) - (now - self._won_at)))

    def met_others(self) -> None:
        """Take note that others have committed just now."""
        self._others_seen = time.monotonic()

    def won(self) -> None:
        """Take note of a place that was won."""
        self._wins, self._losses, self._won_at = self._wins + 1, 0, time.monotonic()

    def lost(self) -> None:
        """Take note of a place that another has won, and wait a little: the next one is wanted by all."""
        hints = self._store.engine.derived
        self._wins = 0
        self._losses += 1
        if self._losses % _LOSSES == 0 and hints is not None:
            self._in_background(lambda: hints.replace(_TURN, secrets.token_bytes(16)))
        # Whoever lost tries again at once, but not at the same moment as all the others.
        time.sleep(random.uniform(0, min(self._contest.latency, PAUSE_SECONDS)))  # noqa: S311 - no secret

    def _look_for_company(self, hints: DerivedObjects) -> None:
        """Whether somebody has asked for a turn since the last look."""
        asked = hints.get(_TURN)
        if self._has_looked and asked != self._asked:
            self.met_others()
        self._asked, self._has_looked = asked, True

    def _in_background(self, work: Callable[[], None]) -> None:
        """Nobody waits for a hint, and nobody is told when it cannot be had."""

        def run() -> None:
            with contextlib.suppress(EventStoreError, UnclearError, RefusedError, OSError):
                if not self._store.is_closed:
                    work()

        threading.Thread(target=run, name="hint", daemon=True).start()
