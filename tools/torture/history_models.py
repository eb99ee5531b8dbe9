"""What streams, configs, stats and weights are, one call at a time: the models that histories are held to.

Each model is a pure function ``step(state, asked, answered)``: the state after a call that gave this
answer, or None when the call could not have given it. They know nothing of the code that they judge.
States are tuples, so that the search can remember them.
"""

from __future__ import annotations

from typing import Any

from eventstore import ANY, NO_STREAM, STREAM_EXISTS

OK = "ok"
MISSING = "missing"
DUPLICATE = "duplicate"

Keys = tuple[str, ...]
Rows = tuple[tuple[int, float], ...]
Configs = tuple[tuple[tuple[str, str], str], ...]
WeightsState = tuple[tuple[tuple[int, float], ...], tuple[tuple[str, int], ...]]

NO_KEYS: Keys = ()
NO_ROWS: Rows = ()
NO_CONFIGS: Configs = ()
NO_WEIGHTS: WeightsState = ((), ())


def fits(expected: Any, version: int | None) -> bool:
    """Whether a stream at this version (None: there is none) is as a writer expected."""
    if expected is ANY:
        return True
    if expected is NO_STREAM:
        return version is None
    return version is not None if expected is STREAM_EXISTS else expected == version


def stream(state: Keys, asked: Any, answered: Any) -> Keys | None:
    """One stream, as the keys of its events.

    Asked and answered: ``append`` expected, keys, whether they are recognised when repeated ->
    ``ok`` and the last version, or ``conflict`` and the actual one; ``expect`` expected -> ``ok``, or
    ``conflict`` likewise; ``version`` -> version or None; ``read`` from version -> keys.
    """
    verb, *rest = asked
    version = len(state) - 1 if state else None
    if verb == "append":
        return _appended(state, version, tuple(rest), answered)
    given: Any
    if verb == "expect":
        given = OK if fits(rest[0], version) else ("conflict", version)
    elif verb == "version":
        given = version
    else:
        given = state[rest[0] :]
    return state if answered == given else None


def _appended(state: Keys, version: int | None, asked: tuple[Any, Keys, bool], answered: Any) -> Keys | None:
    expected, keys, recognised = asked
    given: tuple[str, int | None]
    if recognised and keys[0] in state:
        after, given = state, (OK, state.index(keys[0]) + len(keys) - 1)
    elif fits(expected, version):
        after, given = state + keys, (OK, len(state) + len(keys) - 1)
    else:
        after, given = state, ("conflict", version)
    return after if answered is None or answered == given else None


def configs(state: Configs, asked: Any, answered: Any) -> Configs | None:
    """All configs of a base, as the content of each (kind, name).

    ``store`` documents -> ``ok`` or ``duplicate``, all or none; ``delete`` kind, name -> ``ok`` or
    ``missing``; ``retrieve`` kind, name -> content or ``missing``; ``names`` kind -> names.
    """
    verb, *rest = asked
    stored = dict(state)
    if verb == "store":
        (documents,) = rest
        clash = any(stored.get(key, content) != content for key, content in documents)
        after = state if clash else tuple(sorted({**stored, **dict(documents)}.items()))
        return after if answered == (DUPLICATE if clash else OK) else None
    if verb == "delete":
        kept = tuple(item for item in state if item[0] != tuple(rest))
        return kept if answered == (OK if len(kept) < len(state) else MISSING) else None
    given: Any
    if verb == "retrieve":
        given = stored.get(tuple(rest), MISSING)
    else:
        given = tuple(name for (kind, name), _ in state if kind == rest[0])
    return state if answered == given else None


def rows(state: Rows, asked: Any, answered: Any) -> Rows | None:
    """The stats, or the scores, of one run.

    ``store`` rows -> ``ok``; ``delete`` -> ``ok``; ``retrieve`` -> rows.

    What is stored meets what is there by DaCapo's rule: stats that end before the end of those that
    are there replace them; otherwise those in front of them stay.
    """
    verb, *rest = asked
    if verb == "retrieve":
        return state if answered == state else None
    if answered != OK:
        return None
    if verb == "delete":
        return ()
    (given,) = rest
    if not given:
        return state
    if state and max(given)[0] < max(state)[0]:
        return tuple(given)
    return (*(row for row in state if row[0] < min(given)[0]), *given)


def weights(state: WeightsState, asked: Any, answered: Any) -> WeightsState | None:
    """The weights of one run: a number for each iteration, and the best iteration by each criterion.

    ``store`` iteration, number -> ``ok``; ``remove`` iteration and ``choose`` iteration, criterion ->
    ``ok`` or ``missing``; ``retrieve`` iteration -> number or ``missing``; ``best`` criterion ->
    iteration or ``missing``; ``latest`` -> iteration or None.
    """
    verb, *rest = asked
    numbers, best = dict(state[0]), dict(state[1])
    given: Any = OK
    if verb == "store":
        numbers[rest[0]] = rest[1]
    elif verb == "latest":
        given = max(numbers, default=None)
    elif verb == "best":
        given = best.get(rest[0], MISSING)
    elif rest[0] not in numbers:
        given = MISSING
    elif verb == "retrieve":
        given = numbers[rest[0]]
    elif verb == "choose":
        best[rest[1]] = rest[0]
    else:
        del numbers[rest[0]]
        best = {criterion: iteration for criterion, iteration in best.items() if iteration != rest[0]}
    if answered != given:
        return None
    return tuple(sorted(numbers.items())), tuple(sorted(best.items()))
