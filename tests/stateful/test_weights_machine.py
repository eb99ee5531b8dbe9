"""Hypothesis drives a weights store against dictionaries: the log, the views and the files agree."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dacapo_store.base import Base
from dacapo_store.errors import WeightsMissingError
from dacapo_store.weights_store import LocalWeightsStore

RUNS = st.sampled_from(["run_1", "run_2"])
ITERATIONS = st.sampled_from([0, 9, 10, 100])
CHOICES = st.tuples(st.sampled_from(["ds", "iterations", "a/b"]), st.sampled_from(["dice", "ds"]))


def run_with(name: str, number: float) -> Any:
    """A run whose whole state is one number."""
    model = SimpleNamespace(state_dict=lambda: {"weight": torch.full((3,), number)})
    optimizer = SimpleNamespace(state_dict=lambda: {"lr": number, "betas": (0.9, number)})
    return SimpleNamespace(name=name, model=model, optimizer=optimizer)


def raises_missing(call: Any, *arguments: Any) -> bool:
    """Whether the call says that the weights are missing."""
    try:
        call(*arguments)
    except WeightsMissingError:
        return True
    return False


class WeightsMachine(RuleBasedStateMachine):
    """What the store says is what the dictionaries say, after any sequence of calls and accidents."""

    @initialize()
    def begin(self) -> None:
        """An empty base."""
        self.path = Path(tempfile.mkdtemp())
        self.store = LocalWeightsStore(self.path)
        self.weights: dict[tuple[str, int], float] = {}
        self.best: dict[tuple[str, tuple[str, str]], int] = {}
        self.payloads: dict[str, bytes] = {}
        self.count = 0.0

    @rule(run=RUNS, iteration=ITERATIONS)
    def store_weights(self, run: str, iteration: int) -> None:
        """Store, again or for the first time."""
        self.count += 1
        self.store.store_weights(run_with(run, self.count), iteration)
        self.weights[run, iteration] = self.count

    @rule(run=RUNS, iteration=ITERATIONS)
    def remove(self, run: str, iteration: int) -> None:
        """Remove what may be there."""
        assert raises_missing(self.store.remove, run, iteration) == ((run, iteration) not in self.weights)
        self.weights.pop((run, iteration), None)
        ended = [key for key, best in self.best.items() if key[0] == run and best == iteration]
        for key in ended:
            del self.best[key]

    @rule(run=RUNS, iteration=ITERATIONS, choice=CHOICES)
    def store_best(self, run: str, iteration: int, choice: tuple[str, str]) -> None:
        """Choose what may be there, perhaps again."""
        missing = raises_missing(self.store.store_best, run, iteration, *choice)
        assert missing == ((run, iteration) not in self.weights)
        if not missing:
            self.best[run, choice] = iteration

    @rule(run=RUNS, iteration=ITERATIONS)
    def retrieve(self, run: str, iteration: int) -> None:
        """What comes back is what went in last."""
        number = self.weights.get((run, iteration))
        if number is None:
            assert raises_missing(self.store.retrieve_weights, run, iteration)
            return
        weights = self.store.retrieve_weights(run, iteration)
        assert torch.equal(weights.model["weight"], torch.full((3,), number))
        assert weights.optimizer == {"lr": number, "betas": (0.9, number)}
        self.require_name(run, iteration)

    @rule(run=RUNS, choice=CHOICES)
    def retrieve_best(self, run: str, choice: tuple[str, str]) -> None:
        """The choice stands until its weights are removed."""
        best = self.best.get((run, choice))
        if best is None:
            assert raises_missing(self.store.retrieve_best, run, *choice)
        else:
            assert self.store.retrieve_best(run, *choice) == best

    @rule()
    def make_the_store_again(self) -> None:
        """Another store on the same base."""
        self.store = LocalWeightsStore(self.path)

    @rule()
    def begin_as_a_new_process(self) -> None:
        """Nothing but the disk is left of what was known."""
        self.close()
        self.store = LocalWeightsStore(self.path)

    @precondition(lambda self: self.weights)
    @rule(data=st.data())
    def lose_a_link(self, data: st.DataObject) -> None:
        """A derived file is lost; repairing brings back exactly what the log says."""
        run, iteration = data.draw(st.sampled_from(sorted(self.weights)))
        self.link(run, iteration).unlink()
        self.store.repair_links(data.draw(st.sampled_from([None, run])))

    @invariant()
    def greatest_iteration_is_the_latest(self) -> None:
        """Of each run, by number."""
        for run in ("run_1", "run_2"):
            expected = max((iteration for name, iteration in self.weights if name == run), default=None)
            assert self.store.latest_iteration(run) == expected

    @invariant()
    def derived_files_say_what_the_log_says(self) -> None:
        """The links and JSON files that ought to be there are there, and no others."""
        links = {path: path.stat().st_ino for path in self.path.glob("run_*/checkpoints/iterations/*")}
        assert links.keys() == {self.link(*key) for key in self.weights}
        assert set(links.values()) <= {path.stat().st_ino for path in self.objects()}
        chosen = [json.loads(path.read_text()) for path in self.path.glob("run_*/checkpoints/*/*.json")]
        assert sorted(each["iteration"] for each in chosen) == sorted(self.best.values())

    @invariant()
    def no_payload_ever_changes(self) -> None:
        """A payload keeps its bytes for as long as it is there."""
        present = self.contents()
        for path, content in self.payloads.items():
            assert present.get(path, content) == content
        self.payloads = present

    def require_name(self, run: str, iteration: int) -> None:
        """What was retrieved has its familiar name."""
        assert self.link(run, iteration).exists()

    def contents(self) -> dict[str, bytes]:
        """All payloads, by name."""
        return {str(path): path.read_bytes() for path in self.objects()}

    def link(self, run: str, iteration: int) -> Path:
        """The familiar place of an iteration's weights."""
        return self.path / run / "checkpoints/iterations" / str(iteration)

    def objects(self) -> list[Path]:
        """All payloads."""
        return list(self.path.glob("run_*/checkpoints/objects/*"))

    def close(self) -> None:
        """Forget the base as the end of the process would."""
        Base.at(self.path).close()

    def teardown(self) -> None:
        """Leave nothing behind."""
        if hasattr(self, "path"):
            self.close()
            shutil.rmtree(self.path)


TestWeightsMachine = WeightsMachine.TestCase
# Each step syncs files, so there are fewer examples than of a test in memory.
TestWeightsMachine.settings = settings(
    max_examples=max(10, settings.default.max_examples // 5), stateful_step_count=20
)
