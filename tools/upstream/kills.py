"""Kill DaCapo's training at random and resume it, again and again, and see what is lost.

Each life is a process that trains until it is killed with SIGKILL, at a moment drawn by chance: while it
stores stats, weights or scores, or anywhere. After each life another process asks the stores for
everything, as DaCapo does when it resumes. *Lost* means, of what was acknowledged (the call that stored
it had returned):

- stats or scores raise, or are neither what they were before the interrupted call nor what it stored;
- the latest weights, or any that were stored before, raise or are others;
- with these stores: what the view showed after an earlier life is not what it shows as of then.

The run has a past of some thousand iterations, as long trainings have: DaCapo's own stores write all of
it anew each time. When they have lost something, the next life begins with a new base.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

from tools.upstream import process

MOMENTS: Final = ("stats", "weights", "scores", "anywhere")

_METHODS: Final = {
    "stats": "store_training_stats",
    "weights": "store_weights",
    "scores": "store_validation_iteration_scores",
}

_ANYWHERE_SECONDS: Final = 4.0
"""How long after the first call that stores something a life may last that is killed anywhere."""

_SILENCE_SECONDS: Final = 240.0


@dataclass
class Outcome:
    """What lives with one kind of store came to.

    Attributes:
        lives: How many processes were killed.
        within_a_call: How many of them within a call that stores.
        lost: One line for each life after which something was lost.
        trained_until: The iteration that the run came to at last.
    """

    lives: int = 0
    within_a_call: int = 0
    lost: list[str] = field(default_factory=list)
    trained_until: int = 0


def compare(
    *, lives: int, past: int, seed: int = 0, only: tuple[str, ...] = ("ours", "theirs")
) -> dict[str, Outcome]:
    """Kill and resume a training with each kind of store, each in a process of its own.

    Args:
        lives: How often it is killed.
        past: How many iterations the run has at the beginning; a multiple of the validation interval.
        seed: What decides on the moments.
        only: The kinds of store, ``ours`` or ``theirs``.

    Raises:
        subprocess.CalledProcessError: One of them ended with an error, which it printed.
    """
    outcomes = {}
    for stores in only:
        with tempfile.TemporaryDirectory(prefix="kills-") as folder:
            process.make_folder(Path(folder))
            arguments = [
                f"--{name}={value}" for name, value in (("lives", lives), ("past", past), ("seed", seed))
            ]
            subprocess.run(  # noqa: S603 - this module
                [sys.executable, "-m", "tools.upstream.kills", "--stores", stores, *arguments],
                cwd=folder,
                env=process.environment(stores),
                check=True,
            )
            outcomes[stores] = Outcome(**json.loads(Path(folder, "outcome.json").read_text()))
    return outcomes


def kill_and_resume(stores: str, *, lives: int, past: int, seed: int) -> Outcome:
    """Kill and resume a training so many times; in a folder of its own, for the stores of this process."""
    # What a life needs is imported once, here; it is forked from this process, which opens no store.
    from tools.upstream import experiment

    draw = random.Random(seed)  # noqa: S311 - no secret
    outcome = Outcome()
    experiment.make_data(Path("data"))
    stored = _in_a_child(_begin, past)
    seconds = dict.fromkeys(_METHODS, 0.02)
    for number in range(lives):
        moment = MOMENTS[number % len(MOMENTS)]
        interrupted = _life(moment, draw, stored, seconds)
        found = _in_a_child(_look, list(stored["weights"] | interrupted.get("weights", {})))
        losses = lost(stored, interrupted, found)
        outcome.lives += 1
        outcome.within_a_call += bool(interrupted)
        outcome.lost += [f"life {number + 1}, killed at {moment}: {each}" for each in losses]
        print(
            f"{stores}, life {number + 1}, killed at {moment}: {'; '.join(losses) or 'nothing lost'}",
            flush=True,
        )
        if losses and stores == "theirs":
            shutil.rmtree("base")
            stored = _in_a_child(_begin, past)
        else:
            stored = found
    outcome.trained_until = stored["trained_until"]
    return outcome


def lost(stored: dict[str, Any], interrupted: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """What was acknowledged and is not there, or is there and nobody stored it.

    Args:
        stored: What was acknowledged, by kind: digests.
        interrupted: What was being stored when the process was killed.
        found: What was found afterwards: digests, or errors in their place.
    """
    possible = {"stats": [stored["stats"]], "scores": [stored["scores"]]}
    if "stats" in interrupted:
        possible["stats"].append(interrupted["stats"])
    if "scores" in interrupted:
        possible["scores"].append(in_view(stored["scores"], interrupted["scores"]))
    losses = [f"{kind}: {found[kind]}" for kind, states in possible.items() if found[kind] not in states]
    begun, there, latest = interrupted.get("weights", {}), found["weights"], found["latest"]
    for iteration, digest in stored["weights"].items():
        if there.get(iteration) not in (digest, begun.get(iteration, digest)):
            losses.append(f"weights of iteration {iteration}: {there.get(iteration)}")
    if latest not in there:
        losses.append(f"latest weights: {latest}")
    elif latest not in stored["weights"] and latest not in begun:
        losses.append(f"latest weights, which nobody stored: {latest}")
    elif latest not in stored["weights"] and there[latest] != begun[latest]:
        losses.append(f"latest weights, those of {latest}: {there[latest]}")
    return losses + list(found["changed"])


# --- one life, seen from outside ----------------------------------------------------------------


def _life(
    moment: str, draw: random.Random, stored: dict[str, Any], seconds: dict[str, float]
) -> dict[str, Any]:
    """Let a process train, and kill it.

    Args:
        moment: One of ``MOMENTS``.
        draw: What decides when exactly.
        stored: What is stored; what the process stores is put into it.
        seconds: How long calls take; measured anew.

    Returns:
        What it was about to store when it was killed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _train(writing)
    os.close(writing)
    calls = draw.randint(1, 2)
    begun: dict[str, float] = {}
    interrupted: dict[str, Any] = {}
    deadline = None
    with os.fdopen(reading, "rb", buffering=0) as told:
        while True:
            left = _SILENCE_SECONDS if deadline is None else deadline - time.monotonic()
            if not select.select([told], [], [], max(left, 0))[0]:
                break
            said = told.readline()
            if not said:
                raise RuntimeError(f"the training ended by itself:\n{Path('life.log').read_text()[-4000:]}")
            kind, content = _understand(said, stored, interrupted)
            if content is None:
                seconds[kind] = time.monotonic() - begun[kind]
                continue
            begun[kind] = time.monotonic()
            calls -= kind == moment
            if deadline is None and (moment == "anywhere" or (kind == moment and not calls)):
                within = _ANYWHERE_SECONDS if moment == "anywhere" else seconds[kind]
                deadline = time.monotonic() + draw.uniform(0, within)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for said in told.read().splitlines():
            _understand(said, stored, interrupted)
    return interrupted


