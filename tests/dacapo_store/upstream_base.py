"""Bases as DaCapo's own stores have left them, for the tests of moving in."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch

GOLDEN = Path(__file__).parents[1] / "golden" / "upstream-base"
START_NS = 1_740_000_000 * 10**9
"""When the golden base was begun, as far as the tests are concerned."""

STEP_NS = 60 * 10**9


def golden_base(folder: Path) -> Path:
    """A copy of the golden base whose files were written a minute apart, in DaCapo's order."""
    shutil.copytree(GOLDEN, folder, symlinks=True)
    for place, path in enumerate(written_in_order(folder)):
        os.utime(path, ns=(START_NS, START_NS + place * STEP_NS), follow_symlinks=False)
    return folder


def written_in_order(folder: Path) -> list[Path]:
    """Configs, then stats, weights and arrays, then what is best."""
    ranks = {"configs": 0, "stats": 1}
    paths = [path for path in folder.rglob("*") if path.is_symlink() or path.is_file()]

    def rank(path: Path) -> tuple[int, str]:
        relative = path.relative_to(folder)
        is_best = "checkpoints" in relative.parts and "iterations" not in relative.parts
        return ranks.get(relative.parts[0], 3 if is_best else 2), str(relative)

    return sorted(paths, key=rank)


def tree(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Every file and link below a folder: when it was written, and what it holds."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mtime_ns,
            path.lstat().st_mode,
            bytes(path.readlink()) if path.is_symlink() else path.read_bytes(),
        )
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def write_stats(base: Path, run: str, iterations: range, loss: float = 1.0) -> None:
    """What DaCapo's file store leaves of a training."""
    write_pickle(
        base / "stats/training_stats" / run,
        [{"iteration": n, "loss": loss / (n + 1), "time": 0.5, "run_name": run} for n in iterations],
    )


def write_scores(base: Path, run: str, scores: dict[int, list[list[list[Any]]]]) -> None:
    """What it leaves of validations."""
    rows = [{"iteration": n, "scores": each, "run_name": run} for n, each in scores.items()]
    write_pickle(base / "stats/validation_scores" / run, rows)


def write_weights(base: Path, run: str, iteration: int, value: float = 1.0) -> Path:
    """A file of weights, as early versions of DaCapo left them."""
    path = base / run / "checkpoints/iterations" / str(iteration)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"model": {"w": torch.full((3,), value)}, "optimizer": {"state": {}}}, path)
    return path


def write_best(base: Path, run: str, dataset: str, criterion: str, iteration: int) -> Path:
    """A choice of the best weights."""
    path = base / run / "checkpoints" / dataset / f"{criterion}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"iteration": iteration}))
    return path


def write_config(base: Path, kind: str, name: str, text: str) -> Path:
    """A config in YAML."""
    path = base / "configs" / kind / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def write_pickle(path: Path, value: Any) -> None:
    """A file of a stats store."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value))
