"""The same machine on a bucket behind a bad network, beside a host that keeps and forgets."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import initialize, invariant, rule

from dacapo_store.base import Base
from dacapo_store.maintenance import plan_gc
from dacapo_store.weights_store import LocalWeightsStore
from tests.stateful.test_weights_machine import WeightsMachine
from tools.stores.faulty_server import FaultyServer


class BucketWeightsMachine(WeightsMachine):
    """What the store says is what the dictionaries say; a bucket has objects and no other names."""

    @initialize()
    def begin(self) -> None:
        """An empty base in a bucket, and a host of its own."""
        self.host = Path(tempfile.mkdtemp())
        self.environment = pytest.MonkeyPatch()
        self.environment.setenv("DACAPO_STORE_CACHE", str(self.host / "cache"))
        self.environment.setenv("XDG_STATE_HOME", str(self.host / "state"))
        self.server = FaultyServer(share=0.03)
        self.server.__enter__()
        self.path: Any = self.server.address("base")
        self.store = LocalWeightsStore(self.path)
        self.weights: dict[tuple[str, int], float] = {}
        self.best: dict[tuple[str, tuple[str, str]], int] = {}
        self.payloads: dict[str, bytes] = {}
        self.count = 0.0

    @rule()
    def lose_a_link(self) -> None:  # type: ignore[override]
        """There are none; what this host has kept goes instead."""
        shutil.rmtree(self.host / "cache/payloads", ignore_errors=True)
        self.store.repair_links()

    @invariant()
    def derived_files_say_what_the_log_says(self) -> None:
        """Nothing is there that no event names, and all that is in view is there."""
        assert plan_gc(self.path, grace_seconds=-1e9).garbage == ()
        rows = Base.at(self.path).query("SELECT path FROM weights").fetchall()
        assert {f"/bucket/base/{path}" for (path,) in rows} <= self.contents().keys()
        assert len(rows) == len(self.weights)

    def require_name(self, run: str, iteration: int) -> None:
        """It has none but that of its object."""

    def contents(self) -> dict[str, bytes]:
        """All payloads, by name."""
        return {name: data for name, data in self.server.objects.items() if "/objects/" in name}

    def teardown(self) -> None:
        """Leave nothing behind."""
        if hasattr(self, "server"):
            self.close()
            self.server.__exit__(None, None, None)
            self.environment.undo()
            shutil.rmtree(self.host)


TestBucketWeightsMachine = BucketWeightsMachine.TestCase
# Each step makes a dozen requests.
TestBucketWeightsMachine.settings = settings(
    max_examples=max(5, settings.default.max_examples // 10), stateful_step_count=15
)
