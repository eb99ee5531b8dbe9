"""Runs one function in a fresh interpreter: ``python -m tools.bench.child``, with the call on stdin.

The call comes pickled from ``measure.in_child``, and so does the result go back; whatever the function
prints goes nowhere, for some peers are talkative. A traceback goes to stderr, and the exit status is 1.
"""

from __future__ import annotations

import os
import pickle
import sys


def main() -> None:
    """Take the call from stdin and put its result on what was stdout."""
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    function, arguments = pickle.load(sys.stdin.buffer)  # noqa: S301 - from our own parent
    with answer:
        pickle.dump(function(*arguments), answer)


if __name__ == "__main__":
    main()
