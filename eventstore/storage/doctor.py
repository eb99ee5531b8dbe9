"""Is this storage fit for a log, and how fast will it be? Tried out, beside the log and not in it.

What is created lies under ``doctor/`` at the address, some hundred objects of 2 KB, and may be deleted.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TypeVar

from eventstore.errors import StorageUnavailableError, UnsuitableStorageError
from eventstore.storage.addresses import Address, open_store
from eventstore.storage.numbered import CommitStore, RefusedError, UnclearError

_ROUNDS = 20
_RIVALS = 8
_REQUESTS = 40
_TRIES = 10
_Answer = TypeVar("_Answer")
_COMMIT_BYTES = 2048
_OF_A_BASE = ("files", "patience_seconds", "cache_bytes_max")


@dataclass(frozen=True)
class Diagnosis:
    """What was found out about a storage.

    Attributes:
        address: Where it is.
        problem: Why no log can be kept there; None if one can.
        races: How often several threads created one object at once.
        unanswered: How many requests got no clear answer.
        create_milliseconds: How long it takes to create a commit of 2 KB, in the median.
        create_milliseconds_p95: The same, for the slowest of twenty.
        read_milliseconds: How long it takes to read one, in the median.
        look_milliseconds: How long it takes to see that there is none.
        commits_per_second_alone: What one writer can expect. Threads share commits.
        commits_per_second_shared: What all writers of one log together can expect, however many.
    """

    address: str
    problem: str | None
    races: int = 0
    unanswered: int = 0
    create_milliseconds: float = 0.0
    create_milliseconds_p95: float = 0.0
    read_milliseconds: float = 0.0
    look_milliseconds: float = 0.0
    commits_per_second_alone: float = 0.0
    commits_per_second_shared: float = 0.0


def examine(address: str) -> Diagnosis:
    """Try a storage out: whether it creates an object once only, also in a race, and how long it takes.

    Args:
        address: The address of a base or log, or of a place for one; not of a database.

    Raises:
        StorageUnavailableError: It does not answer.
        ValueError: The address is not known, or is that of a database.
    """
    parts = Address.parse(address)
    place = parts.inside("doctor")
    if place == parts.location:
        raise ValueError(f"{address} is a database, whose primary key needs no examination")
    options = {name: text for name, text in parts.options.items() if name not in _OF_A_BASE}
    with closing(open_store(Address(parts.scheme, place, options), read_only=False)) as store:
        try:
            _patiently(store.check, store.address)
            unanswered, problem = _race(store)
        except (UnsuitableStorageError, RefusedError) as error:
            return Diagnosis(store.address, str(error))
        if problem is not None:
            return Diagnosis(store.address, problem, _ROUNDS, unanswered)
        return _measured(store, unanswered)


def _race(store: CommitStore) -> tuple[int, str | None]:
    """Let threads create one object at once, again and again.

    Gives how many requests had no clear answer, and what is wrong, if anything is.
    """
    first = _free_key()
    outcomes: list[list[tuple[bytes, bool | None]]] = [[] for _ in range(_ROUNDS)]
    start = threading.Barrier(_RIVALS)

    def rival() -> None:
        for place in range(_ROUNDS):
            mine = secrets.token_bytes(_COMMIT_BYTES)
            start.wait()
            try:
                outcomes[place].append((mine, store.create(first + place, mine)))
            except (UnclearError, RefusedError):
                outcomes[place].append((mine, None))

    rivals = [threading.Thread(target=rival) for _ in range(_RIVALS)]
    for each in rivals:
        each.start()
    for each in rivals:
        each.join()
    unanswered = sum(won is None for outcome in outcomes for _, won in outcome)
    for place, outcome in enumerate(outcomes):
        winners = [mine for mine, won in outcome if won]
        there = _patiently(partial(store.read, first + place, 1), store.address)
        if len(winners) > 1:
            return unanswered, f"it let {len(winners)} of {_RIVALS} create one object at once"
        if winners and list(there) != winners:
            return unanswered, "it shows other bytes than those of the one that it let create the object"
        if not there and unanswered == 0:
            return unanswered, "it let nobody create an object that is not there"
    return unanswered, None


def _measured(store: CommitStore, unanswered: int) -> Diagnosis:
    import statistics  # only those who measure wait for it

    keys = count(_free_key())
    data = secrets.token_bytes(_COMMIT_BYTES)
    first = next(keys)
    _patiently(lambda: store.create(first, data), store.address)
    creates = _times(lambda: store.create(next(keys), data), store.address)
    reads = _times(lambda: store.read(first, 1), store.address)
    looks = _times(lambda: store.read(_free_key(), 1), store.address)
    median = statistics.median(creates)
    return Diagnosis(
        store.address,
        None,
        _ROUNDS,
        unanswered,
        1000 * median,
        1000 * statistics.quantiles(creates, n=20)[-1],
        1000 * statistics.median(reads),
        1000 * statistics.median(looks),
        1 / median,
        0.5 / median,
    )


def _times(request: Callable[[], object], address: str) -> list[float]:
    taken = []
    for _ in range(_REQUESTS):
        begun = time.perf_counter()
        _patiently(request, address)
        taken.append(time.perf_counter() - begun)
    return taken


def _patiently(request: Callable[[], _Answer], address: str) -> _Answer:
    for _ in range(_TRIES):
        try:
            return request()
        except UnclearError as error:
            problem = error
    raise StorageUnavailableError(
        f"{address} does not answer: {problem}. Try again", path=address
    ) from problem


def _free_key() -> int:
    return secrets.randbelow(1 << 60)
