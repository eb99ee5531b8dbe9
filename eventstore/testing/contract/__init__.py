"""What every log promises, whatever storage it has: one suite for all of them.

Subclass ``LogContract`` in a test module and give it the fixture ``open_log``; each test then runs
against that storage. The suite uses the public interface of ``EventLog`` alone. What is special to
one storage (its files, its recovery) is tested beside it.

This is a test suite, so it needs pytest, and its checks are plain asserts. Each module is one theme.
"""

from __future__ import annotations

from eventstore.testing.contract.appending import AppendContract
from eventstore.testing.contract.deciding import DecisionContract
from eventstore.testing.contract.given import OpenLog
from eventstore.testing.contract.handles import HandleContract
from eventstore.testing.contract.reading import ReadContract
from eventstore.testing.contract.values import ValueContract

__all__ = ["LogContract", "OpenLog"]


class LogContract(AppendContract, DecisionContract, ReadContract, ValueContract, HandleContract):
    """The suite. A subclass gives the fixture ``open_log``."""
