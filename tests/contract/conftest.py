"""A failing check of a contract suite shows its values, as one in a test module does."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("eventstore.testing.contract")
