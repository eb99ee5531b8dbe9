"""DaCapo's own file stores, of the package ``dacapo-ml``, in an environment of their own."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from tools.bench.peers.peer import Peer

_ENVIRONMENT: Final = ".venv-upstream"

PYTHON: Final = os.environ.get(
    "BENCH_UPSTREAM_PYTHON", str(Path(__file__).parents[3] / _ENVIRONMENT / "bin" / "python")
)
"""The interpreter that has DaCapo, which needs older versions of much; these stores run there, too."""


class DacapoFiles(Peer):
    """DaCapo's file stores: pickled lists for stats, YAML for configs."""

    name = "DaCapo's file stores"
    python = PYTHON

    @classmethod
    def absent(cls) -> str | None:
        """Why it cannot take part, or None."""
        return None if Path(PYTHON).exists() else f"not installed (make {_ENVIRONMENT})"

    def stats_store(self) -> Any:
        """DaCapo's ``FileStatsStore``."""
        with quiet_dacapo():
            from dacapo.store.file_stats_store import FileStatsStore

            return FileStatsStore(self.folder / "stats")

    def config_store(self) -> Any:
        """DaCapo's ``FileConfigStore``."""
        with quiet_dacapo():
            from dacapo.store.file_config_store import FileConfigStore

            return FileConfigStore(self.folder / "configs")


@contextlib.contextmanager
def quiet_dacapo() -> Iterator[None]:
    """DaCapo can be imported and used inside; what it prints goes nowhere."""
    os.environ.setdefault("DASK_SCHEDULER", "synchronous")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # The class that DaCapo takes from fibsem-tools is none that a store touches, and fibsem-tools needs
    # pydantic 1 where others of DaCapo's packages need pydantic 2.
    labels = types.ModuleType("fibsem_tools.metadata.groundtruth")
    labels.LabelList = type("LabelList", (), {})  # type: ignore[attr-defined]
    sys.modules.setdefault("fibsem_tools", types.ModuleType("fibsem_tools"))
    sys.modules.setdefault("fibsem_tools.metadata", types.ModuleType("fibsem_tools.metadata"))
    sys.modules.setdefault(labels.__name__, labels)
    with contextlib.redirect_stdout(io.StringIO()):
        yield
