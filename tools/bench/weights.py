"""B12: weights of a model and its optimizer, stored durably and retrieved."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

from tools.bench.measure import Contestant, Figures, Size, folder_bytes, metered, ratio, side_by_side
from tools.bench.peers.limits import TorchFiles
from tools.bench.peers.ours import DacapoStore
from tools.bench.peers.peer import Peer
from tools.bench.peers.weights_formats import Safetensors, TorchDistributed
from tools.bench.results import Goal, Section

_STORE: Final = "s to store"
_RETRIEVE: Final = "s to retrieve"
_ASYNCHRONOUS: Final = f"{DacapoStore.name}, wait=False"
_LAYER: Final = 1024
_PARAMETER_BYTES: Final = 4 * _LAYER * _LAYER
_STATES: Final = 3  # the parameter itself, and Adam's two averages of it


def weights(size: Size) -> Section:
    """B12: store durable, retrieve, and an asynchronous store."""
    megabytes = size.pick(full=400, quick=100, tiny=0)
    section = Section("B12", f"Weights, {megabytes} MB of model and Adam: store durable, retrieve")
    layers = max(int(megabytes * 1e6) // (_PARAMETER_BYTES * _STATES), 1)
    files: tuple[type[Peer], ...] = (TorchFiles, Safetensors, TorchDistributed)
    contestants = [
        Contestant(DacapoStore.name, store_and_retrieve, (layers,)),
        *(Contestant(peer.name, write_and_read, (peer, layers), peer.absent()) for peer in files),
        Contestant(_ASYNCHRONOUS, store_asynchronously, (layers,)),
    ]
    section.rows = side_by_side(contestants, rounds=size.pick(full=5, quick=3, tiny=1))
    rows = section.rows
    section.goals = [
        Goal(
            "store over torch.save", ratio(rows, DacapoStore.name, TorchFiles.name, _STORE), "at most", 1.15
        ),
        Goal(
            "retrieve over torch.load",
            ratio(rows, DacapoStore.name, TorchFiles.name, _RETRIEVE),
            "at most",
            1.15,
        ),
        Goal(
            "time blocked by an asynchronous store, not the first, over the synchronous time",
            ratio(rows, _ASYNCHRONOUS, DacapoStore.name, _STORE),
            "at most",
            0.2,
        ),
    ]
    section.notes = [
        "Files are read out of the page cache.",
        "Ours computes and checks a SHA-256 of what it writes and reads.",
        "An asynchronous store copies the state: the first into new memory, later ones into the same.",
    ]
    return section


def trained(layers: int, name: str = "run_7") -> Any:
    """A run whose model and optimizer have a state as after a step."""
    import torch

    generator = torch.Generator().manual_seed(7)
    model = torch.nn.Sequential(
        *(torch.nn.Linear(_LAYER, _LAYER, bias=False, device="meta") for _ in range(layers))
    ).to_empty(device="cpu")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.data = torch.rand(parameter.shape, generator=generator)
        optimizer.state[parameter] = {
            "step": torch.tensor(1.0),
            "exp_avg": torch.rand(parameter.shape, generator=generator),
            "exp_avg_sq": torch.rand(parameter.shape, generator=generator),
        }
    return SimpleNamespace(name=name, model=model, optimizer=optimizer)


def store_and_retrieve(folder: Path, layers: int) -> Figures:
    """Our weights store; the first store of a run, of little, makes what is made once."""
    from dacapo_store import LocalWeightsStore

    store = LocalWeightsStore(folder)
    store.store_weights(trained(1, "warm_up"), 1)
    store.retrieve_weights("warm_up", 1)
    run = trained(layers)
    with metered() as storing:
        store.store_weights(run, 1)
    with metered() as retrieving:
        found = store.retrieve_weights(run.name, 1)
    _check(run, found.model)
    return _figures(storing, retrieving, folder)


def store_asynchronously(folder: Path, layers: int) -> Figures:
    """How long a call blocks, and how long until the weights are there: the first call, and a later one."""
    from dacapo_store import LocalWeightsStore

    store: Any = LocalWeightsStore(folder)
    store.store_weights(trained(1, "warm_up"), 1)
    run = trained(layers)
    figures: Figures = {}
    for iteration, which in ((1, ", the first"), (2, "")):
        began = time.perf_counter()
        with metered() as storing:
            store.store_weights(run, iteration, wait=False)
        while store.latest_iteration(run.name) != iteration:
            time.sleep(0.001)
        figures[_STORE + which] = storing.seconds
        figures[f"CPU s to store{which}"] = storing.cpu_seconds
        figures[f"s until it is durable{which}"] = time.perf_counter() - began
    return figures


def write_and_read(folder: Path, peer: type[Peer], layers: int) -> Figures:
    """A file format by itself."""
    format_: Any = peer(folder)
    small = trained(1)
    format_.store(_state(small))
    format_.retrieve()
    run = trained(layers)
    state = _state(run)
    with metered() as storing:
        format_.store(state)
    with metered() as retrieving:
        found = format_.retrieve()
    _check(run, found["model"])
    return _figures(storing, retrieving, folder)


def _state(run: Any) -> dict[str, Any]:
    return {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()}


def _figures(storing: Any, retrieving: Any, folder: Path) -> Figures:
    return {
        _STORE: storing.seconds,
        _RETRIEVE: retrieving.seconds,
        "CPU s to store": storing.cpu_seconds,
        "CPU s to retrieve": retrieving.cpu_seconds,
        "MB on disk": folder_bytes(folder) / 1e6,
    }


def _check(run: Any, model: Any) -> None:
    import torch

    for name, tensor in run.model.state_dict().items():
        if not torch.equal(tensor, model[name]):
            raise AssertionError(f"{name} came back different")
