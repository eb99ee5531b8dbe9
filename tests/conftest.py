"""What all tests share: hypothesis profiles, and a home of its own for every test.

Profiles: ``dev`` (the default) is quick, ``ci`` looks harder and prints how to repeat a failure,
``nightly`` takes its time. Choose with ``HYPOTHESIS_PROFILE``; under ``CI`` it is ``ci``.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

# A failing check of a contract suite shows its values, as one in a test module does.
pytest.register_assert_rewrite("eventstore.testing.contract", "eventstore.testing.witness")

# No deadlines: how long an example takes says something about the machine, not about the code.
# Stateful and file tests are slow by nature, and fixtures such as tmp_path are made once a test.
_CALM = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
settings.register_profile("dev", deadline=None, max_examples=50, suppress_health_check=_CALM)
settings.register_profile("ci", deadline=None, max_examples=100, suppress_health_check=_CALM, print_blob=True)
settings.register_profile(
    "nightly", deadline=None, max_examples=5000, suppress_health_check=_CALM, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


@pytest.fixture(autouse=True)
def _no_options_from_outside(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No ``dacapo.yaml`` of the person who runs the tests decides where a store writes."""
    home: Path = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("DACAPO_OPTIONS_FILE", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


@pytest.fixture(scope="session", autouse=True)
def _no_work_in_the_background() -> Iterator[None]:
    """No test or fixture, and no process that one starts, leaves another one behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DACAPO_STORE_HOUSEKEEPING", "off")
        yield


@pytest.fixture(autouse=True)
def _bases_are_closed(_no_work_in_the_background: None) -> Iterator[None]:
    """A process keeps the bases that it opened; hundreds of tests would keep hundreds of databases."""
    yield
    base_module = sys.modules.get("dacapo_store.base")
    for base in list(base_module.open_bases()) if base_module else []:
        base.close()


@pytest.fixture(scope="session")
def mongodb_uri() -> Iterator[str]:
    """A MongoDB: the one that ``MONGODB_URI`` names, or one for tests that keeps everything in memory."""
    named = os.environ.get("MONGODB_URI")
    if named:
        yield named
        return
    from tools.mongo_server import MongoServer

    with MongoServer(replica_set=True) as server:
        yield server.uri


@pytest.fixture
def mongodb(mongodb_uri: str, _bases_are_closed: None) -> Iterator[tuple[str, str]]:
    """A MongoDB and the name of a database in it that nobody else uses; it is dropped at the end."""
    from pymongo import MongoClient

    name = f"dacapo_store_test_{os.urandom(6).hex()}"
    yield mongodb_uri, name
    client: MongoClient[Any]
    with MongoClient(mongodb_uri) as client:
        client.drop_database(name)
