"""Files of weights: states of models and optimizers to bytes and back, and the trace of a model.

With ``weights_staging`` this module alone imports torch, inside its functions, so that a process that
only looks does not load it. The unpickler makes nothing but tensors and plain containers; checking the
digest before a byte reaches it is its callers' part, and so is where files lie.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import pickle
import random
import threading
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from dacapo_store.errors import DaCapoStoreError, DamagedArtifactError
from eventstore import network_file_system

if TYPE_CHECKING:
    import torch

_OWN_DESCRIPTORS = Path("/proc/self/fd")

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


def map_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same containers, made anew, around what ``change`` makes of each leaf and key in them."""
    if isinstance(value, OrderedDict):
        ordered: OrderedDict[Any, Any] = OrderedDict(
            (map_leaves(key, change), map_leaves(item, change)) for key, item in value.items()
        )
        # A module's state dict carries the schema versions of its modules here; loading reads them.
        vars(ordered).update(vars(value))
        return ordered
    if isinstance(value, Mapping):
        return {map_leaves(key, change): map_leaves(item, change) for key, item in value.items()}
    if type(value) is list:
        return [map_leaves(item, change) for item in value]
    if type(value) is tuple:
        return tuple(map_leaves(item, change) for item in value)
    return change(value)


def plain_state(state: Any) -> Any:
    """The same state in containers and numbers that load again without running code."""
    import numpy as np

    return map_leaves(state, lambda leaf: leaf.item() if isinstance(leaf, np.generic) else leaf)


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
    return _weights(_unpickle(file), file)


def map_weights(file: IO[bytes]) -> Weights:
    """``load`` without copying: the tensors lie in the file, and come into memory as they are used.

    They can be changed, and the file stays as it is. The file must be one of ``save`` whose bytes
    never change: whoever cuts it ends the processes that use its tensors. So on a network file
    system, where other hosts may take a file away that is in use, this is ``load``, and so it is for
    files of before torch 1.6.

    Raises:
        DamagedArtifactError: The file is not a complete file of ``torch.save``.
        WeightsUnsafeError: It holds more than weights, or unpacks to more than it holds.
    """
    import torch

    # By its descriptor, so that these are the bytes that were verified, whatever has the name by now.
    path = _OWN_DESCRIPTORS / str(file.fileno())
    shared = torch.serialization.get_default_mmap_options() != mmap.MAP_PRIVATE
    if shared or not path.exists() or network_file_system(path) is not None or not _is_archive(file):
        return load(file)
    _refuse_bombs(file)
    return _weights(_unpickle(file, mapped=path), file)


def _is_archive(file: IO[bytes]) -> bool:
    """False for a file of before torch 1.6, which cannot be mapped."""
    try:
        return zipfile.is_zipfile(file)
    finally:
        file.seek(0)


def _weights(state: Any, file: IO[bytes]) -> Weights:
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


def _unpickle(file: IO[bytes], mapped: Path | None = None) -> Any:
    """What the file holds: a mapping or an object that only has attributes."""
    import torch

    source: Any = file if mapped is None else mapped
    try:
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped is not None)
    except pickle.UnpicklingError:
        file.seek(0)
    except Exception as error:
        # Bytes that are no pickle make an unpickler fail in any way: KeyError, UnicodeDecodeError, …
        raise DamagedArtifactError(
            f"the file {file.name} is not a complete file of torch.save: restore it from a copy"
        ) from error
    try:
        with _allowing, torch.serialization.safe_globals([(_PickledWeights, _UPSTREAM_WEIGHTS)]):
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped is not None)
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
