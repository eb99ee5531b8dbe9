"""What writers were told while the storage was unreliable, and whether the log agrees with it afterwards."""

from __future__ import annotations

import threading

from eventstore.errors import CommitUnknownError, StorageUnavailableError
from eventstore.log import EventLog
from eventstore.model import Event
from eventstore.storage.numbered import CommitStore
from eventstore.storage.numbered.storage import NumberedStorage
from eventstore.testing.commit_stores import FaultyCommitStore

_SHARED_STREAM = "all"


class Witness:
    """Writes for any number of threads, each of them under a name of its own, and remembers the answers.

    Attributes:
        acknowledged: Position and text of what an append has acknowledged.
        unknown: What an append could not tell the outcome of, with the text.
    """

    def __init__(self) -> None:
        self.acknowledged: list[tuple[int, str]] = []
        self.unknown: list[tuple[CommitUnknownError, str]] = []

    def write(self, log: EventLog, name: str, count: int) -> None:
        """Append so many events, by turns to a stream of all writers and to one of this name."""
        for number in range(count):
            text = f"{name}.{number}"
            try:
                commit = log.append(name if number % 2 else _SHARED_STREAM, [Event("A", {"text": text})])
                self.acknowledged.append((commit.first_position, text))
            except CommitUnknownError as error:
                self.unknown.append((error, text))
            except StorageUnavailableError:
                pass  # nothing was written

    def check(self, log: EventLog) -> None:
        """Fail unless all acknowledged is where it was said to be, nothing twice, and nothing else.

        Appends once more, which decides what was not decided.
        """
        log.append("last", [Event("A", {"text": "last"})])
        events = list(log.read())
        there = [event.data["text"] for event in events]
        assert [event.position for event in events] == list(range(len(events)))
        assert len(set(there)) == len(there)
        assert [there[position] for position, _ in self.acknowledged] == [
            text for _, text in self.acknowledged
        ]
        resolved = [log.resolve(error) is not None for error, _ in self.unknown]
        assert resolved == [text in there for _, text in self.unknown]
        assert set(there) <= {text for _, text in [*self.acknowledged, *self.unknown]} | {"last"}
        for stream in {event.stream for event in events}:
            versions = [event.stream_version for event in events if event.stream == stream]
            assert versions == list(range(len(versions)))
        assert log.verify().ok


def check_late_requests(store: CommitStore, *, seed: int, share: float, patience: float) -> None:
    """Fail unless what was given up on three bad networks, and arrives late, stands where nothing else does.

    Args:
        store: An empty engine.
        seed: Of the networks' dice.
        share: How many requests meet a fault, 0 to 1.
        patience: For so many seconds a writer asks again.
    """
    NumberedStorage(store, read_only=False)
    networks = [FaultyCommitStore(store, seed=seed + number, share=share) for number in range(3)]
    witness = Witness()

    def write(number: int) -> None:
        witness.write(opened(networks[number], patience), f"w{number}", 5)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(len(networks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for network in networks:
        network.arrive()
    witness.check(EventLog(NumberedStorage(store, read_only=False)))


def opened(network: FaultyCommitStore, patience: float) -> EventLog:
    """The log on a bad network, however often that must be tried."""
    while True:
        try:
            return EventLog(NumberedStorage(network, read_only=False, patience_seconds=patience))
        except StorageUnavailableError:
            continue
