"""The SQL reference says what is so, and its examples run."""

from __future__ import annotations

import pytest

from projections import ReadModels
from projections.testing import ListedLog
from tools.sql_reference import PAGE, examples, page


def test_the_page_is_what_the_views_say() -> None:
    """Run ``python -m tools.sql_reference`` after a view has changed."""
    assert PAGE.read_text() == page()


@pytest.mark.parametrize("query", examples())
def test_examples_run(query: str) -> None:
    """As anybody may ask them."""
    assert ReadModels(ListedLog()).select(query).columns
