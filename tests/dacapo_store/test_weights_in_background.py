"""Weights that are stored while the training goes on: copied at once, then as those that were waited for."""

from __future__ import annotations

import copy
import errno
import logging
import os
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dacapo_store import weights_file, weights_staging
from dacapo_store.base import Base
from dacapo_store.errors import WeightsMissingError
from dacapo_store.maintenance import plan_gc
from dacapo_store.weights_file import WeightsUnsafeError
from dacapo_store.weights_staging import Staging, available_bytes
from dacapo_store.weights_store import LocalWeightsStore
from eventstore import files


def run_of(state: dict[str, Any], name: str = "run_1") -> Any:
    """A run whose optimizer is empty."""
    return types.SimpleNamespace(
        name=name,
        model=types.SimpleNamespace(state_dict=lambda: state),
        optimizer=types.SimpleNamespace(state_dict=dict),
    )


def filled(number: float) -> dict[str, Any]:
    """A state whose tensor holds this number."""
    return {"weight": torch.full((100,), float(number))}


class Disk:
    """Holds back what is written to payloads until it may go on."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self._sync_file = files.sync_file

    def sync_file(self, descriptor: int) -> None:
        """Take the place of ``files.sync_file``."""
        if Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".pt":
            self.reached.set()
            assert self.open.wait(60)
            if self.error is not None:
                raise self.error
        self._sync_file(descriptor)


@pytest.fixture
def store(tmp_path: Path) -> LocalWeightsStore:
    """A store on a base of its own."""
    return LocalWeightsStore(tmp_path)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    """A disk that takes its time."""
    disk = Disk()
    monkeypatch.setattr(files, "sync_file", disk.sync_file)
    yield disk
    disk.open.set()


def stored(base: Path) -> list[int]:
    """The iterations on record, in their order."""
    return [event.data["iteration"] for event in Base.at(base).log.read()]


def let_go_later(disk: Disk) -> None:
    """Let the disk go on, shortly after the caller has begun to wait for it."""
    threading.Timer(0.05, disk.open.set).start()


SHARED = torch.zeros(24)

STATES: dict[str, Callable[[], dict[str, Any]]] = {
    "aliases": lambda: {"a": SHARED, "b": SHARED},
    "views of one storage": lambda: {"a": SHARED[:10], "b": SHARED[5:], "c": SHARED},
    "not contiguous": lambda: {
        "a": torch.rand(4, 6).t(),
        "b": torch.rand(9)[::2],
        "c": torch.rand(3, 1).expand(3, 4),
    },
    "dtypes": lambda: {
        str(dtype): torch.ones(3, dtype=dtype)
        for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.bool, torch.uint8)
    },
    "complex": lambda: {
        "a": torch.randn(3, dtype=torch.complex64),
        "b": torch.randn(3, dtype=torch.complex128).conj(),
    },
    "negative bit": lambda: {"a": torch.randn(3, dtype=torch.complex64).conj().imag},
    "no dimension": lambda: {"a": torch.tensor(3.5), "b": torch.tensor(7)},
    "empty": lambda: {"a": torch.empty(0), "b": torch.empty(3, 0, 2), "c": torch.rand(4)[4:]},
    "sparse": lambda: {"a": torch.eye(4).to_sparse()},
    "parameters": lambda: {
        "a": torch.nn.Parameter(torch.rand(3)),
        "b": torch.nn.Parameter(torch.rand(3), requires_grad=False),
        "c": torch.rand(2, requires_grad=True),
    },
    "nothing": dict,
    "plain values": lambda: {"a": [1, (2.5, "x", None)], "b": {"c": {1, 2}}, "d": torch.Size([2])},
}


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """All tensors of a state."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)


