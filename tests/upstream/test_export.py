"""An exported base is one that DaCapo's own stores read, and they answer all that they answered before.

Runs where DaCapo is; skipped elsewhere.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import dacapo_store
from dacapo_store import TrainingIterationStats, ValidationIterationScores
from dacapo_store.moving import export_base, import_base
from tools.make_upstream_base import make_base

if importlib.util.find_spec("dacapo") is None:
    pytest.skip("DaCapo is not installed here", allow_module_level=True)

KINDS = ("run", "task", "architecture", "trainer", "datasplit", "array")


def answers(base: Path) -> dict[str, Any]:
    """Everything that DaCapo's stores can be asked of a base, as values that compare."""
    import zarr
    from dacapo.store.converter import converter
    from dacapo.store.file_config_store import FileConfigStore
    from dacapo.store.file_stats_store import FileStatsStore
    from dacapo.store.local_array_store import LocalArrayStore
    from dacapo.store.local_weights_store import LocalWeightsStore

    configs, stats = FileConfigStore(base / "configs"), FileStatsStore(base / "stats")
    weights, arrays = LocalWeightsStore(base), LocalArrayStore(base)
    said: dict[str, Any] = {}
    for kind in KINDS:
        for name in sorted(getattr(configs, f"retrieve_{kind}_config_names")()):
            config = getattr(configs, f"retrieve_{kind}_config")(name)
            said[f"{kind} {name}"] = (type(config).__name__, repr(converter.unstructure(config)))
    for run in sorted(path.name for path in base.iterdir() if (path / "checkpoints").is_dir()):
        rows = stats.retrieve_training_stats(run).iteration_stats
        said[f"stats {run}"] = [
            (row.iteration, bits(row.loss), bits(row.time), type(row).__name__) for row in rows
        ]
        said[f"scores {run}"] = [
            (each.iteration, bits(each.scores)) for each in stats.retrieve_validation_iteration_scores(run)
        ]
        said[f"latest {run}"] = latest = weights.latest_iteration(run)
        for iteration in range(latest + 1 if latest is not None else 0):
            said[f"weights {run} {iteration}"] = state(attempt(weights.retrieve_weights, run, iteration))
        for dataset in ("validate_a", "validate_b"):
            for criterion in ("dice", "voi"):
                # DaCapo looks where it has not written: an error, before and after.
                said[f"best {run} {dataset} {criterion}"] = attempt(
                    weights.retrieve_best, run, dataset, criterion
                )
                said[f"swapped {run} {dataset} {criterion}"] = attempt(
                    weights.retrieve_best, run, criterion, dataset
                )
                link = base / run / "checkpoints" / dataset / criterion
                said[f"link {run} {dataset} {criterion}"] = link.resolve().name if link.exists() else None
        for place in (
            arrays.validation_prediction_array(run, 40, "validate_a"),
            arrays.validation_output_array(run, 40, "threshold_0.5", "validate_a"),
        ):
            array = attempt(lambda place=place: zarr.open(str(place.container), mode="r")[place.dataset])
            said[f"array {run} {place.dataset}"] = (
                array if isinstance(array, str) else (array[:].tolist(), dict(array.attrs))
            )
    return said


def bits(value: Any) -> bytes:
    """A number, or nested ones, bit by bit."""
    return np.array(value, np.float64).tobytes()


def attempt(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives, or the name of its error."""
    try:
        return call(*arguments)
    except Exception as error:  # noqa: BLE001 - whatever DaCapo raises is its answer
        return type(error).__name__


def state(weights: Any) -> Any:
    """Weights as text, every number of them."""
    import torch

    if isinstance(weights, str):
        return weights
    torch.set_printoptions(profile="full", precision=17)
    return type(weights).__name__, repr(dict(weights.model)), repr(weights.optimizer)


def test_in_and_out_again_dacapo_s_stores_answer_all_the_same(tmp_path: Path) -> None:
    """By way of another base, and in place."""
    source, into = tmp_path / "source", tmp_path / "into"
    make_base(source)
    before = answers(source)
    assert len(before) > 50
    assert before["best run_00000 validate_a dice"] == "FileNotFoundError"
    assert before["swapped run_00000 validate_a dice"] == 40
    import_base(source, into=into)
    export_base(into, tmp_path / "back")
    assert answers(tmp_path / "back") == before
    import_base(source)
    # A base in which we have stored nothing since is still one of DaCapo's.
    assert answers(source) == before
    export_base(source, tmp_path / "back_again")
    shutil.rmtree(source)
    assert answers(tmp_path / "back_again") == before


def test_what_was_done_with_our_stores_is_what_dacapo_s_read(tmp_path: Path) -> None:
    """Weights of ours, a resumed run, another choice; and as of an earlier position, what was there then."""
    import torch

    source = tmp_path / "source"
    make_base(source)
    before = answers(source)
    position = import_base(source).position
    store = dacapo_store.open(source)
    store.stats.store_training_stats(
        "run_00000", [TrainingIterationStats(n, loss=n / 7, time=0.1) for n in range(50, 70)]
    )
    store.stats.store_validation_iteration_scores(
        "run_00000", [ValidationIterationScores(80, [[[1.0, 2.0, 3.0]]])]
    )
    model = torch.nn.Linear(2, 2)
    run = SimpleNamespace(name="run_00000", model=model, optimizer=torch.optim.Adam(model.parameters()))
    store.weights.store_weights(run, 40)
    store.weights.store_weights(run, 80)
    store.weights.store_best("run_00000", 80, "validate_a", "dice")
    export_base(source, tmp_path / "now")
    after = answers(tmp_path / "now")
    assert [row[0] for row in after["stats run_00000"]] == list(range(70))
    assert after["stats run_00000"][60][1] == bits(60 / 7)
    assert after["scores run_00000"][-1] == (80, bits([[[1.0, 2.0, 3.0]]]))
    assert (after["latest run_00000"], after["swapped run_00000 validate_a dice"]) == (80, 80)
    assert after["link run_00000 validate_a dice"] == "80"
    assert after["weights run_00000 80"][1] == repr(dict(model.state_dict()))
    assert after["weights run_00000 40"] == after["weights run_00000 80"]
    export_base(source, tmp_path / "then", at=position)
    assert answers(tmp_path / "then") == before


def test_dacapo_goes_on_in_an_exported_base(tmp_path: Path) -> None:
    """It stores more, and the base that was exported does not change."""
    import torch
    from dacapo.store.local_weights_store import LocalWeightsStore

    source = tmp_path / "source"
    make_base(source)
    import_base(source)
    export_base(source, tmp_path / "back")
    model = torch.nn.Linear(3, 2)
    run = SimpleNamespace(name="run_00000", model=model, optimizer=torch.optim.Adam(model.parameters()))
    theirs = LocalWeightsStore(tmp_path / "back")
    theirs.store_weights(run, 40)
    theirs.store_weights(run, 100)
    theirs.store_best("run_00000", 100, "validate_a", "dice")
    assert theirs.latest_iteration("run_00000") == 100
    # It reads every byte, and checks the digest.
    ours = dacapo_store.open(source).weights
    assert not torch.equal(ours.retrieve_weights("run_00000", 40).model["weight"], model.weight)
