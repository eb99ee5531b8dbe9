"""Hostile input: made-up segments, lock files, weights files, options, names and identifiers.

What is promised. Against accidents: everything, by the seals (see ``damage``). Against somebody who can
write into the base: nothing about the data, for whoever can write can also seal; but no code of
theirs runs, the interpreter does not die, and nothing is written outside the base. Whatever comes, the
answer is a value or an error that the interface names.

Each case is judged in a child process that shares nothing with the next suite; one that dies names its
case.
"""

from __future__ import annotations

import io
import os
import pickle
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from eventstore import Event, EventLog, EventStoreError, files, plan_repair, verify_log
from eventstore import format as log_format
from eventstore.storage.local.survey import survey
from tools.torture.damage import Tally, WrongAnswerError, read, write_log
from tools.torture.report import Report

_CASE_SECONDS: Final = 60
_SAID: Final = struct.Struct("<I")
_TEXT_MAX: Final = 10_000

_YAML: Final = """\
runs_base_dir: x
type: files
type: [
a: &a
b: *a
<<: *a
runs_base_dir: *a
!!python/object/apply:os.system ['touch {marker}']
runs_base_dir: !!python/object/new:os.mkdir ['{marker}']
{{
}}
[
]
:
-
?
|
>
'
"
!!binary x
2001-99-99
.inf
0x
~
é
\t
compute_context: {{type: x}}
mongo_db_host: 5
%YAML 1.1
---"""

TRAVERSALS: Final = (
    "..",
    "../outside",
    "../../outside",
    "a/../../outside",
    "./..",
    "/etc",
    "//etc",
    "\\..\\outside",
    "..\\outside",
    "%2e%2e/outside",
    "..%2foutside",
    "\uff0e\uff0e/outside",
    "a/./b",
    "a//b",
    "a/",
    "/",
    ".",
    "",
    " ",
    "\0",
    "a\0b",
    "../base.zarr",
    "~",
    "~root",
    "$HOME",
    "configs",
    "stats",
    "events",
    "views",
    ".trash",
    "x" * 300,
    "é" * 200,
    "\ud800",
    "a\nb",
    "-rf",
    "con",
    "..\u2215outside",
    "'; DROP TABLE weights; --",
)
"""Names that would lead elsewhere if they were believed, and some that only look so."""


def run(*, long: bool, seed: int) -> Report:
    """Feed each target with made-up input."""
    began = time.monotonic()
    counts = {name: (per_run * 40 if long else per_run) for name, per_run in _CASES.items()}
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="dacapo-fuzz-") as folder:
        for name, count in counts.items():
            judge_many(Path(folder), name, count, tally, seed=seed)
    figures = {f"cases: {kind}": number for kind, number in sorted(tally.cases.items())}
    figures |= {f"outcomes: {kind}": number for kind, number in sorted(tally.outcomes.items())}
    return Report("fuzz", dict(figures), tally.failures, time.monotonic() - began)


def judge_many(folder: Path, target: str, count: int, tally: Tally, *, seed: int) -> None:
    """Judge cases of a target in child processes; another child goes on where one dies."""
    begin = 0
    while begin < count:
        begin = _run_child(folder, target, range(begin, count), tally, seed)


def _run_child(folder: Path, target: str, numbers: range, tally: Tally, seed: int) -> int:
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        _be_child(folder, target, numbers, write_end, seed)
    os.close(write_end)
    at = numbers.start
    with os.fdopen(read_end, "rb") as said:
        while len(head := said.read(_SAID.size)) == _SAID.size:
            number, what, detail = said.read(_SAID.unpack(head)[0]).decode().split("\t", 2)
            at = int(number)
            if what == "begin":
                tally.cases[target] += 1
            elif what == "failure":
                tally.failures.append(f"{target} {at} (seed {seed}): {detail}")
            else:
                tally.outcomes[f"{target}: {what}"] += 1
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == 0:
        return numbers.stop
    tally.failures.append(f"{target} {at} (seed {seed}): the child ended with {status}")
    return at + 1


