"""What made-up input brings to light: code that runs, names that lead elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
import yaml

from dacapo_store import array_store, base, checkpoint_names, names, weights_store
from tools.torture import fuzz
from tools.torture.damage import Tally
from tools.torture.mutations.breaking import Breaks, Family, Hunt, Noticed, Patch

_CASES_MAX: Final = 500
_CASES_AT_ONCE: Final = 50
_SEED: Final = 5


def _unpickle_everything(patch: Patch) -> None:
    honest = torch.load

    def load(file: Any, **how: Any) -> Any:
        return honest(file, **{**how, "weights_only": False})

    patch.set(torch, "load", load)


def _believe_names(patch: Patch) -> None:
    for module in (names, array_store, base, checkpoint_names, weights_store):
        if hasattr(module, "validate_run_name"):
            patch.set(module, "validate_run_name", lambda name: name)


@dataclass(frozen=True)
class _Mutation:
    """How the code is broken, and the target that shows it."""

    breaks: Breaks
    target: str


MUTATIONS: Final[dict[str, _Mutation]] = {
    "weights are unpickled, whatever is in them": _Mutation(_unpickle_everything, "weights"),
    "options are read with YAML's full loader": _Mutation(
        lambda patch: patch.set(yaml, "SafeLoader", yaml.UnsafeLoader), "options"
    ),
    "names of runs are believed": _Mutation(_believe_names, "names"),
}


@contextmanager
def _ready() -> Iterator[Hunt]:
    yield _hunt


def _hunt(what: str) -> Noticed | None:
    mutation = MUTATIONS[what]
    with Patch() as patch, tempfile.TemporaryDirectory(prefix="dacapo-fuzz-") as folder:
        mutation.breaks(patch)
        for begin in range(0, _CASES_MAX, _CASES_AT_ONCE):
            tally = Tally()
            fuzz.judge_many(Path(folder), mutation.target, _CASES_AT_ONCE, tally, seed=_SEED + begin)
            if tally.failures:
                return Noticed(begin + _CASES_AT_ONCE, tally.failures[0])
    return None


FAMILY: Final = Family("fuzz", "cases", MUTATIONS, _ready)
