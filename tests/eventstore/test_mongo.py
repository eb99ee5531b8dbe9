"""The engine for MongoDB: the real pymongo, over a socket, against a server that fails as told."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore import (
    NO_STREAM,
    CommitUnknownError,
    DamagedLogError,
    Event,
    EventLog,
    ExpectedVersionError,
    UnsuitableStorageError,
    WriteRefusedError,
)
from eventstore.storage import mongo
from eventstore.storage.mongo import Connection, MongoCommits, database_address, secrets_of
from eventstore.storage.numbered import RefusedError, UnclearError
from eventstore.testing.witness import Witness
from tests.children import Child
from tools.mongo_server import Fault, MongoServer, ReplicaSet, error

_LARGE = "x" * (17 << 20)


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DACAPO_STORE_CACHE", "off")


@pytest.fixture(params=[False, True], ids=["alone", "set"])
def server(request: pytest.FixtureRequest) -> Iterator[MongoServer]:
    with MongoServer(replica_set=request.param) as server:
        yield server


@pytest.fixture
def log(server: MongoServer) -> Iterator[EventLog]:
    with _open(server) as log:
        yield log


@pytest.fixture
def engine(server: MongoServer) -> Iterator[MongoCommits]:
    engine = MongoCommits(Connection(_address(server)))
    yield engine
    engine.close()


def _address(server: MongoServer | ReplicaSet) -> str:
    return database_address(server.uri, "lab")


def _open(server: MongoServer | ReplicaSet, *, patience: float = 30) -> EventLog:
    return EventLog.open(_address(server), options={"patience_seconds": str(patience)})


def _types(log: EventLog) -> list[str]:
    return [event.type for event in log.read()]


def _commits(server: MongoServer) -> Any:
    return server.data.client["lab"]["event_log"]


def _script(server: MongoServer, *steps: Any, name: str = "insert") -> list[Any]:
    """Let the next commands of this name meet these, one each; what is left of them is returned."""
    left = list(steps)

    def intercept(command: str, _: Mapping[str, Any]) -> Any:
        return left.pop(0) if command == name and left else None

    server.intercept = intercept
    return left


# --- what is asked of the server


def test_a_commit_is_a_document_named_by_its_position(server: MongoServer, log: EventLog) -> None:
    log.append("s", [Event("A"), Event("B")])
    log.append("s", [Event("C")])
    assert [document["_id"] for document in _commits(server).find()] == [-1, 0, 2]


def test_writes_and_reads_are_a_majoritys_whatever_the_address_says(server: MongoServer) -> None:
    address = _address(server) + "&w=1&journal=false&readPreference=secondary&retryWrites=true"
    with EventLog.open(address) as log:
        log.append("s", [Event("A")])
        list(log.read())
    inserts = [command for name, command in server.commands if name == "insert"]
    finds = [command for name, command in server.commands if name == "find"]
    assert inserts
    assert finds
    for command in inserts:
        assert (command["writeConcern"]["w"], command["writeConcern"]["j"]) == ("majority", True)
        assert "txnNumber" not in command
    for command in finds:
        assert command["readConcern"]["level"] == "majority"
        assert command.get("$readPreference", {}).get("mode", "primary").startswith("primary")


def test_an_append_costs_one_request(server: MongoServer, log: EventLog) -> None:
    before = len(server.commands)
    for _ in range(5):
        log.append("s", [Event("A")])
    assert [name for name, _ in server.commands][before:] == ["insert"] * 5


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("mongodb://host", "names no database"),
        ("mongodb://host/a/b", "names no database"),
        ("mongodb://host/lab?colection=x", "colection"),
        ("mongodb://host/lab?maxPoolSize=many", "maxpoolsize must be"),
        ("mongodb://host:port/lab", "host:port"),
    ],
)
def test_a_wrong_address_is_refused(address: str, problem: str) -> None:
    with pytest.raises(ValueError, match=r"mongodb://.*" + problem):
        EventLog.open(address)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("localhost", "mongodb://localhost/lab"),
        ("host:27018", "mongodb://host:27018/lab"),
        ("mongodb://a:1,b:2/?replicaSet=rs", "mongodb://a:1,b:2/lab?replicaSet=rs"),
        ("mongodb://me:pw@host", "mongodb://me@host/lab?authSource=admin"),
        ("mongodb://me:pw@host/users", "mongodb://me@host/lab?authSource=users"),
        ("mongodb://me:pw@host/users?authSource=x", "mongodb://me@host/lab?authSource=x"),
        ("mongodb+srv://cluster.example/", "mongodb+srv://cluster.example/lab"),
    ],
)
def test_a_host_is_given_as_mongodb_takes_it(host: str, address: str) -> None:
    assert database_address(host, "lab") == address


@pytest.mark.parametrize(
    "given", ["mongodb://me:s3cret@host/lab", "mongodb://h/lab?tlsCertificateKeyFilePassword=s3cret"]
)
def test_an_address_has_no_password(given: str) -> None:
    with pytest.raises(
        ValueError, match=r"mongodb://h.*/lab: an address has no password.*MONGODB_PASSWORD"
    ) as caught:
        EventLog.open(given)
    assert "s3cret" not in str(caught.value)


def test_a_password_is_taken_from_the_host_or_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MONGODB_PASSWORD", "from outside")
    there = database_address("mongodb://m%40e:s3%2Fcret@127.0.0.1:1,127.0.0.1:2", "lab")
    given = (there, ("m@e", "s3/cret", "admin")), ("mongodb://you@h/lab", ("you", "from outside", "lab"))
    for address, expected in given:
        connection = Connection(address)
        found = connection.client.options.pool_options._credentials
        assert (found.username, found.password, found.source) == expected
        assert "s3" not in address + connection.address
        connection.close()
    assert secrets_of(there) == {"MONGODB_PASSWORD": "s3/cret"}
    assert secrets_of("mongodb://host/lab") == {}
    nobody = Connection("mongodb://127.0.0.1:1/lab")
    assert nobody.client.options.pool_options._credentials is None
    nobody.close()


@pytest.mark.parametrize(
    "collection", [{"type": "timeseries", "options": {}}, {"type": "collection", "options": {"capped": True}}]
)
def test_a_collection_that_cannot_keep_a_log_is_refused(
    server: MongoServer, collection: Mapping[str, Any]
) -> None:
    listed = {"id": 0, "ns": "lab.$cmd", "firstBatch": [{"name": "event_log", **collection}]}
    _script(server, {"cursor": listed}, name="listCollections")
    with pytest.raises(UnsuitableStorageError, match="cannot keep a log"):
        _open(server)


def test_a_role_that_may_not_list_collections_will_do(server: MongoServer) -> None:
    _script(server, error(13, "Unauthorized", "not authorized"), name="listCollections")
    with _open(server) as log:
        log.append("s", [Event("A")])


def test_more_commits_are_read_than_an_answer_holds(server: MongoServer, log: EventLog) -> None:
    """A server gives 16 MB at a time, and nobody takes the end of an answer for the end of the log."""
    for number in range(16):
        log.append("s", [Event("A", {"number": number, "text": "x" * (5 << 20)})])
    with _open(server) as again:
        assert [event.data["number"] for event in again.read()] == list(range(16))
    assert "getMore" in [name for name, _ in server.commands]


def test_several_logs_can_be_in_one_database(server: MongoServer) -> None:
    with _open(server) as one, EventLog.open(_address(server) + "&collection=other") as other:
        one.append("s", [Event("A")])
        other.append("s", [Event("B")])
        assert (_types(one), _types(other)) == (["A"], ["B"])


# --- answers that are lost, wrong or late


@pytest.mark.parametrize(
    "fault",
    [
        Fault.LOSE_ANSWER,
        Fault.LOSE_REQUEST,
        Fault.LATE,
        error(10107, "NotWritablePrimary", "not primary", ["RetryableWriteError"]),
        error(11600, "InterruptedAtShutdown", "interrupted at shutdown"),
        error(91, "ShutdownInProgress", "going down"),
        error(50, "MaxTimeMSExpired", "too slow"),
        error(16500, "TooManyRequests", "slow down"),
    ],
)
def test_after_any_fault_there_is_one_commit(server: MongoServer, log: EventLog, fault: Any) -> None:
    left = _script(server, fault)
    commit = log.append("s", [Event("A")])
    server.arrive()
    assert left == []
    assert (commit.first_position, _types(log)) == (0, ["A"])
    assert _commits(server).count_documents({}) == 2


def test_what_no_majority_has_acknowledged_is_asked_for_again(server: MongoServer, log: EventLog) -> None:
    """The document is there and could vanish; to read it as a majority does tells when it cannot."""
    unseen = iter([True, True, False])

    def intercept(name: str, command: Mapping[str, Any]) -> Any:
        if name == "insert":
            reply = server._do(name, dict(command))
            problem = {"code": 64, "codeName": "WriteConcernTimeout", "errmsg": "waiting for replication"}
            return reply if reply.get("writeErrors") else {**reply, "writeConcernError": problem}
        if name == "find" and next(unseen, False):
            return {"cursor": {"id": 0, "ns": "lab.event_log", "firstBatch": []}}
        return None

    server.intercept = intercept
    assert log.append("s", [Event("A")]).first_position == 0
    assert next(unseen, None) is None
    inserts = [command["documents"][0] for name, command in server.commands if name == "insert"]
    assert len({bytes(each["data"]) for each in inserts if each["_id"] == 0}) == 1
    assert _commits(server).count_documents({}) == 2


def test_an_outcome_that_is_not_known_can_be_resolved(server: MongoServer) -> None:
    with _open(server, patience=0) as log:
        _script(server, Fault.LOSE_REQUEST)
        with pytest.raises(CommitUnknownError, match="mongodb://") as caught:
            log.append("s", [Event("A")])
        assert log.append("s", [Event("B")]).first_position == 0
        assert log.resolve(caught.value) is None


@pytest.mark.parametrize(
    ("code", "name"), [(13, "Unauthorized"), (14031, "OutOfDiskSpace"), (8000, "AtlasError")]
)
def test_a_refusal_is_told_at_once_and_the_log_goes_on(
    server: MongoServer, log: EventLog, code: int, name: str
) -> None:
    left = _script(server, error(code, name, f"{name}: no"))
    with pytest.raises(WriteRefusedError, match=f"{name}: no"):
        log.append("s", [Event("A")])
    assert left == []
    assert log.append("s", [Event("B")]).first_position == 0
    assert _types(log) == ["B"]


def test_a_server_that_does_not_let_one_in_is_not_asked_for_a_minute(server: MongoServer) -> None:
    refusal = error(18, "AuthenticationFailed", "Authentication failed.")
    _script(server, refusal, name="listCollections")
    with pytest.raises(UnsuitableStorageError, match="Authentication failed"):
        _open(server)
    _script(server, refusal, name="find")
    with pytest.raises(PermissionError, match="Authentication failed"):
        EventLog.open(_address(server), read_only=True)


def test_two_decide_on_the_same_state_and_one_wins(server: MongoServer, log: EventLog) -> None:
    with _open(server) as other:
        log.append("s", [Event("A")], expected=NO_STREAM)
        with pytest.raises(ExpectedVersionError):
            other.append("s", [Event("B")], expected=NO_STREAM)
        assert other.append("t", [Event("C")]).first_position == 1


def test_a_failover_loses_nothing_and_repeats_nothing() -> None:
    with ReplicaSet() as servers, _open(servers) as log:
        log.append("s", [Event("A")])
        servers.elect(None)
        appended = threading.Thread(target=lambda: log.append("s", [Event("B")]))
        appended.start()
        servers.elect(1)
        servers.servers[0].cut()
        appended.join()
        log.append("s", [Event("C")])
        assert _types(log) == ["A", "B", "C"]
        assert [name for name, _ in servers.servers[1].commands].count("insert") >= 1


def test_an_engine_tells_apart_what_it_was_told(server: MongoServer, engine: MongoCommits) -> None:
    assert engine.create(0, b"mine")
    assert not engine.create(0, b"another's")
    assert engine.read(0, 5) == [b"mine"]
    assert engine.read(1, 5) == []
    _script(server, Fault.LOSE_ANSWER)
    with pytest.raises(UnclearError):
        engine.create(1, b"next")
    assert engine.read(0, 5) == [b"mine", b"next"]
    _script(server, error(13, "Unauthorized", "no"))
    with pytest.raises(RefusedError):
        engine.create(2, b"")
    _script(server, Fault.LOSE_REQUEST, Fault.LOSE_REQUEST, name="find")
    with pytest.raises(UnclearError):
        engine.read(0, 1)


def test_what_was_read_is_durable_on_a_server_without_a_majority(
    server: MongoServer, engine: MongoCommits
) -> None:
    engine.create(-1, b"head")
    before = len(server.commands)
    engine.settle()
    written = [command for name, command in list(server.commands)[before:] if name == "insert"]
    assert len(written) == ("replicaSet" not in server.uri)
    assert all(command["writeConcern"]["j"] for command in written)
    assert engine.read(-1, 2) == [b"head"]
    if written:
        _script(server, error(13, "Unauthorized", "no"))
        with pytest.raises(UnclearError):
            engine.settle()


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**32), share=st.sampled_from([0.05, 0.2]), patience=st.sampled_from([0, 0.1, 30]))
def test_nothing_is_lost_and_nothing_is_there_twice(seed: int, share: float, patience: float) -> None:
    """Four writers of two threads each, and a server that loses, repeats, delays and steps down."""
    with MongoServer(replica_set=True, late_seconds=0.02) as server:
        dice = random.Random(seed)  # noqa: S311 - dice
        faults = [*Fault, error(10107, "NotWritablePrimary", "not primary"), error(91, "Shutdown", "down")]
        logs = [_open(server, patience=patience) for _ in range(4)]
        server.intercept = lambda *_: dice.choice(faults) if dice.random() < share else None
        witness = Witness()

        _all_at_once(
            *(
                lambda log=log, name=f"{place}{half}": witness.write(log, name, 3)
                for place, log in enumerate(logs)
                for half in "ab"
            )
        )
        server.intercept = None
        server.arrive()
        for log in logs:
            log.close()
        with _open(server) as log:
            witness.check(log)


def _all_at_once(*targets: Callable[[], object]) -> None:
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


_WRITER = """
import sys
from eventstore import Event, EventLog
log = EventLog.open(sys.argv[1])
for number in range(1_000_000):
    text = f"{sys.argv[2]}.{number}"
    commit = log.append("s" if number % 2 else sys.argv[2], [Event("A", {"text": text})])
    print(commit.first_position, text, flush=True)