def equal(one: Any, other: Any) -> bool:
    """Equality of states, to the type, dtype and stride-independent content."""
    if isinstance(one, torch.Tensor):
        if one.layout != torch.strided:
            return one.layout == other.layout and torch.equal(one.to_dense(), other.to_dense())
        return (one.dtype, one.requires_grad, type(one)) == (
            other.dtype,
            other.requires_grad,
            type(other),
        ) and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("kind", STATES)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_what_is_done_to_a_state_later_does_not_reach_the_store(
    kind: str, store: LocalWeightsStore, disk: Disk
) -> None:
    """Tensors of every kind are changed in place while the store is at its work."""
    SHARED.copy_(torch.rand(24))
    state = STATES[kind]()
    before = copy.deepcopy(
        {key: each.detach() if isinstance(each, torch.Tensor) else each for key, each in state.items()}
    )
    disk.open.set()
    store.store_weights(run_of(state), 0)
    disk.open.clear()
    pending = store.store_weights(run_of(state), 1, wait=False)
    for tensor in tensors(state):
        with torch.no_grad():
            if tensor.layout == torch.strided:
                tensor.untyped_storage().fill_(0)
            else:
                tensor.zero_()
    for value in state.values():
        if isinstance(value, list | dict):
            value.clear()
    disk.open.set()
    pending.result()
    waited_for, copied = (store.retrieve_weights("run_1", number).model for number in (0, 1))
    assert equal(dict(waited_for), dict(copied))
    for key, each in before.items():
        if isinstance(each, torch.Tensor) and each.layout == torch.strided:
            assert torch.equal(copied[key], each)


@given(data=st.data())
def test_copy_shares_what_the_state_shares(data: st.DataObject) -> None:
    """Any views of any storages: equal content, and the same tensors share memory."""
    storages = [torch.rand(data.draw(st.integers(0, 9))) for _ in range(data.draw(st.integers(1, 3)))]
    views = []
    for _ in range(data.draw(st.integers(0, 6))):
        storage = data.draw(st.sampled_from(storages))
        start = data.draw(st.integers(0, len(storage)))
        views.append(
            storage[start : data.draw(st.integers(start, len(storage))) : data.draw(st.integers(1, 3))]
        )
    staging = Staging()
    for _ in range(2):  # in new memory, and in memory that was used before
        staged = staging.copy({"views": list(views)})
        for original, copied in zip(views, staged.state["views"], strict=True):
            assert torch.equal(original, copied)
            assert (original.stride(), original.storage_offset()) == (
                copied.stride(),
                copied.storage_offset(),
            )
        originals = [view.untyped_storage().data_ptr() for view in views if view.untyped_storage().nbytes()]
        copies = [
            each.untyped_storage().data_ptr()
            for each in staged.state["views"]
            if each.untyped_storage().nbytes()
        ]
        assert [originals.index(pointer) for pointer in originals] == [
            copies.index(pointer) for pointer in copies
        ]
        assert not set(originals) & set(copies)
        staged.release()


