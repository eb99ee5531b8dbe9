"""Other formats for the state of a model and an optimizer: safetensors and torch's distributed checkpoint."""

from __future__ import annotations

import json
import os
import warnings
from typing import Any

from tools.bench.peers.limits import sync_folder
from tools.bench.peers.peer import Peer


class Safetensors(Peer):
    """Tensors by name in one file, and JSON for the rest; synced and renamed."""

    name = "safetensors + fsync + rename"
    packages = ("safetensors", "torch")

    def store(self, state: dict[str, Any]) -> None:
        """Write the state and make it durable."""
        from safetensors.torch import save_file

        optimizer = state["optimizer"]
        averages = {
            f"optimizer.{number}.{name}": tensor
            for number, entry in optimizer["state"].items()
            for name, tensor in entry.items()
        }
        written = self.folder / "state.writing"
        groups = json.dumps(optimizer["param_groups"])
        save_file(state["model"] | averages, written, metadata={"param_groups": groups})
        with written.open("rb+") as file:
            os.fsync(file.fileno())
        written.rename(self.folder / "state.safetensors")
        sync_folder(self.folder)

    def retrieve(self) -> dict[str, Any]:
        """Read all tensors; they are copied, as those of the others are."""
        from safetensors.torch import load_file

        tensors = load_file(self.folder / "state.safetensors")
        return {"model": {name: each for name, each in tensors.items() if not name.startswith("optimizer.")}}


class TorchDistributed(Peer):
    """``torch.distributed.checkpoint`` in one process; it syncs its files itself."""

    name = "torch.distributed.checkpoint"
    packages = ("torch",)

    def store(self, state: dict[str, Any]) -> None:
        """Write the state."""
        from torch.distributed.checkpoint import state_dict_saver
        from torch.distributed.checkpoint.filesystem import FileSystemWriter

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state_dict_saver.save(
                state, storage_writer=FileSystemWriter(self.folder / "checkpoint"), no_dist=True
            )
        self._like = state

    def retrieve(self) -> dict[str, Any]:
        """Read into tensors of the same shapes, as it wants it."""
        import torch
        from torch.distributed.checkpoint import state_dict_loader
        from torch.distributed.checkpoint.filesystem import FileSystemReader
        from torch.utils import _pytree as pytree

        state: dict[str, Any] = pytree.tree_map(
            lambda leaf: torch.empty_like(leaf) if isinstance(leaf, torch.Tensor) else leaf, self._like
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state_dict_loader.load(
                state, storage_reader=FileSystemReader(self.folder / "checkpoint"), no_dist=True
            )
        return state
