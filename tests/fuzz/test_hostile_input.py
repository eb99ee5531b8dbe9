"""Made-up input: whatever comes, the answer is a value or an error that the interface names.

No code out of a file runs, the interpreter does not die, and nothing is written outside the base. What
may kill an interpreter is judged in child processes (``tools.torture.fuzz``); the rest is driven by
hypothesis here.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dacapo_store import TrainingIterationStats, TrainingStats
from dacapo_store.array_store import LocalArrayIdentifier, LocalArrayStore
from dacapo_store.base import Base
from dacapo_store.config_store import DuplicateNameError, FileConfigStore
from dacapo_store.converter import TYPE_KEY, UnknownTypeError
from dacapo_store.options import Options
from dacapo_store.stats_store import FileStatsStore
from dacapo_store.weights_store import LocalWeightsStore
from eventstore import Event, EventLog, files
from tools.torture import fuzz
from tools.torture.damage import Tally

SEED = 5
EXAMPLES = 60

TEXTS = st.text(max_size=20) | st.sampled_from(fuzz.TRAVERSALS)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**20, max_value=10**300)
    | st.floats()
    | TEXTS
    | st.binary(max_size=8)
    | st.just("$tuple")
)
KEYS = TEXTS | st.sampled_from(["$float", "$mapping", "name", ""]) | st.integers() | st.booleans()
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(st.integers() | TEXTS, max_size=3)
    ),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("target", "count"),
    [("segments", 120), ("lock file", 20), ("weights", 60), ("options", 120), ("names", 80)],
)
def test_made_up_input_is_answered(tmp_path: Path, target: str, count: int) -> None:
    """Sealed lies, noise in the lock file, pickles with code, YAML with tags, names that lead elsewhere."""
    tally = Tally()
    fuzz.judge_many(tmp_path, target, count, tally, seed=SEED)
    assert tally.failures == []
    assert tally.cases[target] == count


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a base in it, and something beside the base; it does not wait for the disk."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "outside").mkdir()
    (folder / "outside/precious").write_text("precious")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("sync_data", "sync_file", "sync_directory"):
            patch.setattr(files, name, lambda _: None)
        yield folder


def around(place: Path) -> dict[str, str | None]:
    """Everything beside the base."""
    paths = [path for path in place.rglob("*") if path.relative_to(place).parts[0] != "base"]
    return {str(path): path.read_text() if path.is_file() else None for path in paths}


def same(one: Any, other: Any) -> bool:
    """Equality with types, in which a NaN is itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and all(
            same(*keys) and same(one[keys[0]], other[keys[1]]) for keys in zip(one, other, strict=True)
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    return bool(one == other)


@settings(max_examples=EXAMPLES)
@given(document=DOCUMENTS, name=TEXTS)
@example(document={"a": [[[[[[["deep"]]]]]]]}, name="\ud800")
def test_configs_come_back_or_are_refused(place: Path, document: Any, name: str) -> None:
    """What was stored is what is retrieved; what cannot be stored is a ValueError or a TypeError."""
    before = around(place)
    store = FileConfigStore(place / "base/configs")
    config = {"name": name, "content": document}
    try:
        store.store_task_config(config)
    except (ValueError, TypeError, DuplicateNameError):
        pass
    else:
        try:
            assert same(store.retrieve_task_config(name), config)
        except UnknownTypeError:
            assert TYPE_KEY in repr(config)
            store.retrieve_task_config(name, raw=True)
        store.delete_config(store.tasks, name)
    assert around(place) == before


@pytest.mark.parametrize("depth", [100, 250, 900, 100_000])
@pytest.mark.parametrize("kind", [list, dict])
def test_deep_and_endless_configs_are_stored_or_refused(tmp_path: Path, depth: int, kind: type) -> None:
    """However deep: the interpreter and DuckDB live, and the next call works."""
    store = FileConfigStore(tmp_path / "configs")
    document: Any = 1
    for _ in range(depth):
        document = [document] if kind is list else {"x": document}
    endless: dict[str, Any] = {"name": "endless"}
    endless["self"] = endless
    for config in ({"name": "deep", "content": document}, endless):
        try:
            store.store_task_config(config)
        except (ValueError, TypeError):
            continue
        store.retrieve_task_config(config["name"])
    store.store_task_config({"name": "plain"})
    assert store.retrieve_task_config("plain") == {"name": "plain"}
    assert "plain" in store.retrieve_task_config_names()


@settings(max_examples=EXAMPLES)
@given(st.binary(max_size=200) | DOCUMENTS.map(repr).map(lambda text: text.encode(errors="replace")))
@example(b"a: &a [x,x,x]\nb: &b [*a,*a,*a]\nruns_base_dir: *b\n")
@example(b"&a [*a]")
@example(b"runs_base_dir: !!python/object/apply:os.getcwd []\n")
@example(b"[" * 600)
@example(b"a: 2001-99-99")
def test_options_files_are_read_or_named_in_the_error(place: Path, content: bytes) -> None:
    """The error says which file, in a few lines."""
    path = place / "base" / "dacapo.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    said = ""
    try:
        repr(Options.from_file(path))
    except ValueError as error:
        said = str(error)
    assert not said or str(path) in said
    assert len(said) < 5_000


def test_a_few_lines_of_aliases_are_no_gigabytes(place: Path) -> None:
    """Nine references in each of nine lines are 387 million values; also where they are merged."""
    (place / "base").mkdir(exist_ok=True)
    path = place / "base" / "dacapo.yaml"
    letters = "abcdefghij"
    for first, line in (("[x,x]", "[{}]"), ("{x: 1}", "{{<<: [{}]}}")):
        lines = [f"a: &a {first}"]
        for before, letter in itertools.pairwise(letters):
            lines.append(f"{letter}: &{letter} " + line.format(",".join([f"*{before}"] * 9)))
        path.write_text("\n".join([*lines, "runs_base_dir: *j"]))
        with pytest.raises(ValueError, match="aliases"):
            Options.from_file(path)


@settings(max_examples=EXAMPLES)
@given(
    run=TEXTS,
    names=st.lists(TEXTS, max_size=3, unique=True),
    rows=st.lists(
        st.tuples(st.integers(), st.floats() | st.none(), st.floats()),
        max_size=5,
        unique_by=lambda row: row[0],
    ),
)
def test_stats_come_back_or_are_refused(
    place: Path, run: str, names: list[str], rows: list[tuple[int, float | None, float]]
) -> None:
    """Names of runs and scalars, iterations and numbers are data, whatever they are."""
    before = around(place)
    store = FileStatsStore(place / "base/stats")
    try:
        stats = TrainingStats(
            [
                TrainingIterationStats(
                    iteration=iteration, loss=loss, time=1.0, **{f"scalar {name}": value for name in names}
                )
                for iteration, value, loss in rows
            ]
        )
        store.store_training_stats(run, stats)
    except (ValueError, TypeError, OverflowError):
        pass
    else:
        if rows:
            there = store.retrieve_training_stats(run)
            assert [each.iteration for each in there.iteration_stats] == [row[0] for row in rows]
            store.delete_training_stats(run)
    assert around(place) == before


@settings(max_examples=EXAMPLES)
@given(container=TEXTS, dataset=TEXTS, run=TEXTS)
def test_no_identifier_removes_what_lies_outside(place: Path, container: str, dataset: str, run: str) -> None:
    """Containers and datasets that lead elsewhere are refused; what an identifier names is in the base."""
    before = around(place)
    base = place / "base"
    store = LocalArrayStore(base)
    for given_container in (
        base / container if "\0" not in container else container,
        container,
        place / "outside",
    ):
        # A name that is too long for the file system is refused by that.
        with contextlib.suppress(ValueError, OSError):
            store.remove(LocalArrayIdentifier(given_container, dataset))  # type: ignore[arg-type]
    try:
        identifier = store.validation_prediction_array(run, 1, dataset)
    except ValueError:
        pass
    else:
        lies = Path(str(identifier.container), identifier.dataset)
        assert base / run in lies.parents
        assert ".." not in lies.parts
    assert around(place) == before


@settings(max_examples=EXAMPLES)
@given(run=TEXTS, key=TEXTS, iteration=st.integers())
def test_no_name_loads_or_removes_weights_outside(place: Path, run: str, key: str, iteration: int) -> None:
    """A key or a run's name that leads elsewhere is an error, and no file is opened for it."""
    before = around(place)
    store = LocalWeightsStore(place / "base")
    for call in (
        lambda: store._retrieve_weights(run, key),
        lambda: store.retrieve_weights(run, iteration),
        lambda: store.remove(run, iteration),
        lambda: store.store_best(run, iteration, key, key),
        lambda: store.retrieve_best(run, key, key),
    ):
        with pytest.raises((ValueError, LookupError)):
            call()
    assert around(place) == before


@settings(max_examples=EXAMPLES)
@given(data=DOCUMENTS, stream=TEXTS, kind=TEXTS, index=DOCUMENTS, values=DOCUMENTS)
def test_events_come_back_or_are_refused(
    place: Path, data: Any, stream: str, kind: str, index: Any, values: Any
) -> None:
    """Whatever is appended is read as it was given, or nothing was written."""
    with EventLog.open(place / "base/other-log") as log:
        before = log.next_position
        try:
            log.append(stream, [Event(kind, data, index=index, values=values)])
        except (ValueError, TypeError):
            assert log.next_position == before
        else:
            (event,) = log.read(before)
            assert (event.stream, event.type) == (stream, kind)
            assert same(event.data, data) or isinstance(data, set) or "set" in repr(data)


def test_a_document_that_names_a_type_makes_no_other_objects(tmp_path: Path) -> None:
    """``__type__`` names registered classes only: no import, no call."""
    store = FileConfigStore(tmp_path / "configs")
    for name in ("os.system", "builtins.eval", "subprocess.Popen", "dacapo_store.base.Base"):
        config = {"name": "x", "__type__": name, "args": ["touch /tmp/executed"]}
        try:
            store.store_task_config(config)
            there = store.retrieve_task_config("x")
        except (ValueError, TypeError, DuplicateNameError):
            continue
        assert isinstance(there, dict)
        store.delete_config(store.tasks, "x")
    Base.at(tmp_path).query("SELECT * FROM tasks").fetchall()