def _understand(said: bytes, stored: dict[str, Any], interrupted: dict[str, Any]) -> tuple[str, Any]:
    """Take note of a call that begins, with what it stores, or that has returned, with nothing."""
    kind, content = json.loads(said)
    if content is not None:
        interrupted[kind] = content
    elif kind == "weights":
        stored[kind] = stored[kind] | interrupted.pop(kind)
    elif kind == "scores":
        stored[kind] = in_view(stored[kind], interrupted.pop(kind))
    else:
        stored[kind] = interrupted.pop(kind)
    return kind, content


def in_view(before: list[list[Any]], new: list[list[Any]]) -> list[list[Any]]:
    """The scores that are in view after new ones were stored: DaCapo's own stores keep these alone.

    DaCapo leaves the validation at which it resumes out of what it stores next; here it stays in view
    unless it is made anew. Stats are always stored from the first on.
    """
    if process.VARIABLE not in os.environ or not new:
        return new or before
    if max(new)[0] < max(before, default=[0])[0]:
        return new
    return [each for each in before if each[0] < min(new)[0]] + new


def _in_a_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a forked process, by way of JSON."""
    result = Path("result.json")
    result.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        _go_silent()
        try:
            result.write_text(json.dumps(function(*arguments)))
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a child never goes on in its parent's code
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"{function.__name__}:\n{Path('life.log').read_text()[-4000:]}")
    return json.loads(result.read_text())


# --- what the processes do ----------------------------------------------------------------------


def _go_silent() -> None:
    """Be a process group of its own, whose output goes to a file."""
    os.setsid()
    log = os.open("life.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)


def _begin(past: int) -> dict[str, Any]:
    """Make a base with a run that has a past, and say what is stored."""
    from dacapo.experiments import Run, TrainingIterationStats, TrainingStats
    from dacapo.store.create_store import create_stats_store, create_weights_store

    from tools.upstream import experiment

    config = experiment.run_config(Path("data"), iterations=past + 1_000_000)
    experiment.store_configs(config)
    draw = random.Random(past)  # noqa: S311 - no secret
    rows = [TrainingIterationStats(iteration=n, loss=draw.random(), time=0.1) for n in range(past)]
    create_stats_store().store_training_stats(experiment.NAME, TrainingStats(rows))
    create_weights_store().store_weights(Run(config), past)
    return _look([str(past)])


def _train(writing: int) -> None:
    """Train until killed, and tell of each call that stores something, before and after it."""
    _go_silent()
    try:
        from dacapo.store import create_store

        from tools.upstream import experiment

        for store in (create_store.create_stats_store(), create_store.create_weights_store()):
            for kind, name in _METHODS.items():
                if hasattr(store, name):
                    setattr(type(store), name, _telling(kind, getattr(type(store), name), writing))
        experiment.train(seed=time.time_ns() % 2**32)
    except BaseException:  # noqa: BLE001 - as above
        sys.excepthook(*sys.exc_info())
    os._exit(1)


def _telling(kind: str, method: Callable[..., Any], writing: int) -> Callable[..., Any]:
    def store(self: Any, run: Any, what: Any) -> Any:
        content = _content(kind, run, what)
        os.write(writing, json.dumps([kind, content]).encode() + b"\n")
        returned = method(self, run, what)
        os.write(writing, json.dumps([kind, None]).encode() + b"\n")
        return returned

    return store


def _content(kind: str, run: Any, what: Any) -> Any:
    """A digest of what a call stores; of weights with the iteration."""
    if kind == "weights":
        return {str(what): _of_weights(run.model.state_dict(), run.optimizer.state_dict())}
    return _of_stats(what.iteration_stats) if kind == "stats" else _of_scores(what.scores)


def _of_stats(rows: Any) -> str:
    return _digest([[row.iteration, row.loss.hex()] for row in rows])


def _of_scores(scores: Any) -> list[list[Any]]:
    def bits(nested: Any) -> Any:
        return [bits(each) for each in nested] if isinstance(nested, list) else float(nested).hex()

    return [[each.iteration, _digest(bits(each.scores))] for each in scores]


def _of_weights(model: Any, optimizer: Any) -> str:
    return process.digest_of_state([model, optimizer])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _look(iterations: list[str]) -> dict[str, Any]:
    """What the stores have, each a digest or the error that was raised instead."""
    from dacapo.store.create_store import create_stats_store, create_weights_store

    from tools.upstream.experiment import NAME

    stats, weights = create_stats_store(), create_weights_store()

    def load(iteration: str) -> str:
        loaded = weights.retrieve_weights(NAME, int(iteration))
        return _of_weights(loaded.model, loaded.optimizer)

    latest = str(_or_error(lambda: weights.latest_iteration(NAME)))
    wanted = sorted({*iterations, latest} if latest.isdigit() else iterations, key=int)
    there = {each: _or_error(partial(load, each)) for each in wanted}
    never_stored = [each for each in wanted if each != latest and "FileNotFound" in there[each]]
    found = {
        "stats": _or_error(lambda: _of_stats(stats.retrieve_training_stats(NAME).iteration_stats)),
        "scores": _or_error(lambda: _of_scores(stats.retrieve_validation_iteration_scores(NAME))),
        "trained_until": _or_error(lambda: stats.retrieve_training_stats(NAME).trained_until()),
        "latest": latest,
        "weights": {each: digest for each, digest in there.items() if each not in never_stored},
        "changed": [],
    }
    if process.VARIABLE in os.environ:
        found["changed"] = _changed_past(found)
    return found


def _or_error(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except Exception as error:  # noqa: BLE001 - that it raised is what is told
        return f"{type(error).__name__}: {error}"


def _changed_past(found: dict[str, Any]) -> list[str]:
    """Where the past is not what it was when it was looked at; what is seen now is kept for the next time."""
    import dacapo_store
    from tools.upstream.experiment import NAME

    kept = Path("seen.json")
    seen = json.loads(kept.read_text()) if kept.exists() else []
    with dacapo_store.open("base", read_only=True) as store:
        seen.append([store.position, found["stats"], found["scores"]])
        kept.write_text(json.dumps(seen))
        changed = []
        for position, stats, scores in seen:
            then = store.as_of(position).stats
            if _of_stats(then.retrieve_training_stats(NAME).iteration_stats) != stats:
                changed.append(f"the stats as of {position} are others")
            if _of_scores(then.retrieve_validation_iteration_scores(NAME)) != scores:
                changed.append(f"the scores as of {position} are others")
    return changed


def main() -> int:
    """Print a line for each life and a table; 1 if these stores lost anything."""
    parser = argparse.ArgumentParser(prog="python -m tools.upstream.kills", description=__doc__)
    parser.add_argument("--lives", type=int, default=20)
    parser.add_argument("--past", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stores", choices=["ours", "theirs"], help="only these, in this very process")
    asked = parser.parse_args()
    how = {"lives": asked.lives, "past": asked.past, "seed": asked.seed}
    if asked.stores:
        outcome = kill_and_resume(asked.stores, **how)
        Path("outcome.json").write_text(json.dumps(asdict(outcome)))
        return 0
    outcomes = compare(**how)
    for stores, outcome in outcomes.items():
        print(
            f"{stores}: {outcome.lives} lives, {outcome.within_a_call} of them killed within a call that "
            f"stores, something lost after {len({line.split(',')[0] for line in outcome.lost})}, "
            f"trained until {outcome.trained_until}"
        )
    return 1 if outcomes["ours"].lost else 0


if __name__ == "__main__":
    sys.exit(main())
