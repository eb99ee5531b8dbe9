"""The verbs that ask, trace and change: what they print, in which form, and how they fail."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from dacapo_store import FileConfigStore, FileStatsStore, TrainingIterationStats, ValidationIterationScores
from dacapo_store.cli import main
from dacapo_store.cli.app import app

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Two runs of one task, one of them validated."""
    path = tmp_path / "lab"
    configs, stats = FileConfigStore(path / "configs"), FileStatsStore(path / "stats")
    for number, name in enumerate(("run_7", "run_8"), 1):
        configs.store_run_config(
            {"name": name, "task_config": {"name": "seg"}, "num_iterations": 100 * number}
        )
        rows = [TrainingIterationStats(n, loss=number / (n + 1), time=0.5) for n in range(10 * number)]
        stats.store_training_stats(name, rows)
    stats.store_validation_iteration_scores("run_7", [ValidationIterationScores(10, [[[0.5]]])])
    return path


@pytest.fixture
def call(base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Calls the command with ``--base``; exit code, stdout and stderr."""

    def calling(*arguments: object, stdin: str = "") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dacapo-store", *map(str, arguments), "--base", str(base)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as ended:
            main()
        output, errors = capsys.readouterr()
        return int(ended.value.code or 0), output, errors

    return calling


def rows(output: str) -> list[list[str]]:
    """Tab-separated lines, without the first."""
    return [line.split("\t") for line in output.splitlines()[1:]]


def test_runs_are_listed_and_chosen_by_pattern(call: Call) -> None:
    """Tabs in a pipe; JSON, CSV or an Arrow file if asked for."""
    code, output, _ = call("runs")
    assert code == 0
    assert [row[0] for row in rows(output)] == ["run_7", "run_8"]
    assert [row[0] for row in rows(call("runs", "*_8")[1])] == ["run_8"]
    (first, _) = json.loads(call("runs", "--json")[1])
    assert (first["task"], first["iterations"], first["last_validated"]) == ("seg", 10, 10)
    assert call("runs", "--csv", "--limit", "1")[1].splitlines()[1].startswith("run_7,seg,")


def test_an_arrow_file_holds_the_rows(call: Call, tmp_path: Path) -> None:
    """Complete, under its name, with nothing on stdout."""
    assert call("stats", "run_7", "--arrow", tmp_path / "out.arrow") == (0, "", "")
    with pa.memory_map(str(tmp_path / "out.arrow")) as file:
        assert pa.ipc.open_file(file).read_all().column("iteration").to_pylist() == list(range(10))
    assert call("runs", "--json", "--csv")[0] == 2


def test_a_run_is_shown(call: Call) -> None:
    """Config and outcome; a name that is mistyped is answered with those that are close."""
    _, output, _ = call("show", "run_7")
    assert "  name: seg" in output
    assert "  iterations: 10" in output
    assert json.loads(call("show", "run_7", "--json")[1])["training"]["last_iteration"] == 9
    code, output, errors = call("show", "run7")
    assert (code, output) == (1, "")
    assert "did you mean 'run_7'" in errors


@pytest.mark.parametrize("verb", ["runs", "configs", "best", "stats run_7", "scores run_7", "log --json"])
def test_every_verb_that_reads_does_so_as_of_a_moment(call: Call, verb: str) -> None:
    """As of the beginning there is nothing."""
    if verb.startswith("log"):
        assert json.loads(call(*verb.split(), "--until", "0")[1]) == []
    elif verb in ("stats run_7", "scores run_7"):
        assert "there is no run" in call(*verb.split(), "--at", "0")[2]
    else:
        assert rows(call(*verb.split(), "--at", "0")[1]) == []
    code, _, errors = call("runs", "--at", "10 o'clock")
    assert (code, "neither a position nor a time" in errors) == (2, True)


def test_sql_is_asked_with_parameters_and_from_stdin(call: Call) -> None:
    """And wrong SQL is answered with the place, without a traceback."""
    query = "SELECT count(*) AS n FROM training_stats WHERE run = $run"
    assert call("sql", query, "-p", "run=run_8")[1] == "n\n20\n"
    assert call("sql", "-", stdin="SELECT 1 AS one")[1] == "one\n1\n"
    code, output, errors = call("sql", "SELECT los FROM training_stats")
    assert (code, output) == (2, "")
    assert "loss" in errors
    assert "Traceback" not in errors
    assert call("sql", "DELETE FROM training_stats")[0] == 2


def test_text_with_tabs_stays_on_its_line(call: Call) -> None:
    """A pipe can count on one row a line."""
    assert call("sql", "SELECT 'a\tb\nc' AS text")[1] == "text\na\\tb\\nc\n"


def test_the_diary_of_a_run(call: Call) -> None:
    """Log, history, blame."""
    assert {row[5] for row in rows(call("log", "--run", "run_7")[1])} == {"run_7"}
    assert len(rows(call("log", "-n", "1")[1])) == 1
    assert rows(call("history", "training", "run_8")[1])[0][6].startswith("20 iterations 0 to 19")
    fields = {row[0]: row[1] for row in rows(call("blame", "runs", "run_8")[1])}
    assert fields["num_iterations"] == "200"
    assert "did you mean 'tasks'" in call("history", "task", "seg")[2]


def test_differences_of_runs_and_of_moments(call: Call) -> None:
    """Only what differs, unless all is asked for."""
    changed = {row[0]: row[1:] for row in rows(call("diff", "run_7", "run_8")[1])}
    assert changed["config.num_iterations"] == ["100", "200"]
    assert "config.task_config.name" not in changed
    assert "config.task_config.name" in call("diff", "run_7", "run_8", "--all")[1]
    assert "rows" in call("diff", "training/run_7")[1] or "it: None" in call("diff", "training/run_7")[1]
    assert json.loads(call("diff", "runs/run_7", "--json")[1])[0]["position"] == 1
    assert "give a second run" in call("diff", "run_7")[2]


def test_a_rewind_is_said_then_done_then_undone(call: Call) -> None:
    """A dry run writes nothing."""
    position = call("cite")[1].split("@")[1].split("#")[0]
    assert "keeps what is below 5" in call("rewind", "run_7", "5", "--dry-run")[1]
    assert call("cite")[1].split("@")[1].split("#")[0] == position
    assert call("rewind", "run_7", "5")[0] == 0
    assert len(rows(call("stats", "run_7")[1])) == 5
    assert call("restore", "training", "run_7", "--at", position)[0] == 0
    assert len(rows(call("stats", "run_7")[1])) == 10
    assert "nothing to do" in call("restore", "training", "run_7", "--at", position)[2]


def test_a_replay_is_checked(call: Call, tmp_path: Path) -> None:
    """And says what it was made from."""
    code, output, _ = call("replay", tmp_path / "branch", "--check")
    assert code == 0
    assert "all read models are equal" in output
    assert call("replay", tmp_path / "branch", "--until", "2")[0] in (0, 1)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl", ".arrow"])
def test_views_are_exported(call: Call, tmp_path: Path, suffix: str) -> None:
    """For any other tool."""
    path = tmp_path / f"out{suffix}"
    code, _, errors = call("export", "training_stats", path, "--run", "*_7")
    assert (code, "10 rows" in errors) == (0, True)
    if suffix == ".parquet":
        from pyarrow import parquet

        assert parquet.read_table(path).num_rows == 10
    elif suffix in (".csv", ".jsonl"):
        assert len(path.read_text().splitlines()) == (11 if suffix == ".csv" else 10)
    assert call("export", "training_stats", tmp_path / "out.xlsx")[0] == 2
    assert call("export", "no_view", path)[0] == 2


def test_sizes_are_told(call: Call) -> None:
    """For people with units, for programs as numbers."""
    found = json.loads(call("stat", "--json")[1])
    assert found["position"] == found["tail"] == 6
    assert found["log_bytes"] > 1000
    assert found["segments"] == 1
    assert re.search(r"^log\t[\d.]+ KiB$", call("stat")[1], re.MULTILINE)


def test_a_plot_is_a_file(call: Call, tmp_path: Path) -> None:
    """Of the runs that were named."""
    assert call("plot", "run_7", "run_8", "--out", tmp_path / "curves.png")[0] == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_package_that_is_not_installed_is_one_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how to install it."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, output, errors = call("plot", "run_7", "--out", "curves.png")
    assert (code, output) == (1, "")
    assert errors == "dacapo-store: drawing needs matplotlib: pip install 'dacapo-store[plot]'\n"


def test_tail_shows_the_last_rows_that_fit(call: Call) -> None:
    """And where to go on."""
    code, output, errors = call("tail", "run_8", "-n", "2")
    assert (code, len(output.splitlines())) == (0, 2)
    assert re.search(r"--from \d+", errors)
    _, output, _ = call("tail", "--where", "loss > 0.9", "--json")
    assert [json.loads(line)["iteration"] for line in output.splitlines()] == [0, 0, 1]
    assert call("tail", "--where", "loss >")[0] == 2


def test_tail_shows_columns_on_a_terminal(call: Call, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a heading, and a lost loss in red."""
    monkeypatch.setattr("dacapo_store.cli.trace.sys.stdout.isatty", lambda: True, raising=False)
    FileStatsStore(base / "stats").store_training_stats(
        "a_run_with_a_long_name",
        [TrainingIterationStats(0, loss=math.nan), TrainingIterationStats(1, loss=0.5)],
    )
    _, output, _ = call("tail", "*long*")
    heading, first, second = output.splitlines()
    place = heading.index("iteration") + len("iteration")
    assert second[:place].endswith(" 1")
    assert heading.index("run") == second.index("a_run_with_a_long_name")
    assert "nan" in first


def test_a_table_that_is_too_wide_stays_readable(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Headings break at their underscores; where that does not help, each value has a line of its own."""
    monkeypatch.setattr("dacapo_store.cli.tables.sys.stdout.isatty", lambda: True, raising=False)
    shown = {}
    for columns in (60, 112, 400):
        monkeypatch.setenv("COLUMNS", str(columns))
        shown[columns] = re.sub("\x1b\\[[0-9;]*m", "", call("runs")[1])
        assert max(map(len, shown[columns].splitlines())) <= columns
    assert re.search(r"iterations +last_iteration +last_loss", shown[400])
    for heading in ("run", "task", "iterations", "last_", "iteration", "heard"):
        assert re.search(rf"(^| ){heading}( |$)", shown[112], re.MULTILINE), heading
    assert re.search(r"^last_iteration +\d+$", shown[60], re.MULTILINE)


def test_tail_follows_a_training_until_it_is_interrupted(base: Path) -> None:
    """What comes is printed as it comes, once."""
    # As on a terminal: what runs in the background may have been told to ignore interruptions.
    heeding = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"{heeding}; from dacapo_store.cli import main; main()"
    command = [sys.executable, "-c", code, "tail", "-f", "run_9", "--json", "--base", str(base)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        stats = FileStatsStore(base / "stats")
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
        reader.start()
        for iteration in range(3):
            stats.store_training_stats("run_9", [TrainingIterationStats(iteration, loss=1.0)])
        deadline = time.monotonic() + 120
        while len(lines) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(2)
        reader.join()
        _, errors = process.communicate()
    assert [json.loads(line)["iteration"] for line in lines] == [0, 1, 2]
    assert "go on from here with" in errors


def test_every_verb_has_a_help_text_and_its_examples_name_real_options() -> None:
    """What a help text shows can be called."""
    verbs = {
        command.name or command.callback.__name__.replace("_", "-"): command.callback  # type: ignore[union-attr]
        for command in app.registered_commands
    }
    assert len(verbs) > 15
    for verb, callback in verbs.items():
        text = callback.__doc__ or ""
        assert text, verb
        for example in re.findall(r"Example: dacapo-store (.*)", text):
            named = example.split()[0]
            assert named in verbs
            parameters = callback.__annotations__
            for option in re.findall(r"--([a-z-]+)", example):
                assert option.replace("-", "_") in parameters or option in str(parameters), (verb, option)
