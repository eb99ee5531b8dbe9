"""``docs/reliability.md`` is what the program makes of the committed figures, and nobody's handiwork."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tools.torture.__main__ import suite_names
from tools.torture.page import DATA, PAGE, page_of


@pytest.fixture(scope="module")
def data() -> Any:
    """The committed figures."""
    return json.loads(DATA.read_text())


def test_the_page_is_made_of_the_data(data: Any) -> None:
    """``python -m tools.torture.page`` makes it."""
    assert PAGE.read_text() == page_of(data)


def test_every_suite_has_its_figures_on_the_page(data: Any) -> None:
    """Nothing that was run is left out, and nothing is there that cannot be run again."""
    assert set(data["suites"]) <= set(suite_names())
    page = page_of(data)
    for report in data["suites"].values():
        assert f"commit `{report['commit']}`" in page
    assert "{" not in page


def test_a_suite_that_failed_is_told(data: Any) -> None:
    """In the summary and with what it found."""
    report = data["suites"]["real_disk"] | {"failures": ["w0 lost a row (seed 7)"]}
    page = page_of({"suites": {"real_disk": report}})
    assert "**1 failed**" in page
    assert "- w0 lost a row (seed 7)" in page
    assert "Not run yet." in page
