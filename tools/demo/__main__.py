"""``python -m tools.demo``: store configs, train in parallel, kill and resume, then report.

Each call makes a folder of its own below ``demo-output``, so that calls may run side by side.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path
from typing import Final

from rich.padding import Padding
from rich.text import Text

from dacapo_store import Base, Options
from tools.demo import configs, live, report

VICTIM: Final = "narrow_adam"
"""The run whose trainer is killed on its way; it is not the slowest, so that nobody waits for it."""

ITERATIONS: Final = 320
ITERATIONS_STEP: Final = 160
"""Eight validations a run, at least two stores of stats (one each ten iterations) between them."""


def main() -> None:
    """Run the demo from the command line."""
    arguments = _arguments()
    console = report.make_console()
    started = time.monotonic()
    folder = _new_folder(arguments.output)
    options = Options(type="files", runs_base_dir=folder / "base")
    runs = configs.run_configs(arguments.iterations)

    report.heading(console, "Configs")
    refusal = configs.store_configs(options, runs)
    console.print(
        "Somebody stored the trainer 'sgd' with a mistyped rate. Storing the right one was refused:"
    )
    console.print(Padding(Text(refusal, style="yellow"), (0, 0, 0, 2)))
    console.print("The mistyped one was deleted and the right one stored; both are in the history below.")

    report.heading(console, f"Training {len(runs)} U-Nets in parallel processes")
    console.print(
        "They see scikit-image's micrograph of human colon in grey; the truth is where its brown stain is.\n"
        f"All processes write to {folder / 'base'}, and this one reads there while they do."
    )
    base = Base.at(options.runs_base_dir)
    try:
        live.train_all(base, runs, victim=VICTIM, logs=folder / "logs", console=console)
    except live.TrainerFailedError as error:
        sys.exit(str(error))

    in_order = report.show(base, folder, console)
    console.print(f"Done in {time.monotonic() - started:.0f} s.")
    sys.exit(0 if in_order else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.demo", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--iterations",
        type=_iterations,
        default=ITERATIONS,
        help=f"of each run, a multiple of {ITERATIONS_STEP} (default: {ITERATIONS})",
    )
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="default: demo-output")
    return parser.parse_args()


def _iterations(text: str) -> int:
    iterations = int(text)
    if iterations <= 0 or iterations % ITERATIONS_STEP:
        raise argparse.ArgumentTypeError(f"{text} is not a positive multiple of {ITERATIONS_STEP}")
    return iterations


def _new_folder(parent: Path) -> Path:
    """A new folder, numbered; creating it decides between demos that start at the same time."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = (parent / f"{number:03d}").resolve()
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("counting does not end")


if __name__ == "__main__":
    main()
