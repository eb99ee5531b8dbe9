"""The library ``eventsourcing`` with its SQLite recorder."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from tools.bench.peers.peer import Commit, Durability, Peer, document


class EventSourcing(Peer):
    """Its application recorder, below aggregates and their transcoding."""

    name = "eventsourcing, SQLite"
    packages = ("eventsourcing",)

    @contextmanager
    def commits(self, durability: Durability) -> Iterator[Commit]:
        """Stored events of one originator; the recorder's SQLite is as it sets it up (WAL)."""
        from eventsourcing.persistence import StoredEvent
        from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

        assert durability == "commit"
        datastore = SQLiteDatastore(str(self.folder / "events.db"))
        recorder = SQLiteApplicationRecorder(datastore)
        recorder.create_table()
        originator = uuid.UUID(int=7)

        def commit(first: int, count: int) -> None:
            recorder.insert_events(
                [
                    StoredEvent(originator, number, "Noted", json.dumps(document(number)).encode())
                    for number in range(first, first + count)
                ]
            )

        try:
            yield commit
        finally:
            datastore.close()