@pytest.mark.parametrize("cores", [1, 2, 64])
def test_a_copy_into_new_memory_is_made_in_pieces(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    """By several threads; each byte arrives, whatever the lengths."""
    monkeypatch.setattr(weights_staging, "_PIECE_BYTES", 1000)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    state = {str(count): torch.rand(count) for count in (0, 1, 249, 250, 251, 5000, 77)}
    staged = Staging().copy(state)
    for name, tensor in state.items():
        assert torch.equal(staged.state[name], tensor)


def test_memory_of_a_copy_is_used_again() -> None:
    """Getting new memory takes longer than copying; two copies at once have one each."""
    staging, state = Staging(), filled(1)
    first, second = staging.copy(state), staging.copy(state)
    places = [each.state["weight"].data_ptr() for each in (first, second)]
    assert len(set(places)) == 2
    first.release()
    third = staging.copy(state)
    assert third.state["weight"].data_ptr() == places[0]
    assert torch.equal(second.state["weight"], state["weight"])


def test_memory_that_is_much_too_large_is_not_kept() -> None:
    """A small run after a large one does not hold on to the large one's memory."""
    staging = Staging()
    large = staging.copy({"a": torch.zeros(100_000)})
    large.release()
    small = staging.copy(filled(1))
    assert small.state["weight"].untyped_storage().nbytes() == 400
    small.release()
    (kept,) = staging._kept
    assert kept.storage.nbytes() < 1000


def test_file_is_the_same_whether_it_was_waited_for_or_not(store: LocalWeightsStore, tmp_path: Path) -> None:
    """Also the schema versions of modules, and optimizers of models that were trained."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(5, 3)).sum().backward()
    optimizer.step()
    run = types.SimpleNamespace(name="run_1", model=model, optimizer=optimizer)
    store.store_weights(run, 0)
    store.store_weights(run, 1, wait=False).result()
    one, other = (tmp_path / f"run_1/checkpoints/iterations/{n}" for n in (0, 1))
    assert one.stat().st_size == other.stat().st_size
    first, second = (store.retrieve_weights("run_1", n) for n in (0, 1))
    assert first.model._metadata == second.model._metadata  # type: ignore[attr-defined]
    assert all(torch.equal(first.model[key], second.model[key]) for key in first.model)
    assert str(first.optimizer) == str(second.optimizer)
    assert torch.load(other, weights_only=True)["model"].keys() == first.model.keys()


def test_nothing_is_on_record_before_it_is_stored(
    store: LocalWeightsStore, disk: Disk, tmp_path: Path
) -> None:
    """The event comes last, and a file without one is for gc."""
    pending = store.store_weights(run_of(filled(1)), 20, wait=False)
    assert disk.reached.wait(60)
    assert stored(tmp_path) == []
    assert not pending.done()
    assert [each.kind for each in plan_gc(tmp_path, grace_seconds=-60).garbage] == ["orphan"]
    disk.open.set()
    pending.result()
    assert stored(tmp_path) == [20]
    assert plan_gc(tmp_path, grace_seconds=-60).garbage == ()


def test_order_is_that_of_the_calls(store: LocalWeightsStore, tmp_path: Path) -> None:
    """Whether they were waited for or not."""
    for iteration in range(8):
        store.store_weights(run_of(filled(iteration)), iteration, wait=iteration % 3 == 2)
    store.wait()
    assert stored(tmp_path) == list(range(8))
    assert [store.retrieve_weights("run_1", n).model["weight"][0] for n in range(8)] == list(range(8))


QUESTIONS: dict[str, Callable[[LocalWeightsStore], bool]] = {
    "latest": lambda store: store.latest_iteration("run_1") == 20,
    "retrieve": lambda store: bool(store.retrieve_weights("run_1", 20).model["weight"][0] == 1),
    "by key": lambda store: bool(store._retrieve_weights("run_1", "iterations/20").model["weight"][0] == 1),
    "choose": lambda store: store.store_best("run_1", 20, "crop", "dice") is None,
    "remove": lambda store: store.remove("run_1", 20) is None,
    "repair": lambda store: store.repair_links() is None,
    "wait": lambda store: store.wait() is None,
    "another store": lambda store: LocalWeightsStore(store.basedir).latest_iteration("run_1") == 20,
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_whoever_asks_for_what_is_under_way_waits_for_it(
    question: str, store: LocalWeightsStore, disk: Disk, tmp_path: Path
) -> None:
    """Each method behaves as if the weights had been stored at once."""
    store.store_weights(run_of(filled(1)), 20, wait=False)
    assert disk.reached.wait(60)
    let_go_later(disk)
    assert QUESTIONS[question](store)
    assert stored(tmp_path)[0] == 20


def test_what_is_under_way_does_not_concern_others(store: LocalWeightsStore, disk: Disk) -> None:
    """Other iterations, other runs and the best are there without waiting."""
    disk.open.set()
    store.store_weights(run_of(filled(1)), 20)
    store.store_weights(run_of(filled(2), "run_2"), 30)
    store.store_best("run_1", 20, "crop", "dice")
    disk.open.clear()
    disk.reached.clear()
    pending = store.store_weights(run_of(filled(3)), 40, wait=False)
    assert disk.reached.wait(60)
    assert store.retrieve_weights("run_1", 20).model["weight"][0] == 1
    assert store.latest_iteration("run_2") == 30
    assert store.retrieve_best("run_1", "crop", "dice") == 20
    assert not pending.done()


def test_failure_is_raised_by_the_next_store(store: LocalWeightsStore, disk: Disk, tmp_path: Path) -> None:
    """The disk's error, with the iteration that it was for; called again, the next one is stored."""
    disk.error = OSError(errno.ENOSPC, "No space left on device")
    disk.open.set()
    pending = store.store_weights(run_of(filled(1)), 20, wait=False)
    assert pending.wait(60)
    disk.error = None
    with pytest.raises(OSError, match="No space left") as raised:
        store.store_weights(run_of(filled(2)), 40)
    assert "iteration 20 of run 'run_1' failed in the background" in raised.value.__notes__[0]
    store.store_weights(run_of(filled(2)), 40)
    assert stored(tmp_path) == [40]
    assert plan_gc(tmp_path, grace_seconds=-60).garbage == ()


ENDS: dict[str, Callable[[LocalWeightsStore], None]] = {
    "wait": LocalWeightsStore.wait,
    "close": lambda store: Base.at(store.basedir).close(),
}


@pytest.mark.parametrize("end", ENDS)
def test_failure_is_raised_by_waiting_and_closing(end: str, store: LocalWeightsStore, disk: Disk) -> None:
    """Nothing is lost when no other store follows."""
    disk.error = OSError(errno.EIO, "Input/output error")
    store.store_weights(run_of(filled(1)), 20, wait=False)
    let_go_later(disk)
    with pytest.raises(OSError, match="Input/output error"):
        ENDS[end](store)


def test_closing_waits_for_what_is_under_way(store: LocalWeightsStore, disk: Disk, tmp_path: Path) -> None:
    """A closed base holds what was begun."""
    store.store_weights(run_of(filled(1)), 20, wait=False)
    let_go_later(disk)
    Base.at(tmp_path).close()
    assert stored(tmp_path) == [20]


def test_state_that_could_not_be_loaded_again_is_a_failure(store: LocalWeightsStore, tmp_path: Path) -> None:
    """It is found out about when the file is looked at; there is no event and no file."""
    pending = store.store_weights(run_of({"a": types.SimpleNamespace(b=1)}), 20, wait=False)
    with pytest.raises(WeightsUnsafeError, match="SimpleNamespace"):
        pending.result()
    store.wait()
    assert stored(tmp_path) == []
    assert list((tmp_path / "run_1/checkpoints/objects").iterdir()) == []


def test_state_without_room_for_a_copy_is_stored_at_once(
    store: LocalWeightsStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The weights are safe when the call returns, and a warning says why it took so long."""
    monkeypatch.setattr(weights_staging, "available_bytes", lambda: 100)
    with caplog.at_level(logging.WARNING):
        pending = store.store_weights(run_of(filled(1)), 20, wait=False)
    assert stored(tmp_path) == [20]
    assert pending.done()
    pending.result()
    assert "no memory for a copy of the weights of iteration 20 of run_1" in caplog.text


def test_available_memory_is_that_of_the_machine_or_of_a_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest limit counts, at whatever height; the page cache of a group makes room."""
    assert 0 < available_bytes() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    groups = tmp_path / "cgroup"
    (groups / "job/step").mkdir(parents=True)
    (groups / "job/memory.max").write_text("1000\n")
    (groups / "job/memory.current").write_text("900\n")
    (groups / "job/memory.stat").write_text("anon 600\ninactive_file 300\n")
    (groups / "job/step/memory.max").write_text("max\n")
    (tmp_path / "self").write_text("0::/job/step\n")
    monkeypatch.setattr(weights_staging, "_CGROUPS", groups)
    monkeypatch.setattr(weights_staging, "_OWN_CGROUP", tmp_path / "self")
    assert available_bytes() == 400
    monkeypatch.setattr(weights_staging, "_OWN_CGROUP", tmp_path / "none")
    assert available_bytes() > 1000


def test_forked_child_neither_writes_nor_waits_for_its_parent_s_weights(
    store: LocalWeightsStore, disk: Disk, tmp_path: Path
) -> None:
    """What is under way is the parent's: to the child it is not there yet, and it can store its own."""
    pending = store.store_weights(run_of(filled(1)), 20, wait=False)
    assert disk.reached.wait(60)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            disk.open.set()
            store.wait()
            with pytest.raises(WeightsMissingError):
                store.retrieve_weights("run_1", 20)
            store.store_weights(run_of(filled(2)), 30, wait=False).result()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert stored(tmp_path) == [30]
    disk.open.set()
    pending.result()
    assert stored(tmp_path) == [30, 20]
    assert len(list((tmp_path / "run_1/checkpoints/objects").iterdir())) == 2


def test_interpreter_ends_after_its_weights_are_stored(tmp_path: Path) -> None:
    """A script need not wait, nor close anything."""
    program = """
import sys, types, torch
from dacapo_store import LocalWeightsStore
model = torch.nn.Linear(1000, 4000)  # 16 MB, so that the digest has a thread
run = types.SimpleNamespace(name="run_1", model=model, optimizer=torch.optim.SGD(model.parameters()))
LocalWeightsStore(sys.argv[1]).store_weights(run, 20, wait=False)
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    assert stored(tmp_path) == [20]
    assert LocalWeightsStore(tmp_path).retrieve_weights("run_1", 20).model["bias"].shape == (4000,)


def test_memory_in_use_by_a_failed_store_is_given_back(
    store: LocalWeightsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk does not cost a copy of the model each time."""
    monkeypatch.setattr(weights_file, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    for _ in range(3):
        pending = store.store_weights(run_of(filled(1)), 20, wait=False)
        with pytest.raises(OSError, match="full"):
            pending.result()
    from dacapo_store.weights_store import _stagings

    assert len(_stagings[Base.at(store.basedir)]._kept) == 1
