"""Weights: never overwritten, verified before they are loaded, and what the log says of them holds."""

from __future__ import annotations

import errno
import functools
import json
import logging
import mmap
import multiprocessing
import os
import pickle
import random
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dacapo_store import weights_file
from dacapo_store.base import Base
from dacapo_store.errors import DamagedArtifactError, WeightsMissingError
from dacapo_store.weights_file import Weights, WeightsUnsafeError
from dacapo_store.weights_store import LocalWeightsStore
from eventstore import LogNotFoundError, ReadOnlyLogError, WriteRefusedError, files


class Architecture:
    """What a trace needs to know of a model's input."""

    num_in_channels = 1
    input_shape = (4, 4)


class Net(torch.nn.Module):
    """A small model with a buffer, a mode and randomness."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 2, 3)
        self.norm = torch.nn.BatchNorm2d(2)
        self.drop = torch.nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.calls: torch.Tensor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Count the call, draw from all random generators, and convolve."""
        self.calls = self.calls + 1
        noise = random.random() + float(np.random.random())  # noqa: NPY002, S311
        return self.drop(self.norm(self.conv(image))) + noise + torch.rand(1)


class Run:
    """A run as DaCapo's trainer holds one."""

    architecture: Architecture

    def __init__(self, name: str = "run_1", *, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.name = name
        self.model: torch.nn.Module = Net()
        self.optimizer: Any = torch.optim.AdamW(self.model.parameters(), lr=0.1, betas=(0.8, 0.9))

    def train(self, steps: int = 1) -> list[float]:
        """Some steps of training; the losses."""
        losses = []
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = self.model(torch.rand(2, 1, 4, 4)).pow(2).mean()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return losses


def trained(name: str = "run_1", *, seed: int = 0) -> Run:
    """A run whose optimizer has a state."""
    run = Run(name, seed=seed)
    run.train()
    return run


def traceable(run: Run) -> Run:
    """The run, such that its first weights leave a trace, which the other tests do without."""
    run.architecture = Architecture()
    return run


def same(one: Any, other: Any) -> bool:
    """Equality of states, to the bit and to the type."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict) and list(one) == list(other) and all(same(one[k], other[k]) for k in one)
        )
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def events(base: Path, run: str = "run_1") -> list[str]:
    """The types of the events in the run's stream."""
    return [event.type for event in Base.at(base).log.read_stream(f"weights/{run}")]


def link(base: Path, iteration: int) -> Path:
    """The familiar place of an iteration's weights."""
    return base / "run_1/checkpoints/iterations" / str(iteration)


def objects(base: Path) -> list[Path]:
    """The payloads that lie beside the log."""
    return sorted((base / "run_1/checkpoints/objects").iterdir())


@pytest.fixture
def store(tmp_path: Path) -> LocalWeightsStore:
    """A store on a base of its own."""
    return LocalWeightsStore(tmp_path)


def test_what_comes_back_is_what_went_in(store: LocalWeightsStore) -> None:
    """Model and optimizer states are equal to the bit, and load into a fresh run."""
    run = trained()
    store.store_weights(run, 20)
    weights = store.retrieve_weights("run_1", 20)
    assert same(weights.model, run.model.state_dict())
    assert same(weights.optimizer, run.optimizer.state_dict())
    other = Run(seed=1)
    store.load_weights(other, 20)
    assert same(other.model.state_dict(), run.model.state_dict())
    assert same(other.optimizer.state_dict(), run.optimizer.state_dict())


def test_model_state_keeps_the_schema_versions_of_its_modules(store: LocalWeightsStore) -> None:
    """load_state_dict reads them, so they must not be lost."""
    run = trained()
    store.store_weights(run, 0)
    model = store.retrieve_weights(run, 0).model
    assert isinstance(model, OrderedDict)
    assert model._metadata == run.model.state_dict()._metadata  # type: ignore[attr-defined]


def test_values_that_are_no_tensors_come_back_equal(store: LocalWeightsStore) -> None:
    """Optimizers keep numbers, lists, tuples, None and text beside their tensors."""
    state = {
        "state": {
            0: {"step": 3, "rate": 0.1, "none": None, "flag": True, "huge": 10**30, 7: [1, (2.5, "x")]}
        },
        "param_groups": [{"betas": (0.9, 0.999), "params": [0, 1], "size": torch.Size([2, 3]), "set": {1}}],
    }
    run = Run()
    run.optimizer = types.SimpleNamespace(state_dict=lambda: state)
    store.store_weights(run, 0)
    assert same(store.retrieve_weights(run, 0).optimizer, state)


def test_numpy_scalars_become_python_numbers(store: LocalWeightsStore) -> None:
    """A learning rate out of a NumPy array is stored and loads again."""
    run = Run()
    state = {"lr": np.float64(0.25), "step": np.int64(3), "flags": [np.bool_(1)], np.int64(1): "one"}
    run.optimizer = types.SimpleNamespace(state_dict=lambda: state)
    store.store_weights(run, 0)
    optimizer = store.retrieve_weights(run, 0).optimizer
    assert same(optimizer, {"lr": 0.25, "step": 3, "flags": [True], 1: "one"})


def test_state_that_could_not_be_loaded_again_is_refused_at_once(
    store: LocalWeightsStore, tmp_path: Path
) -> None:
    """An unloadable checkpoint must not be found out about when it is needed."""
    run = Run()
    run.optimizer = types.SimpleNamespace(state_dict=lambda: {"schedule": functools.partial(max, 1)})
    with pytest.raises(WeightsUnsafeError, match=r"functools\.partial"):
        store.store_weights(run, 0)
    assert events(tmp_path) == []
    assert objects(tmp_path) == []


def test_tied_tensors_are_stored_once(store: LocalWeightsStore, tmp_path: Path) -> None:
    """Two names of one tensor do not double the file."""
    run = Run()
    shared = torch.rand(1000)
    run.optimizer = types.SimpleNamespace(state_dict=lambda: {"a": shared, "b": shared, "c": shared[500:]})
    store.store_weights(run, 0)
    optimizer = store.retrieve_weights(run, 0).optimizer
    assert torch.equal(optimizer["a"], shared)
    assert torch.equal(optimizer["c"], shared[500:])
    assert objects(tmp_path)[0].stat().st_size < 2 * shared.nbytes + 8000


def test_recorded_digest_is_that_of_the_file(store: LocalWeightsStore, tmp_path: Path) -> None:
    """The digest is computed beside the writing and equals one computed from the disk."""
    from dacapo_store import artifacts

    run = trained()
    store.store_weights(run, 7)
    (event,) = Base.at(tmp_path).log.read_stream("weights/run_1")
    data = dict(event.data)
    assert (data.pop("run"), data.pop("iteration")) == ("run_1", 7)
    artifacts.verify_file(tmp_path, artifacts.Artifact(**data))
    assert (tmp_path / data["path"]).parent == tmp_path / "run_1/checkpoints/objects"


def test_layout_is_the_familiar_one(store: LocalWeightsStore, tmp_path: Path) -> None:
    """DACAPO 2: the weights are found in checkpoints/iterations, and torch alone can load them."""
    run = trained()
    store.store_weights(run, 20)
    state = torch.load(link(tmp_path, 20), weights_only=True)
    assert same(state["model"], run.model.state_dict())
    assert link(tmp_path, 20).samefile(objects(tmp_path)[0])


def test_storing_again_never_touches_the_old_file(store: LocalWeightsStore, tmp_path: Path) -> None:
    """TRAPS 21: the old event still names its bytes; the present weights are the new ones."""
    first, second = trained(seed=1), trained(seed=2)
    store.store_weights(first, 60)
    (old,) = objects(tmp_path)
    before, inode = old.read_bytes(), old.stat().st_ino
    store.store_weights(second, 60)
    assert old.read_bytes() == before
    assert old.stat().st_ino == inode
    assert len(objects(tmp_path)) == 2
    assert [path.name for path in link(tmp_path, 60).parent.iterdir()] == ["60"]
    assert same(store.retrieve_weights("run_1", 60).model, second.model.state_dict())
    assert not link(tmp_path, 60).samefile(old)


def test_run_is_given_by_name_or_as_an_object(store: LocalWeightsStore) -> None:
    """DACAPO 1: DaCapo passes either."""
    run = trained()
    store.store_weights(run, 20)
    store.store_best(run, 20, "ds", "dice")
    assert store.latest_iteration(run) == store.latest_iteration("run_1") == 20
    assert same(store.retrieve_weights(run, iteration=20).model, store.retrieve_weights("run_1", 20).model)
    assert store.retrieve_best(run, "ds", "dice") == store.retrieve_best("run_1", "ds", "dice") == 20


def test_latest_iteration_is_the_greatest(store: LocalWeightsStore) -> None:
    """Greatest by number, not by order of storing; removing it uncovers the one below."""
    run = trained()
    for iteration in (100, 20, 9):
        store.store_weights(run, iteration)
    assert store.latest_iteration("run_1") == 100
    store.remove("run_1", 100)
    assert store.latest_iteration("run_1") == 20


def test_latest_iteration_of_an_unknown_run_is_none(store: LocalWeightsStore) -> None:
    """DACAPO 2: the text promises an error that callers cannot live with."""
    assert store.latest_iteration("never_heard_of") is None


def test_stray_files_do_not_matter_to_the_latest_iteration(store: LocalWeightsStore, tmp_path: Path) -> None:
    """DACAPO 2: the log knows the iterations."""
    store.store_weights(trained(), 20)
    link(tmp_path, 20).with_name(".DS_Store").touch()
    link(tmp_path, 20).with_name("1000").touch()
    assert store.latest_iteration("run_1") == 20


@pytest.mark.parametrize("error", [FileNotFoundError, KeyError, WeightsMissingError])
def test_missing_weights_are_an_error_by_every_name(store: LocalWeightsStore, error: type[Exception]) -> None:
    """DACAPO 2: one class per thing missing; its text can be read."""
    store.store_weights(trained(), 20)
    with pytest.raises(error) as raised:
        store.retrieve_weights("run_1", 40)
    assert (
        str(raised.value)
        == "run 'run_1' has no weights of iteration 40: its latest are those of iteration 20"
    )


def test_damaged_weights_are_refused_before_they_are_unpickled(
    store: LocalWeightsStore, tmp_path: Path
) -> None:
    """Whatever bytes lie there now, a pickle with code in them too, only the stored ones reach torch."""
    store.store_weights(trained(), 20)
    torch.save({"model": {}, "optimizer": {}}, objects(tmp_path)[0])
    with pytest.raises(DamagedArtifactError) as raised:
        store.retrieve_weights("run_1", 20)
    assert str(objects(tmp_path)[0].relative_to(tmp_path)) in str(raised.value)


def test_flipped_bit_in_a_tensor_is_found(store: LocalWeightsStore, tmp_path: Path) -> None:
    """Torch alone would load it and say nothing."""
    run = trained()
    store.store_weights(run, 20)
    payload = bytearray(objects(tmp_path)[0].read_bytes())
    bias = run.model.state_dict()["conv.bias"].numpy().tobytes()
    payload[payload.index(bias)] ^= 1
    objects(tmp_path)[0].write_bytes(payload)
    with pytest.raises(DamagedArtifactError, match="digest"):
        store.retrieve_weights("run_1", 20)


def test_lost_payload_is_missing_and_the_text_says_what_to_do(
    store: LocalWeightsStore, tmp_path: Path
) -> None:
    """On record but gone is told from never stored."""
    store.store_weights(trained(), 20)
    objects(tmp_path)[0].unlink()
    with pytest.raises(WeightsMissingError, match=r"are on record, but their file .* is gone: restore"):
        store.retrieve_weights("run_1", 20)


class Marker:
    """Pickles as a call that leaves a mark."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def pickled_by_upstream(path: Path, model: Any, optimizer: Any) -> None:
    """A file as DaCapo's own store leaves it: a pickled object of its class."""
    module = types.ModuleType("dacapo.store.weights_store")
    theirs = type("Weights", (), {"__module__": module.__name__})
    module.Weights = theirs  # type: ignore[attr-defined]
    weights = theirs()
    weights.model, weights.optimizer = model, optimizer
    path.parent.mkdir(parents=True, exist_ok=True)
    packages = {name: types.ModuleType(name) for name in ("dacapo", "dacapo.store")}
    with pytest.MonkeyPatch.context() as patch:
        for name, made in {**packages, module.__name__: module}.items():
            patch.setitem(sys.modules, name, made)
        torch.save(weights, path)


def test_weights_that_dacapo_pickled_are_loaded(store: LocalWeightsStore, tmp_path: Path) -> None:
    """DACAPO 2: upstream's pickled Weights objects load through an allow-list, without DaCapo."""
    run = trained()
    pickled_by_upstream(link(tmp_path, 20), run.model.state_dict(), run.optimizer.state_dict())
    for weights in (store.retrieve_weights("run_1", 20), store._retrieve_weights("run_1", "20")):
        assert type(weights) is Weights
        assert same(weights.model, run.model.state_dict())
        assert same(weights.optimizer, run.optimizer.state_dict())
    assert "dacapo" not in str(torch.serialization.get_safe_globals())


@pytest.mark.parametrize("hard_links", [True, False])
def test_weights_that_the_log_never_knew_are_not_overwritten(
    store: LocalWeightsStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    hard_links: bool,
) -> None:
    """Somebody trains again in a base of DaCapo's own stores: what months of training left there stays."""
    run = trained()
    pickled_by_upstream(link(tmp_path, 20), run.model.state_dict(), run.optimizer.state_dict())
    before = link(tmp_path, 20).read_bytes()
    if not hard_links:

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(files, "link", refuse)
    new = trained(seed=1)
    for _ in range(2):
        store.store_weights(new, 20)
    (kept,) = (tmp_path / "run_1" / "checkpoints" / "unrecorded").iterdir()
    assert kept.read_bytes() == before
    assert str(kept) in caplog.text
    assert same(store.retrieve_weights("run_1", 20).model, new.model.state_dict())


def test_code_in_a_pickle_does_not_run(store: LocalWeightsStore, tmp_path: Path) -> None:
    """DESIGN 8: loading unpickles nothing but tensors and plain containers."""
    for iteration, write in enumerate(
        [torch.save, lambda state, path: path.write_bytes(pickle.dumps(state, protocol=2))]
    ):
        link(tmp_path, iteration).parent.mkdir(parents=True, exist_ok=True)
        write({"model": {}, "optimizer": Marker(tmp_path / "ran")}, link(tmp_path, iteration))
        with pytest.raises(WeightsUnsafeError, match="was not loaded"):
            store.retrieve_weights("run_1", iteration)
    pickled_by_upstream(link(tmp_path, 2), {}, Marker(tmp_path / "ran"))
    with pytest.raises(WeightsUnsafeError):
        store.retrieve_weights("run_1", 2)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("state", [{"model": {}}, [1, 2], torch.zeros(3), "text"])
def test_file_of_something_else_is_named(store: LocalWeightsStore, tmp_path: Path, state: Any) -> None:
    """A file that torch can load but that holds no weights."""
    link(tmp_path, 0).parent.mkdir(parents=True)
    torch.save(state, link(tmp_path, 0))
    with pytest.raises(WeightsUnsafeError, match="does not hold weights"):
        store.retrieve_weights("run_1", 0)


def test_cut_file_that_the_log_does_not_know_is_damaged(store: LocalWeightsStore, tmp_path: Path) -> None:
    """A foreign file has no digest, but half a zip file is seen."""
    torch.save({"model": {}, "optimizer": {}}, tmp_path / "whole")
    link(tmp_path, 0).parent.mkdir(parents=True)
    link(tmp_path, 0).write_bytes((tmp_path / "whole").read_bytes()[:-100])
    with pytest.raises((DamagedArtifactError, WeightsUnsafeError), match="iterations/0"):
        store.retrieve_weights("run_1", 0)


def test_retrieving_by_key_finds_iterations_bests_and_files(store: LocalWeightsStore, tmp_path: Path) -> None:
    """DACAPO 2: _retrieve_weights works on today's torch, for DaCapo's starts."""
    store.store_weights(trained(seed=1), 20)
    store.store_weights(trained(seed=2), 40)
    store.store_best("run_1", 40, "ds", "dice")
    torch.save({"model": {"cosem": torch.ones(1)}, "optimizer": {}}, link(tmp_path, 20).with_name("cosem_37"))
    best = store.retrieve_weights("run_1", 40)
    for key in ("40", "iterations/40", "ds/dice"):
        assert same(store._retrieve_weights("run_1", key).model, best.model)
    assert list(store._retrieve_weights("run_1", "cosem_37").model) == ["cosem"]
    with pytest.raises(FileNotFoundError):
        store._retrieve_weights("run_1", "nothing")
    with pytest.raises(ValueError, match="leads out"):
        store._retrieve_weights("run_1", "../../run_2/checkpoints/iterations/0")


def test_removed_weights_are_missing_and_their_files_gone(store: LocalWeightsStore, tmp_path: Path) -> None:
    """The event stays, the bytes do not."""
    store.store_weights(trained(), 20)
    store.remove("run_1", 20)
    assert events(tmp_path) == ["WeightsStored", "WeightsRemoved"]
    assert objects(tmp_path) == []
    assert not link(tmp_path, 20).exists()
    with pytest.raises(FileNotFoundError):
        store.retrieve_weights("run_1", 20)
    with pytest.raises(FileNotFoundError):
        store.remove("run_1", 20)


def test_removed_weights_stay_removed_when_their_link_was_left(
    store: LocalWeightsStore, tmp_path: Path
) -> None:
    """A crash between the event and the deletion is harmless, and the next repair finishes it."""
    store.store_weights(trained(), 20)
    payload = link(tmp_path, 20).read_bytes()
    store.remove("run_1", 20)
    link(tmp_path, 20).write_bytes(payload)
    with pytest.raises(WeightsMissingError):
        store.retrieve_weights("run_1", 20)
    with pytest.raises(WeightsMissingError):
        store._retrieve_weights("run_1", "20")
    store.repair_links()
    assert not link(tmp_path, 20).exists()


def test_weights_stored_after_a_removal_are_there(store: LocalWeightsStore, tmp_path: Path) -> None:
    """A removal ends what was stored before it, nothing else."""
    store.store_weights(trained(seed=1), 20)
    store.remove("run_1", 20)
    again = trained(seed=2)
    store.store_weights(again, 20)
    assert same(store.retrieve_weights("run_1", 20).model, again.model.state_dict())
    assert link(tmp_path, 20).exists()


def test_best_is_by_dataset_then_criterion(store: LocalWeightsStore, tmp_path: Path) -> None:
    """DACAPO 2: one order, dataset then criterion, in the layout of the specification."""
    for iteration in (20, 40):
        store.store_weights(trained(), iteration)
    store.store_best("run_1", 20, "ds", "dice")
    store.store_best("run_1", 40, "dice", "ds")
    assert store.retrieve_best("run_1", "ds", "dice") == 20
    assert store.retrieve_best("run_1", "dice", "ds") == 40
    assert json.loads((tmp_path / "run_1/checkpoints/ds/dice.json").read_text()) == {"iteration": 20}


def test_best_weights_load_into_a_run(store: LocalWeightsStore) -> None:
    """load_best looks up the choice and loads its weights."""
    best = trained(seed=3)
    store.store_weights(best, 20)
    store.store_weights(trained(seed=4), 40)
    store.store_best("run_1", 20, "ds", "dice")
    run = Run(seed=5)
    store.load_best(run, "ds", "dice")
    assert same(run.model.state_dict(), best.model.state_dict())


def test_dataset_may_be_an_object_with_a_name(store: LocalWeightsStore) -> None:
    """DACAPO 1: datasets come as objects; object and name mean the same dataset."""

    class Dataset:
        name = "volume/a"

        def __str__(self) -> str:
            return "ds_volume_a"

    store.store_weights(trained(), 20)
    store.store_best("run_1", 20, Dataset(), "dice")
    assert store.retrieve_best("run_1", "volume/a", "dice") == 20
    assert store.retrieve_best("run_1", Dataset(), "dice") == 20


def test_same_choice_again_writes_nothing(store: LocalWeightsStore, tmp_path: Path) -> None:
    """Validation is repeated; history is not."""
    store.store_weights(trained(), 20)
    for _ in range(3):
        store.store_best("run_1", 20, "ds", "dice")
    assert events(tmp_path) == ["WeightsStored", "BestWeightsChosen"]


def test_best_must_exist(store: LocalWeightsStore, tmp_path: Path) -> None:
    """DACAPO 2: store_best of missing weights is a FileNotFoundError and writes nothing."""
    store.store_weights(trained(), 20)
    store.store_weights(trained(), 40)
    store.remove("run_1", 40)
    for missing in (40, 60):
        with pytest.raises(FileNotFoundError):
            store.store_best("run_1", missing, "ds", "dice")
    assert "BestWeightsChosen" not in events(tmp_path)
    with pytest.raises(FileNotFoundError, match="no best weights for dataset 'ds' by criterion 'dice'"):
        store.retrieve_best("run_1", "ds", "dice")


def test_removing_the_best_ends_it(store: LocalWeightsStore, tmp_path: Path) -> None:
    """DACAPO 2: the best does not stay after remove; other choices do."""
    for iteration in (20, 40):
        store.store_weights(trained(), iteration)
    store.store_best("run_1", 20, "ds", "dice")
    store.store_best("run_1", 40, "ds", "voi")
    store.remove("run_1", 20)
    with pytest.raises(FileNotFoundError):
        store.retrieve_best("run_1", "ds", "dice")
    assert not (tmp_path / "run_1/checkpoints/ds/dice.json").exists()
    assert store.retrieve_best("run_1", "ds", "voi") == 40
    assert (tmp_path / "run_1/checkpoints/ds/voi.json").exists()
    store.store_weights(trained(), 20)
    with pytest.raises(FileNotFoundError):
        store.retrieve_best("run_1", "ds", "dice")


HARD_NAMES = [
    *("iterations", "objects", "..", ".", "", "a/b", "/etc", "../../../x"),
    *("%2E", "%", "ü/ß", ".hidden", "a\nb"),
]


def test_names_of_datasets_and_criteria_are_data(store: LocalWeightsStore, tmp_path: Path) -> None:
    """DACAPO 2: a dataset called iterations breaks nothing; no name leaves the folder or meets another."""
    for iteration in range(len(HARD_NAMES)):
        store.store_weights(trained(), iteration)
    before = {path for path in tmp_path.rglob("*") if "events" not in path.parts}
    for iteration, hard in enumerate(HARD_NAMES):
        store.store_best("run_1", iteration, hard, "dice")
        store.store_best("run_1", iteration, "ds", hard)
    for iteration, hard in enumerate(HARD_NAMES):
        assert store.retrieve_best("run_1", hard, "dice") == iteration
        assert store.retrieve_best("run_1", "ds", hard) == iteration
    assert store.latest_iteration("run_1") == len(HARD_NAMES) - 1
    made = {path for path in tmp_path.rglob("*") if "events" not in path.parts} - before
    jsons = sorted(path.relative_to(tmp_path).parts for path in made if path.is_file())
    assert len(jsons) == 2 * len(HARD_NAMES)
    assert all(parts[:2] == ("run_1", "checkpoints") and len(parts) == 4 for parts in jsons)
    assert not {parts[2] for parts in jsons} & {"iterations", "objects"}
    assert not list(tmp_path.parent.glob("x*"))


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../../escape", "configs", "stats", "events", "views", "a\0"]
)
def test_run_names_that_cannot_be_folders_are_refused(
    store: LocalWeightsStore, tmp_path: Path, name: str
) -> None:
    """DACAPO 2: no run writes outside the base or into a store's folder."""
    before = sorted(tmp_path.rglob("*"))
    calls = [
        lambda: store.store_weights(Run(name), 0),
        lambda: store.retrieve_weights(name, 0),
        lambda: store._retrieve_weights(name, "0"),
        lambda: store.latest_iteration(name),
        lambda: store.remove(name, 0),
        lambda: store.store_best(name, 0, "ds", "dice"),
        lambda: store.retrieve_best(name, "ds", "dice"),
        lambda: store.repair_links(name),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^a run"):
            call()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("iteration", [-1, 1.5, "20", None])
def test_iterations_are_whole_numbers_from_zero(store: LocalWeightsStore, iteration: Any) -> None:
    """What cannot be an iteration is refused before anything is written."""
    with pytest.raises((ValueError, TypeError)):
        store.store_weights(Run(), iteration)


def test_missing_link_is_mended_when_the_iteration_is_touched(
    store: LocalWeightsStore, tmp_path: Path
) -> None:
    """The link is derived: weights load without it, and loading brings it back."""
    run = trained()
    store.store_weights(run, 20)
    link(tmp_path, 20).unlink()
    assert same(store.retrieve_weights("run_1", 20).model, run.model.state_dict())
    assert link(tmp_path, 20).samefile(objects(tmp_path)[0])


def test_link_to_another_payload_is_mended(store: LocalWeightsStore, tmp_path: Path) -> None:
    """A crash between the second event and its link leaves the first one's."""
    store.store_weights(trained(seed=1), 20)
    (old,) = objects(tmp_path)
    second = trained(seed=2)
    store.store_weights(second, 20)
    link(tmp_path, 20).unlink()
    link(tmp_path, 20).hardlink_to(old)
    for _ in range(2):
        store.repair_links("run_1")
    assert [path.name for path in link(tmp_path, 20).parent.iterdir()] == ["20"]
    assert same(torch.load(link(tmp_path, 20), weights_only=True)["model"], second.model.state_dict())


def test_all_derived_files_come_back_from_the_log(store: LocalWeightsStore, tmp_path: Path) -> None:
    """DESIGN 1: what is derived may be deleted at any time and is built again with equal content."""
    for iteration in (20, 40):
        store.store_weights(trained(), iteration)
        store.store_weights(trained("run_2"), iteration)
    store.store_best("run_1", 20, "ds", "dice")
    store.store_best("run_2", 40, "iterations", "voi")
    store.remove("run_2", 20)

    def derived() -> dict[str, int]:
        found = [path for path in tmp_path.glob("run_*/checkpoints/*/*") if "objects" not in path.parts]
        return {
            str(path): path.stat().st_ino if path.suffix == "" else len(path.read_text()) for path in found
        }

    before = derived()
    assert len(before) == 5
    for path in before:
        Path(path).unlink()
    store.repair_links()
    assert derived() == before


def test_links_become_symbolic_where_there_are_no_hard_ones(
    store: LocalWeightsStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems know no hard links; the layout stays usable, and removing still cleans up."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    run = trained()
    for _ in range(2):
        store.store_weights(run, 20)
    assert link(tmp_path, 20).is_symlink()
    assert not link(tmp_path, 20).readlink().is_absolute()
    assert same(torch.load(link(tmp_path, 20), weights_only=True)["model"], run.model.state_dict())
    store.remove("run_1", 20)
    assert not link(tmp_path, 20).is_symlink()


def test_failing_link_does_not_stop_the_training(
    store: LocalWeightsStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The weights are safe once their event stands; the familiar place is only derived."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(files, "link", refuse)
    run = trained()
    store.store_weights(run, 20)
    assert "repair_links()" in caplog.text
    assert same(store.retrieve_weights("run_1", 20).model, run.model.state_dict())


def test_refused_event_leaves_no_file(
    store: LocalWeightsStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DACAPO 2, full disk: error, nothing lost, and the room is given back."""
    store.store_weights(trained(), 20)

    def refuse(*_: Any, **__: Any) -> None:
        raise WriteRefusedError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(type(Base.at(tmp_path)), "append", refuse)
        with pytest.raises(WriteRefusedError):
            store.store_weights(trained(), 40)
    assert len(objects(tmp_path)) == 1
    assert store.latest_iteration("run_1") == 20


def test_payload_is_durable_before_its_event(
    store: LocalWeightsStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRAPS 21: a power cut never leaves an event without its bytes."""
    order: list[str] = []
    append, sync_file, sync_directory = Base.append, files.sync_file, files.sync_directory

    def note_append(self: Base, *arguments: Any, **more: Any) -> Any:
        order.append("event")
        return append(self, *arguments, **more)

    def note_file(descriptor: int) -> None:
        order.append(Path(f"/proc/self/fd/{descriptor}").readlink().suffix)
        sync_file(descriptor)

    def note_directory(path: Path) -> None:
        order.append(path.name)
        sync_directory(path)

    store.store_weights(trained(), 20)
    monkeypatch.setattr(Base, "append", note_append)
    monkeypatch.setattr(files, "sync_file", note_file)
    monkeypatch.setattr(files, "sync_directory", note_directory)
    store.store_weights(trained(), 40)
    # Folders may be synced in front of them, once in the life of a process.
    assert order[order.index(".pt") : order.index("event")] == [".pt", "objects"]


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
def test_first_weights_leave_a_trace_of_the_model(store: LocalWeightsStore, tmp_path: Path) -> None:
    """DACAPO 2: checkpoints/trace.pt, of a model in evaluation, on an input of the architecture's shape."""
    run = traceable(Run())
    run.model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 3), torch.nn.Dropout(0.5))
    store.store_weights(run, 0)
    traced = torch.jit.load(str(tmp_path / "run_1/checkpoints/trace.pt"))  # type: ignore[no-untyped-call]
    image = torch.rand(1, 1, 4, 4)
    assert torch.equal(traced(image), run.model.eval()(image))


def test_trace_is_written_once(store: LocalWeightsStore, tmp_path: Path) -> None:
    """Later weights of the run leave it alone."""
    run = traceable(trained())
    store.store_weights(run, 0)
    before = (tmp_path / "run_1/checkpoints/trace.pt").stat()
    store.store_weights(run, 20)
    LocalWeightsStore(tmp_path).store_weights(run, 40)
    assert (tmp_path / "run_1/checkpoints/trace.pt").stat() == before


def test_untraceable_model_is_stored_all_the_same(
    store: LocalWeightsStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """DACAPO 2: a failure of the trace is logged, never raised, and leaves no file."""
    run = traceable(trained())
    run.architecture.input_shape = (1, 2, 3, 4, 5)
    with caplog.at_level(logging.INFO):
        store.store_weights(run, 20)
    assert "cannot be traced" in caplog.text
    assert same(store.retrieve_weights("run_1", 20).model, run.model.state_dict())
    assert {path.name for path in (tmp_path / "run_1/checkpoints").iterdir()} == {"iterations", "objects"}


def test_trace_disturbs_neither_model_nor_random_numbers(store: LocalWeightsStore) -> None:
    """A training is the same with a trace and without: modes, buffers, and all random generators."""
    run = traceable(trained())
    run.model.get_submodule("norm").eval()
    calls = run.model.get_buffer("calls")
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    modes = [module.training for module in run.model.modules()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    store.store_weights(run, 20)
    assert same(OrderedDict(before), OrderedDict(run.model.state_dict()))
    assert run.model.get_buffer("calls") is calls
    assert [module.training for module in run.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # noqa: NPY002


def test_losses_are_the_same_with_the_store_and_without(store: LocalWeightsStore) -> None:
    """Same seed, same losses."""

    def losses(*, stored: bool) -> list[float]:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        run = traceable(Run(seed=0))
        before = run.train(2)
        if stored:
            store.store_weights(run, 2)
        return before + run.train(2)

    assert losses(stored=True) == losses(stored=False)


def test_relative_base_is_resolved_when_the_store_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DACAPO 2: nothing dangles with a relative base, and changing the folder changes nothing."""
    monkeypatch.chdir(tmp_path)
    store = LocalWeightsStore("base")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.store_weights(trained(), 20)
    store.store_best("run_1", 20, "ds", "dice")
    assert store.basedir == tmp_path / "base"
    assert link(tmp_path / "base", 20).exists()
    assert store.retrieve_best("run_1", "ds", "dice") == 20
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_another_store_sees_what_this_one_wrote(store: LocalWeightsStore, tmp_path: Path) -> None:
    """DACAPO 1: a new store object is made all the time."""
    run = trained()
    store.store_weights(run, 20)
    assert LocalWeightsStore(tmp_path).latest_iteration("run_1") == 20
    assert same(LocalWeightsStore(str(tmp_path)).retrieve_weights("run_1", 20).model, run.model.state_dict())


def test_forked_worker_reads_what_its_parent_stores(store: LocalWeightsStore) -> None:
    """DACAPO 1: DataLoader workers are forked while stores are open; both go on working."""
    store.store_weights(trained(), 20)
    assert store.latest_iteration("run_1") == 20
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)

    def work() -> None:
        sender.send(
            (store.latest_iteration("run_1"), float(store.retrieve_weights("run_1", 20).optimizer["lr"]))
        )

    run = Run()
    run.optimizer = types.SimpleNamespace(state_dict=lambda: {"lr": 0.5})
    store.store_weights(run, 20)
    worker = context.Process(target=work)
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert receiver.recv() == (20, 0.5)
    store.store_weights(run, 40)
    assert store.latest_iteration("run_1") == 40


def store_in_a_process(base: Path, seed: int, start: Any) -> None:
    """Store the same iterations as the others do, choose and remove among them."""
    store, run = LocalWeightsStore(base), trained(seed=seed)
    start.wait()
    for iteration in range(4):
        store.store_weights(run, iteration)
        for act in (
            lambda: store.store_best("run_1", iteration, "ds", "dice"),  # noqa: B023
            lambda: store.remove("run_1", iteration - 1),  # noqa: B023
        ):
            try:
                act()
            except (FileNotFoundError, ValueError):
                # Another process was first, or there is nothing before the first.
                continue


def test_processes_that_store_choose_and_remove_at_once_leave_what_the_log_says(tmp_path: Path) -> None:
    """Best is never chosen for removed weights; links and JSON files follow the last word."""
    Base.at(tmp_path)
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    workers = [context.Process(target=store_in_a_process, args=(tmp_path, seed, start)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    there: set[int] = set()
    for event in Base.at(tmp_path).log.read_stream("weights/run_1"):
        iteration = event.data["iteration"]
        if event.type == "WeightsStored":
            there.add(iteration)
        else:
            assert iteration in there, f"{event.type} of iteration {iteration}, which is not there"
        if event.type == "WeightsRemoved":
            there.remove(iteration)
    store = LocalWeightsStore(tmp_path)
    for iteration in range(4):
        if iteration in there:
            assert same(
                store.retrieve_weights("run_1", iteration).model,
                torch.load(link(tmp_path, iteration), weights_only=True)["model"],
            )
        else:
            assert not link(tmp_path, iteration).exists()


def test_a_base_may_be_opened_read_only(store: LocalWeightsStore, tmp_path: Path) -> None:
    """All questions are answered, all writes refused, and not even a missing link is made."""
    run = trained()
    store.store_weights(run, 20)
    store.store_best(run, 20, "crop", "dice")
    link(tmp_path, 20).unlink()
    everything = sorted(tmp_path.rglob("*"))
    reader = LocalWeightsStore(tmp_path, read_only=True)
    assert reader.latest_iteration(run) == 20
    assert reader.retrieve_best(run, "crop", "dice") == 20
    assert same(reader.retrieve_weights(run, 20).model, run.model.state_dict())
    reader.load_best(Run(seed=1), "crop", "dice")
    writes: list[Any] = [
        lambda: reader.store_weights(run, 40),
        lambda: reader.store_weights(run, 40, wait=False),
        lambda: reader.store_best(run, 20, "crop", "dice"),
        lambda: reader.remove(run, 20),
        reader.repair_links,
    ]
    for write in writes:
        with pytest.raises(ReadOnlyLogError, match="without read_only=True"):
            write()
    assert sorted(tmp_path.rglob("*")) == everything
    with pytest.raises(LogNotFoundError):
        LocalWeightsStore(tmp_path / "none", read_only=True)


def mapped(tensor: torch.Tensor) -> bool:
    """True when a tensor's memory is a file's."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(each, 16) for each in line.split()[0].split("-"))
        if start <= tensor.data_ptr() < end:
            return "/objects/" in line
    return False


def test_retrieved_weights_lie_in_the_file_and_are_the_caller_s_own(
    store: LocalWeightsStore, tmp_path: Path
) -> None:
    """Nothing is copied; changing them does not change the file, and they outlive its name."""
    run = trained()
    store.store_weights(run, 20)
    first, second = store.retrieve_weights(run, 20), store.retrieve_weights(run, 20)
    assert mapped(first.model["conv.weight"])
    with torch.no_grad():
        first.model["conv.weight"].fill_(7)
    assert same(second.model, run.model.state_dict())
    assert same(store.retrieve_weights(run, 20).model, run.model.state_dict())
    store.remove(run, 20)
    assert objects(tmp_path) == []
    assert same(second.optimizer, run.optimizer.state_dict())
    assert torch.all(first.model["conv.weight"] == 7)


def test_run_that_weights_were_loaded_into_has_memory_of_its_own(store: LocalWeightsStore) -> None:
    """A training of weeks must not hang on a file: optimizers keep the tensors that they are given."""
    store.store_weights(trained(), 20)
    run = Run(seed=1)
    store.load_weights(run, 20)
    state = run.optimizer.state_dict()["state"]
    assert not any(mapped(tensor) for each in state.values() for tensor in each.values())
    assert not any(mapped(parameter) for parameter in run.model.parameters())


@pytest.mark.parametrize("reason", ["tensors would be shared with the file", "network", "no /proc"])
def test_weights_are_read_where_mapping_them_is_unsafe(
    reason: str, store: LocalWeightsStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others may take a network's file away, and a shared mapping would write to the payload."""
    run = trained()
    store.store_weights(run, 20)
    if reason == "network":
        monkeypatch.setattr(weights_file, "network_file_system", lambda _: "nfs4")
    elif reason == "no /proc":
        monkeypatch.setattr(weights_file, "_OWN_DESCRIPTORS", Path("/nowhere"))
    shared = reason.startswith("tensors")
    flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
    with torch.serialization.set_default_mmap_options(flags):  # type: ignore[no-untyped-call]
        weights = store.retrieve_weights(run, 20)
    assert not mapped(weights.model["conv.weight"])
    assert same(weights.model, run.model.state_dict())
