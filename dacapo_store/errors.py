"""The errors of the stores, beside those that DaCapo's interface documents.

What is missing raises one class per thing, which is a ``KeyError`` and whatever else the interface
names for it, so that ``except`` clauses written for either of DaCapo's stores work.
"""

from __future__ import annotations


class DaCapoStoreError(Exception):
    """Base of the errors that only these stores have."""


class MissingError(DaCapoStoreError, KeyError):
    """Something that was asked for by name is not there."""

    def __str__(self) -> str:
        """The message as it is; ``KeyError`` alone would show its ``repr``."""
        return str(self.args[0]) if self.args else ""


class ConfigMissingError(MissingError, ValueError, FileNotFoundError):
    """No config of this kind and name is stored: check the name, or store it first."""


class WeightsMissingError(MissingError, ValueError, FileNotFoundError):
    """No weights are stored for this run and iteration, or none are its best: check both."""


class NotImportedError(DaCapoStoreError):
    """A run lies in DaCapo's own files, and this history knows nothing of it; nothing was changed.

    Import the base first, or use another one: otherwise the training would begin anew.
    """


class DamagedArtifactError(DaCapoStoreError):
    """A file beside the log is not the one that its event names: restore it from a copy.

    The text names the file, its expected and its actual size or digest.
    """


class UnimportedDatabaseError(DaCapoStoreError, ValueError):
    """DaCapo's own stores have written to this MongoDB database, and nothing of it is in its log.

    Import it, or give a database of its own.
    """
