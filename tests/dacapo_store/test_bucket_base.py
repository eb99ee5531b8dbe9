"""A base that is in a bucket altogether: log, weights, arrays. Served by moto."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
import torch

import dacapo_store
from dacapo_store import (
    DamagedArtifactError,
    FileConfigStore,
    LocalWeightsStore,
    Options,
    WeightsMissingError,
    create_config_store,
    create_stats_store,
    create_weights_store,
)
from dacapo_store.artifacts import Artifact
from dacapo_store.base import Base
from dacapo_store.bucket_payloads import BucketPayloads
from dacapo_store.maintenance import collect_garbage, plan_gc
from dacapo_store.payloads import check_payloads
from dacapo_store.replay import receipt_of, replay
from eventstore import LogNotFoundError, WriteRefusedError, open_bucket
from eventstore.storage.bucket import PART_BYTES
from tests.children import in_child


def _run(name: str = "run_7", features: int = 2) -> Any:
    model = torch.nn.Linear(features, 2)
    return SimpleNamespace(name=name, model=model, optimizer=torch.optim.Adam(model.parameters()))


def test_weights_are_stored_in_the_bucket(address: str) -> None:
    """What is stored by one process is there for another one, as it was."""
    options = Options(runs_base_dir=address)
    create_config_store(options).store_task_config({"name": "cells"})
    with create_stats_store(options).scalar_logger("run_7") as scalars:
        scalars.add(0, loss=0.5)
    run = _run()
    create_weights_store(options).store_weights(run, 100)
    Base.at(address).close()
    store = dacapo_store.open(address, read_only=True)
    assert store.configs.retrieve_task_config_names() == ["cells"]
    assert store.weights.latest_iteration("run_7") == 100
    weights = store.weights.retrieve_weights("run_7", 100)
    assert torch.equal(weights.model["weight"], run.model.weight)


def test_removed_weights_are_gone(address: str) -> None:
    store = LocalWeightsStore(address)
    store.store_weights(_run(), 1)
    store.store_best("run_7", 1, "crop", "dice")
    assert store.retrieve_best("run_7", "crop", "dice") == 1
    store.remove("run_7", 1)
    with pytest.raises(WeightsMissingError):
        store.retrieve_weights("run_7", 1)
    with pytest.raises(WeightsMissingError):
        store.retrieve_best("run_7", "crop", "dice")
    assert Base.at(address).payload_place.bucket.files("run_7") == []  # type: ignore[attr-defined]


# --- payloads


def _payloads(address: str) -> BucketPayloads:
    place = Base.at(address).payload_place
    assert isinstance(place, BucketPayloads)
    return place


def _content(size: int) -> bytes:
    return random.Random(size).randbytes(size)  # noqa: S311 - any bytes


def _written(place: BucketPayloads, content: bytes, path: str = "run/checkpoints/objects/1.pt") -> Artifact:
    return place.write(path, lambda file: file.write(content) and None)


@pytest.mark.parametrize("size", [0, 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES - 1])
@pytest.mark.parametrize("cache", ["on", "off"])
def test_a_payload_comes_back_whole(
    address: str, size: int, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its size in parts is, and whether or not this host has kept it."""
    if cache == "off":
        monkeypatch.setenv("DACAPO_STORE_CACHE", "off")
    content = _content(size)
    place = _payloads(address)
    artifact = _written(place, content)
    assert artifact.bytes == size
    with place.opened(artifact) as file:
        assert file.read() == content
    place.verify(artifact)
    assert place.size(artifact.path) == size


def test_what_this_host_has_kept_is_compared_with_its_digest(address: str, tmp_path: Path) -> None:
    place = _payloads(address)
    artifact = _written(place, b"weights")
    (kept,) = (tmp_path / "cache/payloads").iterdir()
    kept.write_bytes(b"WEIGHTS")
    with place.opened(artifact) as file:
        assert file.read() == b"weights"


def test_what_this_host_keeps_is_bounded(address: str, tmp_path: Path) -> None:
    """What was used longest ago goes; what is larger than all there is room for is not kept."""
    place = BucketPayloads(f"{address}&cache_bytes_max=2500")
    artifacts = [_written(place, _content(1000 + each), f"run/{each}") for each in range(4)]
    large = _written(place, _content(2600), "run/large")
    kept = {path.name for path in (tmp_path / "cache/payloads").iterdir()}
    assert kept == {each.digest for each in artifacts[2:]}
    with place.opened(large) as file:
        assert len(file.read()) == 2600


