"""A DataLoader's persistent forked workers beside a training that stores: nothing blocks, dead or alive.

The trainer opens its stores, queries them, and has a thread that stores all the time; then its
workers are forked, and they go on using the stores that they inherited. Time limits here are for
hangs only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

from dacapo_store import (
    FileConfigStore,
    FileStatsStore,
    LocalWeightsStore,
    TrainingIterationStats,
    ValidationIterationScores,
)
from dacapo_store.base import Base

HANG_SECONDS = 120
SAMPLES = 12
EPOCHS = 2
BATCHES = SAMPLES // 2 * EPOCHS
NEVER = -1

_TRAINER = """
import multiprocessing, os, signal, sys, threading
from types import SimpleNamespace

import torch
from torch.utils.data import DataLoader, Dataset

from dacapo_store import (
    FileConfigStore, FileStatsStore, LocalWeightsStore, TrainingIterationStats, ValidationIterationScores
)
from eventstore import files

base, samples, epochs, dies_at = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(1)
configs, stats = FileConfigStore(base + "/configs"), FileStatsStore(base + "/stats")
weights = LocalWeightsStore(base)
configs.store_task_config({"name": "task", "threshold": 0.5})
assert configs.retrieve_task_config_names() == ["task"]  # the views are open as well

model = torch.nn.Linear(3, 1)
run = SimpleNamespace(name="run", model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))


class Samples(Dataset):
    def __len__(self):
        return samples

    def __getitem__(self, index):
        if not index % 5:
            assert configs.retrieve_task_config_names() == ["task"]
        threshold = configs.retrieve_task_config("task", raw=True)["threshold"]
        stats.store_training_stats(f"sample_{index}", [TrainingIterationStats(0, loss=threshold)])
        return torch.full((3,), float(index)), os.getpid()


def validate():
    iteration = 0
    while not trained.wait(0.005):
        stats.store_validation_iteration_scores("run", [ValidationIterationScores(iteration, [[[0.5]]])])
        iteration += 1


def die(descriptor, data, offset):
    for worker in multiprocessing.active_children():
        os.kill(worker.pid, signal.SIGSTOP)  # torch's workers would soon leave by themselves
    os.pwrite(descriptor, data[: len(data) // 2], offset)
    os.kill(os.getpid(), signal.SIGKILL)


trained = threading.Event()
validating = threading.Thread(target=validate)
validating.start()
loader = DataLoader(
    Samples(), batch_size=2, num_workers=2, persistent_workers=True, multiprocessing_context="fork"
)
iteration = 0
for epoch in range(epochs):
    for batch, pids in loader:
        if iteration == dies_at:
            files.write_at = die  # under the lock, in the middle of a frame
        run.optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        run.optimizer.step()
        stats.store_training_stats("run", [TrainingIterationStats(iteration, loss=float(loss))])
        print(iteration, *set(pids.tolist()), flush=True)
        iteration += 1
    weights.store_weights(run, iteration)
    assert weights.latest_iteration("run") == iteration
trained.set()
validating.join()
"""


def _trainer(base: Path, *, dies_at: int) -> subprocess.CompletedProcess[str]:
    """Train to the end, or die at an iteration; its workers may outlive it, so it writes to files."""
    arguments = [str(base), str(SAMPLES), str(EPOCHS), str(dies_at)]
    with (base / "out").open("w+") as out, (base / "errors").open("w+") as errors:
        done = subprocess.run(
            [sys.executable, "-c", _TRAINER, *arguments],
            stdout=out,
            stderr=errors,
            timeout=HANG_SECONDS,
            check=False,
        )
        out.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(done.args, done.returncode, out.read(), errors.read())


def _heard(trainer: subprocess.CompletedProcess[str]) -> tuple[int, set[int]]:
    """How many iterations were acknowledged, and who the workers were."""
    lines = [list(map(int, line.split())) for line in trainer.stdout.splitlines()]
    return len(lines), {pid for _, *pids in lines for pid in pids}


def test_forked_workers_and_the_training_store_side_by_side(tmp_path: Path) -> None:
    """All that either has stored is there, and the log is clean."""
    trainer = _trainer(tmp_path, dies_at=NEVER)
    assert trainer.returncode == 0, trainer.stderr
    iterations, workers = _heard(trainer)
    assert (iterations, len(workers)) == (BATCHES, 2)
    stats = FileStatsStore(tmp_path / "stats")
    assert stats.retrieve_training_stats("run").iterations.tolist() == list(range(BATCHES))
    for index in range(SAMPLES):
        assert stats.retrieve_training_stats(f"sample_{index}").column("loss").tolist() == [0.5]
    assert LocalWeightsStore(tmp_path).latest_iteration("run") == BATCHES
    assert Base.at(tmp_path).log.verify().findings == ()


def test_workers_that_outlive_a_killed_training_block_nobody(tmp_path: Path) -> None:
    """It is killed while it holds the lock, half a frame written; others store at once.

    The workers have the same base open, and stay.
    """
    dies_at = BATCHES // 2 + 1
    trainer = _trainer(tmp_path, dies_at=dies_at)
    acknowledged, workers = _heard(trainer)
    try:
        assert trainer.returncode == -signal.SIGKILL, trainer.stderr
        assert acknowledged == dies_at
        assert len(workers) == 2
        assert all(map(_is_alive, workers))
        stored = threading.Thread(target=_store, args=(tmp_path, dies_at), daemon=True)
        stored.start()
        stored.join(HANG_SECONDS)
        assert not stored.is_alive()
        stats = FileStatsStore(tmp_path / "stats")
        assert stats.retrieve_training_stats("run").iterations.tolist() == list(range(dies_at + 1))
        assert LocalWeightsStore(tmp_path).latest_iteration("run") == BATCHES // 2
        assert Base.at(tmp_path).log.verify().findings == ()
    finally:
        for worker in filter(_is_alive, workers):
            os.kill(worker, signal.SIGKILL)


def _store(base: Path, iteration: int) -> None:
    FileConfigStore(base / "configs").store_task_config({"name": "another"})
    FileConfigStore(base / "configs").delete_config("tasks", "another")
    stats = FileStatsStore(base / "stats")
    stats.store_training_stats("run", [TrainingIterationStats(iteration, loss=0.5)])
    stats.store_validation_iteration_scores("run", [ValidationIterationScores(10**6, [[[0.5]]])])


def _is_alive(pid: int) -> bool:
    """Whether this is a process, and a trainer's worker still."""
    try:
        return b"dies_at" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
