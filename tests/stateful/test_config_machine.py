"""Any sequence of config calls, through several stores, against a dict."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dacapo_store import DuplicateNameError, FileConfigStore
from dacapo_store.base import Base
from dacapo_store.config_store import PARTS_OF_A_RUN
from dacapo_store.errors import ConfigMissingError

EXAMPLES = settings().max_examples // 5  # of the profile: an example here is a whole history
KINDS = ["tasks", "datasets", "trainers"]
NAMES = st.sampled_from(["a", "b", "../a", "it's"])
CONTENTS = st.sampled_from([None, 1, 1.5, float("nan"), (1, 2), [1, 2], {"deep": {"x": float("inf")}}])
PARTS = st.dictionaries(
    st.sampled_from(sorted(PARTS_OF_A_RUN)), st.fixed_dictionaries({"name": NAMES, "value": CONTENTS})
)
STORES = st.integers(0, 1)

Key = tuple[str, str]


def canonical(value: Any) -> str:
    """A text that tells lists from tuples, has NaN equal itself, and forgets the order of keys."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(sorted(f'{key!r}: {canonical(item)}' for key, item in value.items()))}}}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(canonical, value))})"
    return repr(value)


class ConfigMachine(RuleBasedStateMachine):
    """Two stores on one base, and a dict from kind and name to document."""

    @initialize()
    def open_base(self) -> None:
        """Begin with an empty base and two stores on it."""
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.stores = [FileConfigStore(self.path / "configs"), FileConfigStore(self.path)]
        self.documents: dict[Key, Mapping[str, Any]] = {}

    def conflicts(self, documents: Mapping[Key, Mapping[str, Any]]) -> bool:
        """Whether one of the names is taken by another content."""
        return any(
            canonical(self.documents.get(key, doc)) != canonical(doc) for key, doc in documents.items()
        )

    def store(self, documents: Mapping[Key, Mapping[str, Any]], call: Any, config: Mapping[str, Any]) -> None:
        """Make a store call and expect what the dict says."""
        before = Base.at(self.path).log.next_position
        if self.conflicts(documents):
            with pytest.raises(DuplicateNameError):
                call(config)
            new: set[Key] = set()
        else:
            call(config)
            new = documents.keys() - self.documents.keys()
            self.documents.update(documents)
        assert Base.at(self.path).log.next_position == before + len(new)

    @rule(store=STORES, kind=st.sampled_from(KINDS), name=NAMES, value=CONTENTS)
    def store_config(self, store: int, kind: str, name: str, value: Any) -> None:
        """Store one config."""
        config = {"name": name, "value": value}
        call = getattr(self.stores[store], f"store_{kind.removesuffix('s')}_config")
        self.store({(kind, name): config}, call, config)

    @rule(store=STORES, name=st.sampled_from(["run_1", "run_2"]), parts=PARTS)
    def store_run(self, store: int, name: str, parts: dict[str, Any]) -> None:
        """Store a run with some parts."""
        config = {"name": name, **parts}
        documents = {(PARTS_OF_A_RUN[field], part["name"]): part for field, part in parts.items()}
        self.store({**documents, ("runs", name): config}, self.stores[store].store_run_config, config)

    @rule(store=STORES, kind=st.sampled_from([*KINDS, "runs"]), name=NAMES | st.just("run_1"))
    def delete_config(self, store: int, kind: str, name: str) -> None:
        """Delete what may be there."""
        if (kind, name) in self.documents:
            self.stores[store].delete_config(kind, name)
            del self.documents[kind, name]
        else:
            with pytest.raises(ConfigMissingError):
                self.stores[store].delete_config(getattr(self.stores[store], kind), name)

    @invariant()
    def stores_agree_with_the_dict(self) -> None:
        """Names, documents, and the SQL view's names."""
        for kind in {*KINDS, "runs", *PARTS_OF_A_RUN.values()}:
            singular = kind.removesuffix("s")
            names = sorted(name for of_kind, name in self.documents if of_kind == kind)
            assert getattr(self.stores[0], f"retrieve_{singular}_config_names")() == names
            for name in names:
                back = getattr(self.stores[1], f"retrieve_{singular}_config")(name)
                assert canonical(back) == canonical(self.documents[kind, name])
        rows = Base.at(self.path).query("SELECT kind, name FROM configs").fetchall()
        assert sorted(rows) == sorted(self.documents)

    def teardown(self) -> None:
        """Let go of the base."""
        if hasattr(self, "folder"):
            Base.at(self.path).close()
            self.folder.cleanup()


TestConfigMachine = ConfigMachine.TestCase
TestConfigMachine.settings = settings(max_examples=EXAMPLES, stateful_step_count=12, deadline=None)
