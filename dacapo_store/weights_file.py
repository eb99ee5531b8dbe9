"""Files of weights: states of models and optimizers to bytes and back, and the trace of a model.

Alone in the project this module imports torch, inside its functions, so that a process that only
looks does not load it. The unpickler makes nothing but tensors and plain containers; checking the
digest before a byte reaches it is its callers' part, and so is where files lie.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dacapo_store.errors import DaCapoStoreError, DamagedArtifactError

if TYPE_CHECKING:
    import torch

_UPSTREAM_WEIGHTS = "dacapo.store.weights_store.Weights"


class WeightsUnsafeError(DaCapoStoreError):
    """Weights hold more than tensors, numbers, text and plain containers: the text names what.

    Such a state is not stored and such a file is not loaded, because unpickling it could run code.
    """


class Weights:
    """The state of a model and of its optimizer.

    Attributes:
        model: What ``model.state_dict()`` gave.
        optimizer: What ``optimizer.state_dict()`` gave.
    """

    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]

    def __init__(self, model_state_dict: Mapping[str, Any], optimizer_state_dict: Mapping[str, Any]) -> None:
        self.model = model_state_dict
        self.optimizer = optimizer_state_dict

    def __repr__(self) -> str:
        return f"Weights({len(self.model)} model entries, {len(self.optimizer)} optimizer entries)"


def plain_state(value: Any) -> Any:
    """The same state in containers and numbers that load again without running code."""
    import numpy as np

    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, OrderedDict):
        plain: OrderedDict[Any, Any] = OrderedDict(
            (plain_state(key), plain_state(item)) for key, item in value.items()
        )
        # A module's state dict carries the schema versions of its modules here; loading reads them.
        vars(plain).update(vars(value))
        return plain
    if isinstance(value, Mapping):
        return {plain_state(key): plain_state(item) for key, item in value.items()}
    if type(value) is list:
        return [plain_state(item) for item in value]
    if type(value) is tuple:
        return tuple(plain_state(item) for item in value)
    return value


def save(state: Mapping[str, Any], file: IO[bytes]) -> None:
    """Write a state, made ``plain_state`` before, in the format of ``torch.save``."""
    import torch

    torch.save(state, file)


def require_loadable(path: Path) -> None:
    """Refuse, before the event, a file that ``load`` would refuse after it."""
    import torch

    unsafe = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    if unsafe:
        raise WeightsUnsafeError(
            f"the state of the model or optimizer holds objects of {', '.join(unsafe)}, which cannot be "
            "loaded without running code: keep only tensors, numbers, strings, lists, tuples and dicts in it"
        )


class _PickledWeights:
    """Stands in for DaCapo's class of pickled weights: takes its attributes and runs nothing."""


# torch keeps one list of allowed names for the whole process; ours is on it for one load at a time.
_allowing = threading.Lock()


def _renew_lock() -> None:
    """A forked child must not wait for a thread that it does not have."""
    global _allowing  # noqa: PLW0603 - a lock cannot be freed for the thread that held it
    _allowing = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def load(file: IO[bytes]) -> Weights:
    """Unpickle weights, DaCapo's own too, making nothing but tensors and plain containers.

    Raises:
        DamagedArtifactError: The file is not a complete file of ``torch.save``.
        WeightsUnsafeError: It holds more than weights, or unpacks to more than it holds.
    """
    _refuse_bombs(file)
    state = _unpickle(file)
    parts = state if isinstance(state, Mapping) else getattr(state, "__dict__", {})
    if not {"model", "optimizer"} <= parts.keys():
        raise WeightsUnsafeError(f"the file {file.name} does not hold weights of model and optimizer")
    return Weights(parts["model"], parts["optimizer"])


def _refuse_bombs(file: IO[bytes]) -> None:
    """torch.save packs nothing, so whatever would grow while it is unpacked is none of its files."""
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        # A file of before torch 1.6, or a damaged one: torch tells them apart.
        entries = []
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > os.fstat(file.fileno()).st_size:
        raise WeightsUnsafeError(
            f"the file {file.name} unpacks to more than it holds, which no file of torch.save does; it was "
            "not loaded"
        )
    file.seek(0)


def _unpickle(file: IO[bytes]) -> Any:
    """What the file holds: a mapping or an object that only has attributes."""
    import torch

    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        file.seek(0)
    except Exception as error:
        # Bytes that are no pickle make an unpickler fail in any way: KeyError, UnicodeDecodeError, …
        raise DamagedArtifactError(
            f"the file {file.name} is not a complete file of torch.save: restore it from a copy"
        ) from error
    try:
        with _allowing, torch.serialization.safe_globals([(_PickledWeights, _UPSTREAM_WEIGHTS)]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsUnsafeError(
            f"the file {file.name} holds more than tensors and plain containers and was not loaded: "
            "if you trust it, load it with torch.load(…, weights_only=False) and store its weights anew"
        ) from error


def save_trace(model: torch.nn.Module, architecture: Any, path: Path) -> None:
    """Trace the model as it computes in evaluation, on a random input, and save the trace."""
    import torch

    weight = next((each for each in model.parameters() if each.is_floating_point()), torch.empty(0))
    shape = (1, architecture.num_in_channels, *architecture.input_shape)
    with _undisturbed(model, weight.device), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.rand(shape, dtype=weight.dtype, device=weight.device)
        # Checking would run the model thrice more, and what it finds would change nothing here.
        traced = torch.jit.trace(model, example, check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, str(path))


@contextlib.contextmanager
def _undisturbed(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Put the model in evaluation; afterwards it and all random numbers are as they were.

    A training must be the same with a trace and without: modes are kept module by module, because
    some may be frozen; so are buffers, because a forward pass may count in them.
    """
    import numpy as np
    import torch

    modes = [(module, module.training) for module in model.modules()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 - the state of others
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, training in modes:
                module.training = training
            with torch.no_grad():
                for module, name, buffer, content in buffers:
                    setattr(module, name, buffer.copy_(content))
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002 - the state of others
