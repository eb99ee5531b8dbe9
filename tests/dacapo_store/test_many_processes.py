"""Several processes on one base: nothing is lost, and exactly one wins where only one can."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.queues import Queue
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from dacapo_store import (
    DuplicateNameError,
    FileConfigStore,
    FileStatsStore,
    TrainingIterationStats,
    TrainingStats,
    ValidationIterationScores,
)
from dacapo_store.base import Base

PROCESSES = 4
ROUNDS = 25
RUN = "run_7"
CONTEXT = multiprocessing.get_context("spawn")


def at_once(work: Callable[..., Any], path: Path, *shared: Any) -> list[Any]:
    """Run ``work(path, number, *shared)`` in fresh processes, begun together; their answers in order."""
    barrier, answers = CONTEXT.Barrier(PROCESSES), CONTEXT.Queue()
    processes = [
        CONTEXT.Process(target=_worker, args=(work, path, number, barrier, answers, *shared))
        for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    by_number = dict(answers.get(timeout=240) for _ in processes)
    for process in processes:
        process.join()
    return [by_number[number] for number in range(PROCESSES)]


def _worker(
    work: Callable[..., Any], path: Path, number: int, barrier: Barrier, answers: Queue[Any], *shared: Any
) -> None:
    barrier.wait()
    try:
        answer = work(path, number, *shared)
    except Exception as error:  # noqa: BLE001 - the test says which answers it expects
        answer = repr(error)
    answers.put((number, answer))


def validation(iteration: int, number: int) -> list[ValidationIterationScores]:
    """The scores that one process found at one iteration."""
    return [ValidationIterationScores(iteration, [[[float(number)]]])]


def _validate_in_turn(path: Path, number: int, counter: Synchronized[int]) -> None:
    for _ in range(ROUNDS):
        with counter.get_lock():
            counter.value += 1
            FileStatsStore(path / "stats").store_validation_iteration_scores(
                RUN, validation(counter.value, number)
            )


def test_validations_of_several_processes_are_all_kept(tmp_path: Path) -> None:
    """Upstream: "4 processes x 25 validations on one run: 25-30 of 100 left": 100 of 100, none raises.

    One stores behind the other; each finds what the others have stored since its own last call.
    """
    assert at_once(_validate_in_turn, tmp_path, CONTEXT.Value("q", 0)) == [None] * PROCESSES
    rows = FileStatsStore(tmp_path / "stats").retrieve_validation_iteration_scores(RUN)
    assert [row.iteration for row in rows] == list(range(1, PROCESSES * ROUNDS + 1))
    numbers = sorted(row.scores[0][0][0] for row in rows)
    assert numbers == sorted(float(number) for number in range(PROCESSES) for _ in range(ROUNDS))


def _validate_at_once(path: Path, number: int) -> None:
    for turn in range(ROUNDS):
        FileStatsStore(path / "stats").store_validation_iteration_scores(
            RUN, validation(turn * PROCESSES + number, number)
        )


def test_validations_at_the_same_moment_are_decided_one_after_the_other(tmp_path: Path) -> None:
    """Whatever the order in which they are committed, the rule is applied in it, and none is lost.

    A validation that comes after a later iteration's begins the run's scores anew, by the rule; so
    what is in view depends on the order. It is in the history, and there each of them is found once.
    """
    assert at_once(_validate_at_once, tmp_path) == [None] * PROCESSES
    in_order = [
        iteration
        for event in Base.at(tmp_path).log.read_stream(f"validation/{RUN}")
        if event.index is not None
        for iteration in event.index.to_pylist()
    ]
    assert sorted(in_order) == list(range(PROCESSES * ROUNDS))
    in_view: list[int] = []
    for iteration in in_order:
        in_view = [*in_view, iteration] if iteration > max(in_view, default=-1) else [iteration]
    rows = FileStatsStore(tmp_path / "stats").retrieve_validation_iteration_scores(RUN)
    assert [row.iteration for row in rows] == in_view


def _train_own_run(path: Path, number: int) -> None:
    stats = TrainingStats()
    for iteration in range(ROUNDS):
        stats.add_iteration_stats(TrainingIterationStats(iteration, loss=float(number)))
        FileStatsStore(path / "stats").store_training_stats(f"run_{number}", stats)


def test_runs_that_train_in_parallel_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Four trainers on one base, each storing after every iteration."""
    assert at_once(_train_own_run, tmp_path) == [None] * PROCESSES
    store = FileStatsStore(tmp_path / "stats")
    for number in range(PROCESSES):
        stats = store.retrieve_training_stats(f"run_{number}")
        assert stats.iterations.tolist() == list(range(ROUNDS))
        assert stats.column("loss").tolist() == [float(number)] * ROUNDS
    assert Base.at(tmp_path).log.next_position == PROCESSES * ROUNDS


