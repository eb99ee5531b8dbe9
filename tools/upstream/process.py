"""Parts of the experiment in processes of their own, through these stores or through DaCapo's.

A part is a function of this module; ``run`` starts a Python for some of them in a folder that has a
``dacapo.yaml``. The environment variable alone decides on the stores.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "DACAPO_STORE_COMPAT"

_ROOT: Final = Path(__file__).resolve().parents[2]
_RESULT: Final = "result.json"
_STAND_INS: Final = Path(__file__).parent / "stand_ins"


def run(stores: str, folder: Path, *parts: tuple[Any, ...]) -> list[Any]:
    """Run some parts in a new process.

    Args:
        stores: ``ours`` or ``theirs``.
        folder: Where it runs; its base directory is ``base`` in it.
        parts: Each a name of a function of this module, and the arguments, by way of JSON.

    Returns:
        What each of them returned, by way of JSON.

    Raises:
        RuntimeError: The process ended with an error; the text is what it printed at last.
    """
    make_folder(folder)
    ran = subprocess.run(  # noqa: S603 - this module
        [sys.executable, "-m", "tools.upstream.process", json.dumps(parts)],
        cwd=folder,
        env=environment(stores),
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(
            f"{parts} through {stores}, in {folder}:\n{ran.stdout[-4000:]}\n{ran.stderr[-8000:]}"
        )
    results: list[Any] = json.loads((folder / _RESULT).read_text())
    return results


def make_folder(folder: Path) -> None:
    """A folder whose options name a base directory in it; with ``workers.yaml`` in worker processes."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, distribute in (("dacapo.yaml", False), ("workers.yaml", True)):
        context = {"type": "LocalTorch", "config": {"distribute_workers": distribute, "device": "cpu"}}
        options = {"type": "files", "runs_base_dir": str(folder / "base"), "compute_context": context}
        (folder / name).write_text(json.dumps(options))


def environment(stores: str) -> dict[str, str]:
    """What a process needs for DaCapo to run, twice the same, and which stores it is to use."""
    left_out = (VARIABLE, "DACAPO_OPTIONS_FILE")
    kept = {name: value for name, value in os.environ.items() if name not in left_out}
    path = os.pathsep.join([str(_ROOT), str(_STAND_INS)])
    fixed = {
        "DASK_SCHEDULER": "synchronous",
        "OMP_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",  # the order of a set decides on what gunpowder draws first
        "PYTHONPATH": path,
    }
    return {**kept, **fixed, **({VARIABLE: "1"} if stores == "ours" else {})}


def begin(data: str, iterations: int, until: int) -> None:
    """Store the configs of a training and train until an iteration."""
    from tools.upstream import experiment

    experiment.store_configs(experiment.run_config(Path(data), iterations=iterations))
    experiment.train(until)


def resume() -> None:
    """Train to the end."""
    from tools.upstream import experiment

    experiment.train()


def validate(iteration: int) -> None:
    """Validate the weights of an iteration that was stored before."""
    import dacapo

    from tools.upstream import experiment

    dacapo.validate(experiment.NAME, iteration)


def predict(data: str, iteration: int) -> str:
    """Predict with worker processes.

    Returns:
        A digest of the prediction.
    """
    from tools.upstream import experiment

    os.environ["DACAPO_OPTIONS_FILE"] = "workers.yaml"
    if not experiment.predict(Path(data), iteration, Path("prediction.zarr")):
        raise RuntimeError("DaCapo's workers failed")
    return _digest(Path("prediction.zarr"))


def record() -> dict[str, Any]:
    """All that the stores have of the experiment, asked for as DaCapo asks, floats to the last bit."""
    from dacapo.store.converter import converter
    from dacapo.store.create_store import (
        create_array_store,
        create_config_store,
        create_stats_store,
        create_weights_store,
    )

    from tools.upstream.experiment import NAME

    stats, weights = create_stats_store(), create_weights_store()
    iterations = sorted(int(path.name) for path in Path("base", NAME, "checkpoints", "iterations").iterdir())
    return {
        "stores": type(stats).__module__,
        "config": repr(converter.unstructure(create_config_store().retrieve_run_config(NAME))),
        "losses": [
            [row.iteration, row.loss.hex()] for row in stats.retrieve_training_stats(NAME).iteration_stats
        ],
        "scores": [
            [each.iteration, repr(each.scores)] for each in stats.retrieve_validation_iteration_scores(NAME)
        ],
        "weights": {each: _digest_of_weights(weights.retrieve_weights(NAME, each)) for each in iterations},
        "latest": weights.latest_iteration(NAME),
        "arrays": _digest(Path(create_array_store().validation_container(NAME).container.path)),
    }


def digest_of_state(state: Any) -> str:
    """A digest of everything in a state of a model or optimizer: names, shapes, bits."""
    import torch

    found = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found.update(repr((value.dtype, tuple(value.shape))).encode() + value.numpy().tobytes())
        elif isinstance(value, dict):
            for key, item in value.items():
                found.update(repr(key).encode())
                add(item)
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        else:
            found.update(repr(value).encode())

    add(state)
    return found.hexdigest()


def _digest_of_weights(weights: Any) -> list[str]:
    return [digest_of_state(weights.model), digest_of_state(weights.optimizer)]


def _digest(folder: Path) -> str:
    """A digest of all files below a folder, by name and content."""
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()


if __name__ == "__main__":
    results = [globals()[part](*arguments) for part, *arguments in json.loads(sys.argv[1])]
    Path(_RESULT).write_text(json.dumps(results))
