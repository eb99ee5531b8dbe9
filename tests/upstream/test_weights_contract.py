"""What a weights store does, on these stores in DaCapo's place and on DaCapo's local store."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any, Final

import pytest
import torch
from dacapo.store.local_weights_store import LocalWeightsStore
from dacapo.store.weights_store import Weights, WeightsStore
from upath import UPath

from dacapo_store import compat

BEST: Final = "retrieve_best looks under criterion/dataset, where store_best has written nothing"


def run_object(seed: int = 0) -> Any:
    """A run as the store needs it, after a step of its optimizer."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.RAdam(model.parameters(), lr=0.125)
    model(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    return SimpleNamespace(name="run", model=model, optimizer=optimizer)


def same(one: Any, other: Any) -> bool:
    """Whether two states hold the same bits."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_it_is_a_weights_store(stores: Any) -> None:
    assert isinstance(stores.weights(), WeightsStore)
    assert isinstance(stores.weights().basedir, UPath)
    assert str(stores.weights().basedir) == str(stores.base)


def test_weights_come_back_in_dacapos_class_bit_by_bit(stores: Any) -> None:
    """Of model and optimizer; by name or by the run object, by position or by keyword."""
    run = run_object()
    stores.weights().store_weights(run, 4)
    for back in (
        stores.weights().retrieve_weights("run", 4),
        stores.weights().retrieve_weights(run, iteration=4),
    ):
        assert type(back) is Weights
        assert same(back.model, run.model.state_dict())
        assert same(back.optimizer, run.optimizer.state_dict())


def test_weights_of_an_iteration_can_be_stored_again(stores: Any) -> None:
    stores.weights().store_weights(run_object(0), 4)
    stores.weights().store_weights(run_object(1), 4)
    assert same(stores.weights().retrieve_weights("run", 4).model, run_object(1).model.state_dict())


def test_loading_puts_them_into_a_run(stores: Any) -> None:
    stores.weights().store_weights(run_object(0), 4)
    other = run_object(1)
    stores.weights().load_weights(other, 4)
    assert same(other.model.state_dict(), run_object(0).model.state_dict())
    assert same(other.optimizer.state_dict(), run_object(0).optimizer.state_dict())


def test_the_latest_iteration(stores: Any) -> None:
    """By the number and not by its text, for a name and for a run object."""
    assert stores.weights().latest_iteration("run") is None
    assert stores.weights().latest_iteration(run_object()) is None
    for iteration in (9, 100, 20):
        stores.weights().store_weights(run_object(), iteration)
    assert stores.weights().latest_iteration("run") == 100
    assert stores.weights().latest_iteration(run_object()) == 100


@pytest.mark.defect("a stray file breaks it")
def test_a_stray_file_does_not_disturb(stores: Any) -> None:
    stores.weights().store_weights(run_object(), 4)
    (stores.base / "run" / "checkpoints" / "iterations" / "4.tmp").touch()
    assert stores.weights().latest_iteration("run") == 4


def test_weights_that_are_missing_are_a_file_not_found_error(stores: Any) -> None:
    with pytest.raises(FileNotFoundError):
        stores.weights().retrieve_weights("run", 4)
    stores.weights().store_weights(run_object(), 4)
    with pytest.raises(FileNotFoundError):
        stores.weights().retrieve_weights("run", 5)


@pytest.mark.defect("FileNotFoundError where the interface says ValueError")
def test_weights_that_are_missing_are_a_value_error(stores: Any) -> None:
    with pytest.raises(ValueError, match="no weights"):
        stores.weights().retrieve_weights("run", 4)


def test_removed_weights_are_gone(stores: Any) -> None:
    for iteration in (4, 8):
        stores.weights().store_weights(run_object(), iteration)
    stores.weights().remove("run", 8)
    assert stores.weights().latest_iteration("run") == 4
    with pytest.raises(FileNotFoundError):
        stores.weights().retrieve_weights("run", 8)
    with pytest.raises(FileNotFoundError):
        stores.weights().remove("run", 8)


@pytest.mark.defect("torch does not load its files with weights_only")
def test_weights_by_a_key(stores: Any) -> None:
    """As DaCapo's starts ask for them."""
    stores.weights().store_weights(run_object(), 4)
    back = stores.weights()._retrieve_weights("run", "4")
    assert type(back) is Weights
    assert same(back.model, run_object().model.state_dict())


@pytest.mark.defect("a file of weights is a pickled object, which can run code when it is loaded")
def test_a_file_of_weights_loads_without_running_code(stores: Any) -> None:
    stores.weights().store_weights(run_object(), 4)
    file = stores.base / "run" / "checkpoints" / "iterations" / "4"
    assert same(torch.load(file, weights_only=True)["model"], run_object().model.state_dict())


@pytest.mark.defect(BEST)
def test_the_best_weights(stores: Any) -> None:
    for iteration, seed in ((4, 0), (8, 1)):
        stores.weights().store_weights(run_object(seed), iteration)
        stores.weights().store_best("run", iteration, "crop", "dice")
    assert stores.weights().retrieve_best("run", "crop", "dice") == 8


@pytest.mark.defect(BEST)
def test_loading_the_best_weights(stores: Any) -> None:
    stores.weights().store_weights(run_object(0), 4)
    stores.weights().store_best("run", 4, "crop", "dice")
    other = run_object(1)
    stores.weights().load_best(other, "crop", "dice")
    assert same(other.model.state_dict(), run_object(0).model.state_dict())


def test_the_best_weights_are_named_in_a_file(stores: Any) -> None:
    """``checkpoints/<dataset>/<criterion>.json``, as the specification draws it."""
    stores.weights().store_weights(run_object(), 4)
    stores.weights().store_best("run", 4, "crop", "dice")
    file = stores.base / "run" / "checkpoints" / "crop" / "dice.json"
    assert json.loads(file.read_text()) == {"iteration": 4}


def test_without_a_choice_nothing_is_best(stores: Any) -> None:
    stores.weights().store_weights(run_object(), 4)
    with pytest.raises(FileNotFoundError):
        stores.weights().retrieve_best("run", "crop", "dice")


@pytest.mark.defect("weights that do not exist are chosen as best")
def test_only_weights_that_exist_can_be_best(stores: Any) -> None:
    with pytest.raises(FileNotFoundError):
        stores.weights().store_best("run", 4, "crop", "dice")


@pytest.mark.defect("what was chosen as best stays so")
def test_removed_weights_are_best_no_longer(stores: Any) -> None:
    stores.weights().store_weights(run_object(), 4)
    stores.weights().store_best("run", 4, "crop", "dice")
    stores.weights().remove("run", 4)
    assert not (stores.base / "run" / "checkpoints" / "crop" / "dice.json").exists()


@pytest.mark.defect("it makes files among those of iterations, and the latest one is found no more")
def test_a_dataset_may_be_called_iterations(stores: Any) -> None:
    stores.weights().store_weights(run_object(), 4)
    stores.weights().store_best("run", 4, "iterations", "dice")
    assert stores.weights().latest_iteration("run") == 4


def test_dacapos_own_store_loads_what_these_stores_wrote(stores: Any) -> None:
    """Where it looks for it: whoever goes back has the weights."""
    stores.weights().store_weights(run_object(), 4)
    compat.uninstall()
    back = LocalWeightsStore(UPath(stores.base)).retrieve_weights("run", 4)
    assert same(back.model, run_object().model.state_dict())
    assert same(back.optimizer, run_object().optimizer.state_dict())
    assert LocalWeightsStore(UPath(stores.base)).latest_iteration("run") == 4