def _be_child(folder: Path, target: str, numbers: range, write_end: int, seed: int) -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for name in ("sync_data", "sync_file", "sync_directory"):
        setattr(files, name, lambda _: None)
    warnings.simplefilter("ignore")
    status = 70

    def say(number: int, what: str, detail: str = "") -> None:
        data = f"{number}\t{what}\t{detail}".encode(errors="backslashreplace")
        os.write(write_end, _SAID.pack(len(data)) + data)

    try:
        place = Path(tempfile.mkdtemp(dir=folder))
        os.chdir(place)
        os.environ["HOME"] = str(place / "home")
        (place / "home").mkdir()
        (place / "outside").mkdir()
        (place / "outside/precious").write_text("precious")
        work = TARGETS[target](place)
        around = _around(place)
        for number in numbers:
            say(number, "begin")
            signal.alarm(_CASE_SECONDS)
            try:
                say(number, work(random.Random(f"{seed}/{target}/{number}")))  # noqa: S311 - made-up input
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
                where = traceback.extract_tb(error.__traceback__)[-1]
                place_in_code = f"{Path(where.filename).name}:{where.lineno}"
                say(number, "failure", f"{type(error).__name__}: {error} ({place_in_code})")
            if _around(place) != around:
                say(number, "failure", "something was written outside the base")
        status = 0
    finally:
        if status:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(status)


def _around(place: Path) -> dict[str, bytes | None]:
    """All files beside the base, which nobody may touch."""
    paths = [path for path in place.rglob("*") if path.relative_to(place).parts[0] not in ("base", "input")]
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


# --- segments


def segments(place: Path) -> Callable[[random.Random], str]:
    """Frames of made-up Arrow messages, properly sealed, among good ones."""
    pristine = write_log(place / "base/events", salt=0)
    paths = sorted(pristine.glob("*.arrows"))
    contents = {path: path.read_bytes() for path in paths}
    frames = {path: [survey(path).schema, *survey(path).frames] for path in paths}

    def judge(dice: random.Random) -> str:
        path = dice.choice(paths)
        frame = dice.choice([each for each in frames[path] if each is not None])
        message = log_format.unseal(frame.read(), frame.seal)
        sealed = log_format.seal_frame(
            _hostile_message(message, dice),
            first_position=frame.seal.first_position,
            event_count=dice.choice([frame.seal.event_count] * 3 + [0, 2, 1_000_000]),
            synced_position=frame.seal.synced_position,
            chain=frame.seal.chain,
            offset=frame.offset,
        )
        data = contents[path]
        path.write_bytes(data[: frame.offset] + sealed + data[frame.offset + frame.seal.frame_bytes :])
        try:
            outcomes = {
                _answer(lambda: use_everything(pristine)),
                _answer(lambda: verify_log(pristine)),
                _answer(lambda: plan_repair(pristine)),
            }
        finally:
            path.write_bytes(data)
        return "error" if "error" in outcomes else "answer"

    return judge


