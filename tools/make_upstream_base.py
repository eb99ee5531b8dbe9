"""``python -m tools.make_upstream_base FOLDER``: a small base, written by DaCapo's own stores.

It runs in the environment that has DaCapo. ``tests/golden/upstream-base`` was made by it, so that moving in
is tested where DaCapo is not; what a test needs beyond that it puts in itself. Links in that folder lead
nowhere: DaCapo writes them with the whole path of the base, and this one has moved since.
"""

from __future__ import annotations

import math
import shutil
import sys
import tempfile
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from tools.bench import run_configs
from tools.bench.peers.upstream import quiet_dacapo

_MOVED_FROM: Final = Path("/data/dacapo")

RUNS: Final = (0, 1)
ITERATIONS: Final = (20, 40, 60)


def make_base(folder: Path) -> None:
    """Write the base with DaCapo's stores."""
    with quiet_dacapo(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dacapo.store.file_config_store import FileConfigStore
        from dacapo.store.file_stats_store import FileStatsStore
        from dacapo.store.local_array_store import LocalArrayStore
        from dacapo.store.local_weights_store import LocalWeightsStore

        classes = run_configs.dacapo_classes()
        configs, stats = FileConfigStore(folder / "configs"), FileStatsStore(folder / "stats")
        weights, arrays = LocalWeightsStore(folder), LocalArrayStore(folder)
        for number in RUNS:
            run = run_configs.run_config(classes, number)
            _store_configs(configs, run)
            _store_stats(stats, run.name, number)
            _store_weights(weights, run.name)
            _store_arrays(arrays, run.name)


def _store_configs(configs: Any, run: Any) -> None:
    import attr

    configs.store_run_config(run)
    configs.store_task_config(run.task_config)
    configs.store_architecture_config(run.architecture_config)
    configs.store_trainer_config(run.trainer_config)
    configs.store_datasplit_config(run.datasplit_config)
    hostile = "Zellkörper: 'alle' & [neue] {0}, #1"
    configs.store_task_config(attr.evolve(run.task_config, name=hostile, clip_distance=float("inf")))
    configs.store_array_config(run.datasplit_config.train_configs[0].gt_config)


def _store_stats(stats: Any, run: str, number: int) -> None:
    import numpy as np
    from dacapo.experiments import (
        TrainingIterationStats,
        TrainingStats,
        ValidationIterationScores,
        ValidationScores,
    )

    rows = [
        TrainingIterationStats(
            iteration, loss=np.float64(1 / (iteration + 1 + number)), time=0.25 if iteration else math.nan
        )
        for iteration in range(60)
    ]
    stats.store_training_stats(run, TrainingStats(rows))
    scores = [
        ValidationIterationScores(iteration, [[[0.5, math.nan, np.float64(iteration)]], [[1, -0.0, 2.5]]])
        for iteration in ITERATIONS
    ]
    described = SimpleNamespace(criteria=["dice", "voi", "f1"])
    stats.store_validation_iteration_scores(
        run, ValidationScores(parameters=[], datasets=[], evaluation_scores=described, scores=scores)
    )


def _store_weights(weights: Any, run: str) -> None:
    import torch

    torch.manual_seed(len(run))
    model = torch.nn.Linear(3, 2)
    trained = SimpleNamespace(name=run, model=model, optimizer=torch.optim.Adam(model.parameters()))
    for iteration in ITERATIONS:
        trained.optimizer.zero_grad()
        model(torch.ones(1, 3)).sum().backward()
        trained.optimizer.step()
        weights.store_weights(trained, iteration)
    weights.store_best(run, 40, "validate_a", "dice")
    weights.store_best(run, 60, "validate_a", "voi")
    weights.store_best(run, 60, "validate_b", "dice")


def _store_arrays(arrays: Any, run: str) -> None:
    import numpy as np
    import zarr

    places = [
        arrays.validation_prediction_array(run, 40, "validate_a"),
        arrays.validation_output_array(run, 40, "threshold_0.5", "validate_a"),
    ]
    for place in places:
        store = zarr.open_group(str(place.container), mode="a")
        array = store.create_dataset(place.dataset, shape=(4, 6), chunks=(2, 6), dtype="float32")
        array[:] = np.arange(24, dtype=np.float32).reshape(4, 6)
        array.attrs["offset"] = [0, 0]


def main() -> int:
    """Make the base in a folder that is not there yet."""
    if len(sys.argv) != 2 or Path(sys.argv[1]).exists():  # noqa: PLR2004
        print("usage: python -m tools.make_upstream_base FOLDER (which must not be there)", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        base = Path(temporary, "base").resolve()
        make_base(base)
        for link in [path for path in base.rglob("*") if path.is_symlink()]:
            target = _MOVED_FROM / link.readlink().relative_to(base)
            link.unlink()
            link.symlink_to(target)
        shutil.copytree(base, sys.argv[1], symlinks=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
