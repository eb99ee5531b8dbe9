"""What the page says in words: what each benchmark does, and why a target is missed where it is."""

from __future__ import annotations

from typing import Final

MEANING: Final = {
    "B1": (
        "One process appends one small event after the other and waits for the disk each time. The limit "
        "beside it appends as many bytes to a plain file and calls `fdatasync`."
    ),
    "B2": (
        "Four processes do the same to one log at once. Wait: how long one append took at worst; the last "
        "figure is the slowest writer's number of commits over the fastest one's."
    ),
    "B3": (
        "As B1, but an append returns when the operating system has the bytes: it survives the end of the "
        "process, not a power cut."
    ),
    "B4": (
        "DaCapo's way: after each interval it stores all training stats since iteration 0 again, 200 "
        "times. What comes back is compared bit by bit."
    ),
    "B5": (
        "All training stats of one run, asked for in a fresh process: as DaCapo's objects, and as columns."
    ),
    "B6": "As B4 with validation scores, each call twice: the second has nothing new.",
    "B7": "Run configs of 12 kB each, as DaCapo makes them: stored, retrieved, listed and filtered.",
    "B8": (
        "A loop logs two scalars an iteration and does nothing else, in calls of one iteration each; then "
        "it is killed, and the rows that a new process finds are counted."
    ),
    "B8b": (
        "Processes store into one base at once. Then one process asks again and again for what another "
        "adds to a run."
    ),
    "B9": (
        "A process without any snapshot reads the whole log and makes all tables. The limits make one "
        "table out of Arrow data that is in memory already."
    ),
    "B10": (
        "A fresh process opens a long history, with a snapshot beside it, and asks one question; another "
        "appends."
    ),
    "B11": "Queries in a process that is up to date, answered as Arrow tables.",
    "B12": (
        "The weights of a model and its Adam are stored, durably, and retrieved, digest and all. *In the "
        "background*: how long the training stands still when it does not wait for the store."
    ),
    "B13": (
        "The bytes of the log's files over the iterations in them: as they are written, and when their "
        "segments are rolled and re-encoded."
    ),
    "B14": "What a program pays before it has stored anything.",
    "growth": (
        "The same work on bases of 10,000 iterations to the longest one here; the work itself is the same "
        "size each time, so a line should be flat."
    ),
}
"""By the benchmark's key; what the rows of its table are."""

MISSED: Final = {
    "B1": (
        "This disk confirms a sync in a time that is shorter than the way from an event to its sealed frame "
        "and back takes in Python, which is twice as long behind a sync as without one: the caches are cold "
        "then. The slower the disk, the nearer the rows. Zeros written beforehand would spare a tenth "
        "(`decisions/0010-no-preallocation.md`); more would need that way written in C (B3)."
    ),
    "B2": (
        "Writers take turns, and each reads what the others have appended before it decides; SQLite lets "
        "one of them go on while the others wait for seconds (`decisions/0023-keys-without-arrow.md`). One "
        "sync for the commits of several processes was tried on plain files and brings less than a sync "
        "each: the file system shares its journal's commits already. More would need what B1 needs."
    ),
    "B3": (
        "Python runs the way from an event to its sealed frame: 50 calls of its functions and 100 into C; "
        "the profile has no peak. Compiled by mypyc it would take a sixth less; half of SQLite's speed would "
        "need all of it written in C (`decisions/0009-messages-written-directly.md`)."
    ),
    "B4": (
        "The list comes as Python objects: C compares it with that of the last call, and the new ones are "
        "looked at, one by one. The rest is an append, with its sync."
    ),
    "B5": (
        "As columns: a quarter is opening the log, whose last events are read and checked; then the run's "
        "are, a second time, with SHA-256 and the copy out of the page cache as a floor of a third; the "
        "fold takes a fifth. An index up to the end of the log would spare the first reading, and a fold "
        "that needs no Arrow half of the second; what is left would still be twice the goal. As objects: "
        "half goes into making 200,000 of them, in C. By SQL: DuckDB's own start, its plans and its rows "
        "(`decisions/0022-what-a-read-costs.md`)."
    ),
    "B7": (
        "A config is stored with the configs in it, each as an event of its own where it is new. A third of "
        "the CPU time goes into taking the objects apart, a quarter into their text, a quarter into reading "
        "and comparing the parts that are stored already, the rest into the append and its sync."
    ),
    "B8": (
        "A row is packed, given a checksum and written to its spool with one system call, which takes a "
        "third; the rest is the interpreter's, for some fifteen calls."
    ),
    "B8b": (
        "Two cores are busy: a call costs a third of a millisecond of CPU, a quarter of it for the sync, "
        "and each writer reads the others' commits before its own: larger commits are what helps. A read "
        "puts the new rows into DuckDB with one statement that is planned already, and asks one query, "
        "which takes two thirds, nearly all of them for its plan (`decisions/0022-what-a-read-costs.md`)."
    ),
    "B9": (
        "Half of the CPU time is DuckDB's, which takes the events' lists apart and stores the rows, as it "
        "does for its own table; a quarter is to read and check the log, beside that, most of it for the "
        "SHA-256; a tenth is the view of all events. Two cores have to do for it all."
    ),
    "B10": (
        "Half of the first query is DuckDB's own start and its plan; a quarter is opening the log, whose "
        "last events are read and checked. As many of them lie behind the last index file at a tenth of the "
        "history. What differs between the first appends is the number of index files, which grows with the "
        "logarithm of the history (two and ten here): each is opened and asked for the new run's stream, "
        "which takes a tenth of a millisecond."
    ),
    "B11": "DuckDB has two threads, as everywhere here.",
    "B12": (
        "The digest costs as much CPU as `torch.save` itself and runs on the other core beside it; where "
        "no core is idle it shows in full, and the less the disk takes, the more "
        "(`decisions/0014-files-of-weights.md`). The first copy in the background goes into new memory, "
        "which takes several times as long as later ones."
    ),
}
"""By the benchmark's key; shown where one of its goals is missed."""