def _store_equal_config(path: Path, number: int) -> None:
    FileConfigStore(path / "configs").store_trainer_config({"name": "adam", "rate": float("nan")})


def test_one_config_stored_by_all_is_stored_once(tmp_path: Path) -> None:
    """Upstream: "48-72 of 120 spurious DuplicateNameError": equal content is no error, and one event."""
    assert at_once(_store_equal_config, tmp_path) == [None] * PROCESSES
    assert Base.at(tmp_path).log.next_position == 1


def _store_own_configs(path: Path, number: int) -> list[int]:
    store, won = FileConfigStore(path / "configs"), []
    for place in range(ROUNDS):
        with contextlib.suppress(DuplicateNameError):
            store.store_trainer_config({"name": f"adam_{place}", "winner": number})
            won.append(place)
    return won


def test_of_different_configs_of_a_name_exactly_one_is_stored(tmp_path: Path) -> None:
    """Upstream: "different configs of one name: two are told 'ok'": who is told so is who is retrieved."""
    won = at_once(_store_own_configs, tmp_path)
    assert sorted(place for places in won for place in places) == list(range(ROUNDS))
    store = FileConfigStore(tmp_path / "configs")
    for number, places in enumerate(won):
        for place in places:
            assert store.retrieve_trainer_config(f"adam_{place}")["winner"] == number
    assert Base.at(tmp_path).log.next_position == ROUNDS


def _store_own_runs(path: Path, number: int) -> list[int]:
    store, won = FileConfigStore(path / "configs"), []
    for place in range(ROUNDS):
        with contextlib.suppress(DuplicateNameError):
            part = {"name": f"adam_{place}", "winner": number}
            store.store_run_config({"name": f"run_{place}_{number}", "trainer_config": part})
            won.append(place)
    return won


def test_of_runs_that_disagree_on_a_part_exactly_one_is_stored(tmp_path: Path) -> None:
    """The others store nothing at all: no run refers to a part that is not the stored one."""
    won = at_once(_store_own_runs, tmp_path)
    assert sorted(place for places in won for place in places) == list(range(ROUNDS))
    runs = {f"run_{place}_{number}" for number, places in enumerate(won) for place in places}
    assert set(FileConfigStore(tmp_path / "configs").retrieve_run_config_names()) == runs


def test_a_forked_child_uses_the_stores_it_inherited(tmp_path: Path) -> None:
    """DataLoader workers are forked while stores are open, and parent and child go on storing."""
    configs, stats = FileConfigStore(tmp_path / "configs"), FileStatsStore(tmp_path / "stats")
    configs.store_task_config({"name": "parent"})
    stats.store_training_stats(RUN, [TrainingIterationStats(0, loss=1.0)])
    assert len(stats.retrieve_training_stats(RUN).iteration_stats) == 1
    child = os.fork()
    if child == 0:
        status = 1
        try:
            configs.store_task_config({"name": "child"})
            stats.store_training_stats(RUN, [TrainingIterationStats(1, loss=0.5)])
            status = int(stats.retrieve_training_stats(RUN).trained_until() != 2)
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stats.store_training_stats(RUN, [TrainingIterationStats(2, loss=0.2)])
    assert configs.retrieve_task_config_names() == ["child", "parent"]
    assert stats.retrieve_training_stats(RUN).iterations.tolist() == [0, 1, 2]