def _hostile_message(message: bytes, dice: random.Random) -> bytes:
    """An encapsulated message with lies in its flatbuffer or its body; its prefix is right."""
    data = bytearray(message)
    for _ in range(dice.choice([1, 1, 1, 2, 4, 16])):
        place = dice.randrange(8, len(data))
        match dice.randrange(4):
            case 0:
                data[place] ^= 1 << dice.randrange(8)
            case 1:
                data[place] = dice.choice([0, 1, 0x7F, 0x80, 0xFF])
            case 2:
                data[place // 4 * 4 : place // 4 * 4 + 4] = struct.pack("<i", dice.choice(_NUMBERS))
            case 3:
                place = place // 8 * 8
                data[place : place + 8] = struct.pack("<q", dice.choice(_NUMBERS) * dice.choice([1, 1 << 31]))
    return bytes(data[: len(message)])


_NUMBERS: Final = (0, 1, -1, 7, 8, 64, 1 << 10, 1 << 20, (1 << 31) - 1, -(1 << 31), -8)


def use_everything(path: Path) -> None:
    """Read every event and look at all of it, as programs do."""
    with EventLog.open(path, read_only=True) as log:
        for batch in log.read_batches():
            batch.drop_columns(["recorded_at"]).to_pylist()
        for event in log.read():
            _ = (event.recorded_at, event.event_id, event.data_json, event.metadata_json)
            _ = (event.index, event.values)


def _answer(call: Callable[[], object]) -> str:
    """What a call came to; anything but an error of the log's own is a finding."""
    try:
        call()
    except EventStoreError:
        return "error"
    return "answer"


# --- the lock file


def lock_file(place: Path) -> Callable[[random.Random], str]:
    """Noise in the shared state: it is derived, so the log is as good without it."""
    pristine = write_log(place / "base/pristine", salt=0)
    original = read(pristine)
    path = place / "base/events"

    def judge(dice: random.Random) -> str:
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(pristine, path)
        count = len(original)
        number = dice.choice([0, 1, 5, count, count + 1, 1 << 40, (1 << 64) - 1, dice.getrandbits(64)])
        known = b"DCPLOCK1" + struct.pack("<QQ", dice.getrandbits(64), number)
        noise = dice.choice(
            [known, known, known[: dice.randrange(24)], dice.randbytes(24), dice.randbytes(5)]
        )
        (path / "lock").write_bytes(noise)
        with EventLog.open(path) as log:
            log.append("later", [Event("Happened")])
            verdict = log.verify()
        there = read(path)
        if not verdict.ok or len(there) != count + 1 or there[:count] != original:
            raise WrongAnswerError(f"a lock file of {noise!r} changed the log: {verdict.findings}")
        return "answer"

    return judge


# --- weights files


class _Exploit:
    """Unpickling this runs code, for an unpickler that lets it."""

    def __init__(self, marker: Path, how: int) -> None:
        self._marker, self._how = str(marker), how

    def __reduce__(self) -> tuple[Any, ...]:
        calls: list[tuple[Any, ...]] = [
            (os.system, (f"touch {self._marker}",)),
            (eval, (f"open({self._marker!r}, 'w')",)),
            (open, (self._marker, "w")),
            (os.mkdir, (self._marker,)),
        ]
        return calls[self._how % len(calls)]


def weights(place: Path) -> Callable[[random.Random], str]:
    """Files in the place of weights: with code in them, cut, changed, packed, and of other kinds."""
    import torch

    from dacapo_store.errors import DaCapoStoreError
    from dacapo_store.weights_store import LocalWeightsStore

    store = LocalWeightsStore(place / "base")
    marker = place / "executed"
    link = place / "base/run/checkpoints/iterations/1"
    link.parent.mkdir(parents=True)
    good = io.BytesIO()
    torch.save({"model": {"w": torch.ones(3)}, "optimizer": {"state": {}}}, good)

    def judge(dice: random.Random) -> str:
        link.write_bytes(_hostile_weights(good.getvalue(), marker, dice))
        try:
            store.retrieve_weights("run", 1)
        except (DaCapoStoreError, EventStoreError):
            outcome = "error"
        else:
            outcome = "answer"
        if marker.exists():
            raise WrongAnswerError("code from the file was run")
        return outcome

    return judge


def _hostile_weights(good: bytes, marker: Path, dice: random.Random) -> bytes:
    exploit = _Exploit(marker, dice.randrange(4))
    state = dice.choice([exploit, {"model": {"w": exploit}, "optimizer": exploit}])
    place = dice.randrange(len(good))
    protocol = dice.randrange(pickle.HIGHEST_PROTOCOL + 1)
    bomb = bytes(64 << 20)
    makers: list[Callable[[], bytes]] = [
        lambda: pickle.dumps(state, protocol=protocol),
        lambda: pickle.dumps({"model": [[]] * 3, "optimizer": None}),
        lambda: _repacked(good, "data.pkl", lambda _: pickle.dumps(state, protocol=protocol)),
        lambda: _repacked(good, "data.pkl", lambda data: _changed(data, dice)),
        lambda: _repacked(good, "/data/", lambda _: bomb, compression=zipfile.ZIP_DEFLATED),
        lambda: good[:place],
        lambda: good[:place] + dice.randbytes(dice.choice([1, 4, 64])) + good[place + 1 :],
        lambda: dice.randbytes(dice.randrange(2_000)),
    ]
    return dice.choice(makers)()


def _changed(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.choice([1, 2, 8])):
        changed[dice.randrange(len(changed))] = dice.randrange(256)
    return bytes(changed)


def _repacked(
    archive: bytes, part: str, change: Callable[[bytes], bytes], *, compression: int = zipfile.ZIP_STORED
) -> bytes:
    """The archive with the content of one of its entries changed."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(made, "w", compression) as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if part in name else data)
    return made.getvalue()


# --- options, names, identifiers


def options(place: Path) -> Callable[[random.Random], str]:
    """Files of options made of YAML's own marks."""
    from dacapo_store.options import Options

    pieces = _YAML.format(marker=place / "executed").splitlines()

    def judge(dice: random.Random) -> str:
        joint = dice.choice(["", " ", "\n"])
        text = joint.join(dice.choices(pieces, k=dice.choice([1, 2, 3, 5, 30]))).encode()
        content = dice.choice([text, text, text, dice.randbytes(40), b"[" * dice.randrange(600)])
        (place / "input").mkdir(exist_ok=True)
        given = place / "input/dacapo.yaml"
        given.write_bytes(content)
        try:
            repr(Options.from_file(given))
        except ValueError as error:
            if str(given) not in str(error) or len(str(error)) > _TEXT_MAX:
                raise WrongAnswerError(f"the error does not help: {str(error)[:300]!r}") from error
            return "error"
        return "answer"

    return judge


def names(place: Path) -> Callable[[random.Random], str]:
    """Names of runs, datasets, criteria and arrays that would lead elsewhere if they were believed."""
    from dacapo_store import TrainingIterationStats, TrainingStats
    from dacapo_store.array_store import LocalArrayIdentifier, LocalArrayStore
    from dacapo_store.base import Base
    from dacapo_store.config_store import DuplicateNameError, FileConfigStore
    from dacapo_store.errors import DaCapoStoreError
    from dacapo_store.stats_store import FileStatsStore
    from dacapo_store.weights_store import LocalWeightsStore

    root = place / "base"
    configs, stats = FileConfigStore(root / "configs"), FileStatsStore(root / "stats")
    weights_store, arrays = LocalWeightsStore(root), LocalArrayStore(root)
    (root / "link.zarr").symlink_to(place / "outside")

    def name(dice: random.Random) -> str:
        known = dice.choice(TRAVERSALS)
        return dice.choice([known, known, dice.choice(TRAVERSALS) + "/" + known, known * 2, known + ".zarr"])

    def judge(dice: random.Random) -> str:
        one, two = name(dice), name(dice)
        container = dice.choice(
            [root / "run/validation.zarr", root / one, Path(one), root / "link.zarr", place / two]
        )
        rows = TrainingStats([TrainingIterationStats(loss=1.0, iteration=0, time=1.0)])
        calls: list[Callable[[], object]] = [
            lambda: configs.store_run_config({"name": one, "task": {"name": two}}),
            lambda: configs.retrieve_run_config(one),
            lambda: configs.store_task_config({"name": one}),
            lambda: stats.store_training_stats(one, rows),
            lambda: stats.retrieve_training_stats(one),
            lambda: weights_store.retrieve_weights(one, 1),
            lambda: weights_store.remove(one, 1),
            lambda: weights_store.store_best(one, 1, two, one),
            lambda: weights_store._retrieve_weights(one, two),  # noqa: SLF001 - what DaCapo's starts call
            lambda: weights_store.repair_links(one),
            lambda: arrays.validation_prediction_array(one, 1, two),
            lambda: arrays.remove(LocalArrayIdentifier(container, two)),  # type: ignore[arg-type]
            lambda: Base.at(root).run_directory(one).relative_to(root),
        ]
        try:
            dice.choice(calls)()
        except (ValueError, LookupError, DaCapoStoreError, DuplicateNameError):
            return "error"
        return "answer"

    return judge


TARGETS: Final[dict[str, Callable[[Path], Callable[[random.Random], str]]]] = {
    "segments": segments,
    "lock file": lock_file,
    "weights": weights,
    "options": options,
    "names": names,
}
_CASES: Final = {"segments": 1_500, "lock file": 60, "weights": 300, "options": 500, "names": 300}
