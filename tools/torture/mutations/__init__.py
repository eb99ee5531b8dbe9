"""The suites are themselves put to the test: the code is broken on purpose, and they must notice.

A suite that finds nothing shows that there is nothing to find only if it would find something. One
module breaks what one suite is there for; ``FAMILIES`` are all of them.
"""

from __future__ import annotations

import time
from typing import Final

from tools.torture.mutations import damage, faults, fuzz, histories, kill, power_cut
from tools.torture.mutations.breaking import Family, Noticed
from tools.torture.report import Figure, Report

__all__ = ["FAMILIES", "Family", "Noticed", "run"]

FAMILIES: Final = tuple(module.FAMILY for module in (power_cut, kill, faults, damage, fuzz, histories))


def run(*, long: bool, seed: int) -> Report:  # noqa: ARG001 - each is looked for until it is found
    """Break the code in every way that is known, one after the other, and see who notices, and how soon."""
    began, figures, failures = time.monotonic(), dict[str, Figure](), list[str]()
    for family in FAMILIES:
        with family.ready() as hunt:
            for what in family.mutations:
                noticed = hunt(what)
                if noticed is None:
                    failures.append(f"{family.suite} did not notice: {what}")
                else:
                    figures[f"{family.suite}: {what}"] = f"{noticed.after:,} {family.counts}"
    figures = {"ways to break the code": sum(len(family.mutations) for family in FAMILIES), **figures}
    return Report("mutations", figures, failures, time.monotonic() - began)
