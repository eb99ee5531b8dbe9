"""Hypothesis drives an array store against a dictionary: the disk, the log and the view agree."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dacapo_store import LocalArrayStore
from dacapo_store.array_store import LocalArrayIdentifier
from dacapo_store.base import Base

RUNS = st.sampled_from(["run_1", "run_2"])
PLACES = st.sampled_from(
    [
        lambda store, run: store.validation_prediction_array(run, 10, "ds"),
        lambda store, run: store.validation_output_array(run, 10, "threshold_0.5", "ds"),
        lambda store, run: store.best_validation_array(run, "dice"),
        lambda store, run: store.validation_input_arrays(run, "ds")[1],
        lambda store, run: store.snapshot_container(run).array_identifier("20/volumes/raw"),
    ]
)
SHAPES = st.sampled_from([(4,), (3, 5), (2, 2, 2)])
Key = tuple[str, str]


class ArrayMachine(RuleBasedStateMachine):
    """What lies on the disk is what was written and not removed; every removal is on record, once."""

    @initialize()
    def begin(self) -> None:
        """An empty base, and two stores on it."""
        self.path = Path(tempfile.mkdtemp())
        self.stores = [LocalArrayStore(self.path), LocalArrayStore(str(self.path))]
        self.arrays: dict[Key, tuple[int, ...]] = {}
        self.removals: list[tuple[str, str, tuple[int, ...]]] = []

    @rule(run=RUNS, place=PLACES, shape=SHAPES)
    def write(self, run: str, place: Any, shape: tuple[int, ...]) -> None:
        """Somebody writes an array where the store says, or anew over the one that is there."""
        identifier = place(self.stores[0], run)
        group = zarr.open_group(str(identifier.container), mode="a")
        array = group.create_array(identifier.dataset, shape=shape, dtype="float32", overwrite=True)
        array[:] = np.ones(shape, "float32")
        self.arrays[self.key(identifier)] = shape

    @rule(run=RUNS, place=PLACES, store=st.integers(0, 1))
    def remove(self, run: str, place: Any, store: int) -> None:
        """Remove an array; nothing happens when there is none."""
        identifier = place(self.stores[store], run)
        self.stores[store].remove(identifier)
        shape = self.arrays.pop(self.key(identifier), None)
        if shape is not None:
            self.removals.append((*self.key(identifier), shape))

    @rule(run=RUNS)
    def remove_what_leads_out(self, run: str) -> None:
        """A dataset that would leave its container is refused, and everything stays."""
        container = self.stores[0].validation_container(run).container
        for dataset in ("", "..", "../snapshot.zarr", "/"):
            try:
                self.stores[0].remove(LocalArrayIdentifier(container, dataset))
            except ValueError:
                continue
            raise AssertionError(dataset)

    @rule()
    def tidy(self) -> None:
        """Emptying the trash touches nothing that is in use."""
        self.stores[0].empty_trash()

    @invariant()
    def disk_and_view_agree_with_the_dictionary(self) -> None:
        """Arrays that are there, with their shapes; removals in order, with theirs."""
        for (container, dataset), shape in self.arrays.items():
            assert zarr.open_array(str(self.path / container / dataset), mode="r").shape == shape
        found = {self.relative(path.parent) for path in self.path.rglob("zarr.json") if self.is_array(path)}
        assert found == {f"{container}/{dataset}" for container, dataset in self.arrays}
        removals = "SELECT container, dataset, shape FROM array_removals ORDER BY position"
        rows = Base.at(self.path).query(removals).fetchall()
        assert [(container, dataset, tuple(shape)) for container, dataset, shape in rows] == self.removals

    def key(self, identifier: LocalArrayIdentifier) -> Key:
        """Container and dataset as the log names them."""
        return self.relative(Path(str(identifier.container))), identifier.dataset

    def relative(self, path: Path) -> str:
        """The path below the base."""
        return str(path.relative_to(self.path.resolve()))

    def is_array(self, metadata: Path) -> bool:
        """Whether a zarr.json is that of an array outside the trash."""
        return '"node_type": "array"' in metadata.read_text() and ".trash" not in metadata.parts

    def teardown(self) -> None:
        """Let go of the base."""
        if hasattr(self, "path"):
            Base.at(self.path).close()
            shutil.rmtree(self.path)


TestArrayMachine = ArrayMachine.TestCase
TestArrayMachine.settings = settings(max_examples=12, stateful_step_count=12, deadline=None)
