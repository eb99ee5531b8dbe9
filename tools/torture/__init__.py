"""Torture: what happens to stores that are killed, cut off, lied to, fed rubbish and used by many at once.

One module is one suite. ``python -m tools.torture`` runs them and prints what they counted and what
they found; with ``--long`` they take their time, with ``--out`` the figures go to a file. Short
versions of all of them run as tests. A module with a function ``run`` is a suite, and its name is
the module's:

    def run(*, long: bool, seed: int) -> Report: ...
"""