"""


def test_of_writers_that_are_killed_everything_acknowledged_is_there(server: MongoServer) -> None:
    acknowledged: dict[int, str] = {}
    for life in range(3):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", _WRITER, _address(server), f"{life}.{number}"],
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(3)
        ]
        lines: list[str] = []
        for writer in writers:
            assert writer.stdout is not None
            lines += itertools.islice(writer.stdout, 5)
        for writer in writers:
            writer.kill()
            lines += writer.communicate()[0].splitlines(keepends=True)
        # The last line of a killed process may be half a line.
        for position, text in (line.split() for line in lines if line.endswith("\n")):
            acknowledged[int(position)] = text
    with _open(server) as log:
        there = [event.data["text"] for event in log.read()]
        assert {position: there[position] for position in acknowledged} == acknowledged
        assert len(set(there)) == len(there)
        assert log.verify().ok


# --- commits that are larger than a document


def test_a_commit_may_be_larger_than_a_document(server: MongoServer, log: EventLog) -> None:
    log.append("s", [Event("A", {"text": _LARGE})])
    log.append("s", [Event("B")])
    with _open(server) as again:
        assert [event.data.get("text", "") == _LARGE for event in again.read()] == [True, False]
        assert again.verify().ok
    sizes = [len(part["data"]) for part in server.data.client["lab"]["event_log_parts"].find()]
    assert max(sizes) == 8 << 20
    assert len(sizes) == 3


def test_a_large_commit_whose_answers_were_lost_is_there_once(server: MongoServer, log: EventLog) -> None:
    left = _script(server, None, Fault.LOSE_ANSWER, Fault.LOSE_REQUEST, None, None, None, Fault.LOSE_ANSWER)
    log.append("s", [Event("A", {"text": _LARGE})])
    assert left == []
    assert server.data.client["lab"]["event_log_parts"].count_documents({}) == 3
    assert [len(event.data["text"]) for event in log.read()] == [len(_LARGE)]


def test_the_parts_of_a_commit_that_lost_are_taken_away(server: MongoServer, log: EventLog) -> None:
    with _open(server) as other:
        other.append("s", [Event("A")])
    log.append("s", [Event("B", {"text": _LARGE})])
    assert _types(log) == ["A", "B"]
    assert server.data.client["lab"]["event_log_parts"].count_documents({}) == 3


def test_a_part_that_may_vanish_is_no_part_yet(server: MongoServer, engine: MongoCommits) -> None:
    """An earlier attempt left it on a primary that may lose it with its office."""
    data = _LARGE.encode()
    _script(server, Fault.LOSE_ANSWER)
    with pytest.raises(UnclearError):
        engine.create(0, data)
    _script(server, {"cursor": {"id": 0, "ns": "lab.event_log_parts", "firstBatch": []}}, name="find")
    with pytest.raises(UnclearError, match="not kept by a majority"):
        engine.create(0, data)
    assert engine.create(0, data)
    assert engine.read(0, 1) == [data]


def test_a_part_that_is_missing_is_damage(server: MongoServer, log: EventLog) -> None:
    log.append("s", [Event("A", {"text": _LARGE})])
    parts = server.data.client["lab"]["event_log_parts"]
    parts.delete_one({"_id": sorted(part["_id"] for part in parts.find())[1]})
    with pytest.raises(DamagedLogError):
        _open(server)


# --- waiting


def test_a_follower_hears_of_a_commit(server: MongoServer, log: EventLog) -> None:
    heard: list[str] = []
    done = threading.Event()

    def follow() -> None:
        for event in log.follow(0, timeout=60, stop=done):
            heard.append(event.type)
            if event.type == "last":
                done.set()

    follower = threading.Thread(target=follow)
    follower.start()
    with _open(server) as other:
        for name in ["A", "B", "last"]:
            other.append("s", [Event(name)])
    follower.join()
    assert heard == ["A", "B", "last"]
    streams = [command for name, command in server.commands if name == "aggregate"]
    assert streams


def test_a_change_stream_says_when_there_is_news(server: MongoServer, engine: MongoCommits) -> None:
    is_set = "replicaSet" in server.uri
    assert engine.wait(0.01)  # look once: what came before the stream is not in it
    assert engine.wait(0.01) is not is_set
    engine.create(0, b"")
    assert engine.wait(30 if is_set else 0.01)
    server.cut()
    with pytest.raises(UnclearError):
        engine.create(1, b"")
    assert engine.create(1, b"")
    assert engine.wait(30 if is_set else 0.01)


# --- clients


def test_a_process_has_one_client_for_an_address_until_nobody_uses_it(server: MongoServer) -> None:
    one, other = Connection(_address(server)), Connection(_address(server))
    client = one.client
    assert other.client is client
    one.close()
    one.close()
    assert other.client.admin.command("ping")["ok"]
    other.close()
    assert client._closed
    assert client not in mongo._clients.values()


def test_a_forked_child_has_a_client_of_its_own(server: MongoServer, log: EventLog) -> None:
    log.append("s", [Event("A")])
    list(log.read())
    child = Child(lambda: log.append("s", [Event("B")]).last_stream_version)
    log.append("t", [Event("C")])
    assert child.result() == 1
    log.append("t", [Event("D")])
    assert sorted(_types(log)) == ["A", "B", "C", "D"]