def test_a_host_whose_cache_takes_nothing_stores_all_the_same(address: str, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/payloads").write_text("no folder")
    place = BucketPayloads(address)
    with place.opened(_written(place, b"weights")) as file:
        assert file.read() == b"weights"
    assert not list(tmp_path.glob("cache/**/*.tmp"))


def test_what_a_killed_process_left_on_this_host_goes(address: str, tmp_path: Path) -> None:
    """When it is so old that nobody can be at it any more."""
    place = BucketPayloads(address)
    _written(place, b"one", "run/1")
    old, new = (tmp_path / f"cache/payloads/.{name}.tmp" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    _written(place, b"two", "run/2")
    assert (old.exists(), new.exists()) == (False, True)


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "longer", "changed"])
def test_damage_in_the_bucket_is_told(address: str, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is unpickled of it, and the error says what it is and what to do."""
    monkeypatch.setenv("DACAPO_STORE_CACHE", "off")
    store = LocalWeightsStore(address)
    store.store_weights(_run(), 3)
    bucket = _payloads(address).bucket
    (file,) = bucket.files("run_7/checkpoints/objects")
    content = bucket.get(file.name)
    assert content is not None
    changed = {
        "empty": b"",
        "cut": content[:-1],
        "longer": content + b"x",
        "changed": content[:-1] + bytes([content[-1] ^ 1]),
    }
    if damage == "gone":
        bucket.delete([file.name])
    else:
        bucket.put(file.name, changed[damage])
    error, text = (
        (WeightsMissingError, f"on record.*{file.name} is gone: restore it")
        if damage == "gone"
        else (DamagedArtifactError, "is not the one that was stored.*Restore it")
    )
    with pytest.raises(error, match=text):
        store.retrieve_weights("run_7", 3)
    for digests in (False, True):
        _, findings = check_payloads(address, Base.at(address).log, digests=digests)
        assert len(findings) == (1 if digests or damage != "changed" else 0)


def test_a_refused_commit_leaves_no_weights(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalWeightsStore(address)

    def refuse(*_: Any, **__: Any) -> Any:
        raise WriteRefusedError("no room")

    monkeypatch.setattr(Base, "append", refuse)
    with pytest.raises(WriteRefusedError):
        store.store_weights(_run(), 1)
    assert _payloads(address).bucket.files("run_7") == []


def test_weights_that_are_not_waited_for(address: str) -> None:
    store = LocalWeightsStore(address)
    run = _run()
    pending = [store.store_weights(run, iteration, wait=False) for iteration in (1, 2)]
    for each in pending:
        each.result()
    assert store.latest_iteration("run_7") == 2


def test_a_forked_child_stores_weights(address: str) -> None:
    """Obstore's runtime does not survive a fork: another process does the child's requests."""
    store = LocalWeightsStore(address)
    store.store_weights(_run(features=1), 1)

    def store_and_retrieve() -> bool:
        torch.set_num_threads(1)  # the parent's threads are not here, and would be waited for
        wide = _run(features=2_000_000)
        store.store_weights(wide, 2)
        return torch.equal(store.retrieve_weights("run_7", 2).model["weight"], wide.model.weight)

    assert in_child(store_and_retrieve) is True
    assert store.latest_iteration("run_7") == 2


# --- garbage


def test_what_a_crash_left_is_found(address: str) -> None:
    """A payload that no event names goes when it is old enough; what an event names stays."""
    store = LocalWeightsStore(address)
    store.store_weights(_run(), 1)
    orphan = _written(_payloads(address), b"never named", "run_7/checkpoints/objects/2-0.pt")
    assert plan_gc(address).garbage == ()
    plan = collect_garbage(address, grace_seconds=-1)
    assert [(each.kind, each.path) for each in plan.garbage] == [("orphan", orphan.path)]
    assert plan_gc(address, grace_seconds=-1).garbage == ()
    store.retrieve_weights("run_7", 1)


def test_a_removal_that_was_cut_short_is_completed(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalWeightsStore(address)
    store.store_weights(_run(), 1)
    with monkeypatch.context() as patch:
        patch.setattr(BucketPayloads, "remove", lambda *_: None)
        store.remove("run_7", 1)
    plan = collect_garbage(address)
    assert [each.kind for each in plan.garbage] == ["removal"]
    assert _payloads(address).bucket.files("run_7") == []


def test_superseded_weights_go_when_they_are_told_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DACAPO_STORE_CACHE", "off")  # this host would have kept them
    store = LocalWeightsStore(address)
    store.store_weights(_run(), 1)
    store.store_weights(_run(), 1)
    assert plan_gc(address, grace_seconds=-1).garbage == ()
    (garbage,) = collect_garbage(address, keep=1).garbage
    assert garbage.kind == "superseded"
    store.retrieve_weights("run_7", 1)
    with pytest.raises(WeightsMissingError):
        LocalWeightsStore(address, as_of=1).retrieve_weights("run_7", 1)


# --- other places


@pytest.mark.parametrize("ways", ["into a bucket", "out of a bucket", "between buckets"])
def test_a_base_moves_by_a_replay(address: str, tmp_path: Path, ways: str) -> None:
    """Events and weights are those of the source, whichever of the two is in a bucket."""
    path, _, query = address.partition("?")
    source, target = {
        "into a bucket": (str(tmp_path / "old"), address),
        "out of a bucket": (address, str(tmp_path / "new")),
        "between buckets": (address, f"{path}-copy?{query}"),
    }[ways]
    run = _run()
    LocalWeightsStore(source).store_weights(run, 5)
    receipt = replay(source, target)
    assert (receipt.payloads, receipt.missing) == (1, ())
    assert replay(source, target).new_chain == receipt.new_chain
    found = receipt_of(target)
    assert found is not None
    assert found["chain"] == receipt.chain
    back = LocalWeightsStore(target, read_only=True).retrieve_weights("run_7", 5)
    assert torch.equal(back.model["weight"], run.model.weight)


def test_a_place_that_holds_something_else_is_refused(address: str, tmp_path: Path) -> None:
    Base.at(tmp_path / "old")
    open_bucket(address).put("notes.txt", b"mine")
    with pytest.raises(ValueError, match="is not empty"):
        replay(tmp_path / "old", address)


def test_weights_of_another_kind_of_log_lie_in_a_bucket(address: str, tmp_path: Path) -> None:
    shared = f"shared://{tmp_path}/base?files={quote(address, safe='')}"
    LocalWeightsStore(shared).store_weights(_run(), 1)
    assert not (tmp_path / "base/run_7").exists()
    LocalWeightsStore(shared, read_only=True).retrieve_weights("run_7", 1)


def test_a_base_that_is_looked_at_makes_nothing(address: str) -> None:
    with pytest.raises(LogNotFoundError):
        LocalWeightsStore(address, read_only=True)
    assert open_bucket(address).entries() == []


def test_a_path_in_a_bucket_is_its_address(address: str) -> None:
    """DaCapo hands paths of its own kind over."""
    store = LocalWeightsStore(address)
    assert str(store.basedir) == address.partition("?")[0]
    store.store_weights(_run(), 1)
    assert LocalWeightsStore(store.basedir).latest_iteration("run_7") == 1
    assert FileConfigStore(store.basedir / "configs").path == store.basedir / "configs"


def test_a_site_with_mongodb_keeps_weights_in_a_bucket(address: str, mongodb: tuple[str, str]) -> None:
    """``type: mongo``, and ``runs_base_dir`` is where weights and arrays lie, as in DaCapo."""
    host, name = mongodb
    options = Options(type="mongo", mongo_db_host=host, mongo_db_name=name, runs_base_dir=address)
    create_config_store(options).store_task_config({"name": "cells"})
    store = create_weights_store(options)
    store.store_weights(_run(), 1)
    assert store.latest_iteration("run_7") == 1
    assert len(open_bucket(address).files("run_7/checkpoints/objects")) == 1
    assert open_bucket(address).entries() == ["run_7/"]


def test_the_environment_may_name_the_endpoint(
    address: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is where DaCapo's own code, which knows paths as text, finds it as well."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    bare = address.partition("?")[0]
    store = LocalWeightsStore(bare)
    store.store_weights(_run(), 1)
    assert str(store.basedir) == bare
    assert LocalWeightsStore(address).latest_iteration("run_7") == 1


def test_the_interpreter_waits_for_what_is_on_its_way(address: str) -> None:
    program = (
        "import sys, torch; from types import SimpleNamespace as N;"
        "from dacapo_store import LocalWeightsStore;"
        "part = N(state_dict=lambda: {'w': torch.ones(5_000_000)});"
        "run = N(name='run_7', model=part, optimizer=N(state_dict=dict));"
        "LocalWeightsStore(sys.argv[1]).store_weights(run, 1, wait=False)"
    )
    subprocess.run([sys.executable, "-c", program, address], check=True)
    weights = LocalWeightsStore(address).retrieve_weights("run_7", 1)
    assert int(weights.model["w"].sum()) == 5_000_000
