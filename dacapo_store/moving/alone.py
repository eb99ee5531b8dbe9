"""One move at a time into a folder: two would copy the same files over each other."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from dacapo_store.errors import DaCapoStoreError
from eventstore import files

logger = logging.getLogger(__name__)


class MoveBusyError(DaCapoStoreError):
    """Another import or export is writing to the folder: wait for its end, and repeat."""


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """No other move goes on in this folder inside. A killed process holds nothing.

    Raises:
        MoveBusyError: One is going on.
    """
    # The folder itself is locked, so that nothing has to be left in it.
    descriptor = files.open_file(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MoveBusyError(
                f"another import or export is writing to {folder}: wait for it, and repeat"
            ) from error
        except OSError as error:
            # Network file systems lock no folders; nor is a base on one safe from other hosts.
            if error.errno not in (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL):
                raise
            logger.warning("%s cannot be locked: let no other import or export write to it", folder)
        yield
    finally:
        os.close(descriptor)
