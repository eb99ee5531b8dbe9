"""Pickles that hold nothing but plain values, read without running what they name.

Admitted are what pickle has words of its own for (None, numbers, text, bytes, lists, tuples, dicts,
sets), NumPy's scalars, and DaCapo's classes of iteration stats and scores, which come as dicts of
their attributes. Any other name ends the reading before anything of that name is looked up.

The reader is pickle's own in Python. The one in C makes room for whatever a damaged file claims: seven
bytes can have it take sixteen gigabytes.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Collection
from typing import Any, ClassVar, Final

from dacapo_store.moving.found import UnreadableError
from dacapo_store.moving.plain_values import STAND_INS

_RECORDS: Final = frozenset(
    f"dacapo.experiments.{module}.{name}"
    for module, name in (
        ("training_iteration_stats", "TrainingIterationStats"),
        ("training_stats", "TrainingStats"),
        ("validation_iteration_scores", "ValidationIterationScores"),
        ("validation_scores", "ValidationScores"),
    )
)

_CUT_OFF: Final = "the file is cut off (a write that did not end)"
_VALUES_SPARE: Final = 1000
_LEAVES: Final = frozenset({type(None), bool, int, float, complex, str, bytes})


def loads(data: bytes) -> Any:
    """The value that a pickle holds; DaCapo's records are dicts.

    Raises:
        UnreadableError: It is cut off or no pickle, names anything else, or stands for more values
            than it has bytes.
    """
    # A class of this call: what a file does to it ends with the call.
    record = type("Record", (), {})
    try:
        value = _Unpickler(io.BytesIO(data), record).load()
        return _Plain(record, len(data) + _VALUES_SPARE).of(value)
    except UnreadableError:
        raise
    except EOFError as error:
        raise UnreadableError(_CUT_OFF) from error
    except RecursionError as error:
        raise UnreadableError("it nests too deeply") from error
    except Exception as error:
        # Bytes that are no pickle make an unpickler fail in any way: KeyError, MemoryError, …
        if "exhausted" in str(error) or isinstance(error, struct.error):
            raise UnreadableError(_CUT_OFF) from error
        raise UnreadableError(f"it is no pickle of stats ({type(error).__name__}: {error})") from error


_LEFT_OUT: Final = (
    # What makes room for as many bytes as a file claims, or hands over what is not in the file.
    pickle.BYTEARRAY8,
    pickle.NEXT_BUFFER,
    pickle.READONLY_BUFFER,
    pickle.PERSID,
    pickle.BINPERSID,
    pickle.EXT1,
    pickle.EXT2,
    pickle.EXT4,
    # Other ways of making objects, which stats need none of.
    pickle.INST,
    pickle.OBJ,
    pickle.NEWOBJ_EX,
)


_InPython = pickle._Unpickler  # noqa: SLF001 - see the module's text


class _Unpickler(_InPython):
    dispatch: ClassVar[dict[int, Any]] = {
        code: load for code, load in _InPython.dispatch.items() if bytes([code]) not in _LEFT_OUT
    }

    def __init__(self, file: io.BytesIO, record: type) -> None:
        super().__init__(file)
        self._record = record

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        name = f"{module_name}.{global_name}"
        if name in _RECORDS:
            return self._record
        if name in STAND_INS:
            return STAND_INS[name]
        raise UnreadableError(
            f"it names {name}, which is no plain value; reading that could run code, so it was not read"
        )


class _Plain:
    """Puts dicts in the place of records, and counts: a few bytes can stand for more than memory holds."""

    def __init__(self, record: type, values_max: int) -> None:
        self._record = record
        self._left = values_max

    def of(self, value: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise UnreadableError("it stands for more values than it has bytes")
        kind = type(value)
        if kind is self._record:
            return self.of(vars(value))
        if kind is dict:
            if self._are_leaves(value) and self._are_leaves(value.values()):
                return value
            return {self.of(key): self.of(item) for key, item in value.items()}
        if kind in (list, tuple, set, frozenset):
            return value if self._are_leaves(value) else kind(map(self.of, value))
        if kind in _LEAVES:
            return value
        raise UnreadableError(f"it holds a {kind.__name__}, which is no plain value")

    def _are_leaves(self, values: Collection[Any]) -> bool:
        """Count values that hold no others, all at once: a training has hundreds of thousands of rows."""
        if not _LEAVES.issuperset(map(type, values)):
            return False
        self._left -= len(values)
        return True
