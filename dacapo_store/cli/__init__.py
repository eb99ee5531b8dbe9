"""The ``dacapo-store`` command: a thin face of what Python callers use, one module a group of verbs.

Data goes to stdout, everything else to stderr. Exit codes: 0 all is well; 1 something is damaged, does
not match or could not be done; 2 the call is wrong. What a verb needs is imported when it runs.
"""

from __future__ import annotations

import sys

EXIT_PROBLEM = 1
EXIT_USAGE = 2


def main() -> None:
    """Run the command line; errors that people can mend end with one line and an exit code."""
    from dacapo_store.base import open_bases
    from dacapo_store.cli.app import app
    from dacapo_store.errors import DaCapoStoreError
    from eventstore import EventStoreError, LogNotFoundError

    try:
        app()
    except LogNotFoundError as error:
        _fail(error, EXIT_USAGE)
    except (EventStoreError, DaCapoStoreError, OSError, ModuleNotFoundError) as error:
        # Of a package that is not installed the text says how to install it.
        _fail(error, EXIT_PROBLEM)
    except ValueError as error:
        _fail(error, EXIT_USAGE)
    except Exception as error:
        if not _is_sql_error(error):
            raise
        _fail(error, EXIT_USAGE)
    finally:
        for base in open_bases():
            base.close()


def _is_sql_error(error: Exception) -> bool:
    """Whether somebody's SQL was wrong; asked only of what has loaded DuckDB."""
    projections = sys.modules.get("projections")
    return projections is not None and isinstance(error, projections.SQL_ERRORS)


def _fail(error: Exception, code: int) -> None:
    print(f"dacapo-store: {error}", file=sys.stderr)
    sys.exit(code)
