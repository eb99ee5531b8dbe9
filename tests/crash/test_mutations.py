"""The suites of torture can fail: each notices what is broken on purpose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tools.torture.mutations import FAMILIES, Family
from tools.torture.mutations.breaking import Hunt

_MUTATIONS = [(family, what) for family in FAMILIES for what in family.mutations]


@pytest.fixture(scope="module")
def hunt(request: pytest.FixtureRequest) -> Iterator[Hunt]:
    """What the hunts of one family share."""
    with request.param.ready() as hunt:
        yield hunt


@pytest.mark.parametrize(
    ("hunt", "what"),
    _MUTATIONS,
    ids=[f"{family.suite}: {what}" for family, what in _MUTATIONS],
    indirect=["hunt"],
)
def test_broken_code_is_noticed(hunt: Hunt, what: str) -> None:
    """By the suite that is there for it, and by what that suite promises to look at."""
    noticed = hunt(what)
    assert noticed is not None
    assert noticed.says


def test_each_suite_is_put_to_the_test() -> None:
    """No name is there twice in a family, and the ways to break the code are not few."""
    suites: list[Family] = list(FAMILIES)
    assert len({family.suite for family in suites}) == len(suites)
    assert len(_MUTATIONS) > 40
