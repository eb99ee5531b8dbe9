"""NumPy's scalars as pickles and YAML spell them, read without asking NumPy to rebuild anything.

Both write a scalar as a call: ``numpy.core.multiarray.scalar(dtype, bytes)``, where the dtype is a call
of its own. What stands for these functions here makes plain numbers and can do nothing else: its
objects take no attributes, so that no file can change them.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

import numpy as np

_NUMBERS: Final = frozenset("biuf")
_NAMES: Final = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric")


class PlainDtype:
    """A dtype of a number: its code, then perhaps the byte order."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: str) -> None:
        self._code = code
        self._order = "="

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):  # noqa: PLR2004
            raise ValueError("a dtype of NumPy in an unknown form")
        self._order = state[1]

    def number(self, raw: bytes) -> bool | int | float:
        """The number that these bytes are.

        Raises:
            ValueError: They are none, or this is no dtype of numbers.
        """
        try:
            dtype = np.dtype(self._code).newbyteorder(self._order)  # type: ignore[arg-type]
        except TypeError as error:
            raise ValueError(f"{self._code!r} is no dtype of NumPy") from error
        if dtype.kind not in _NUMBERS or len(raw) != dtype.itemsize:
            raise ValueError(f"a scalar of dtype {self._code!r} in {len(raw)} bytes is no number")
        number = np.frombuffer(raw, dtype)[0].item()
        # A long double's item() is a long double again.
        return number if isinstance(number, bool | int | float) else float(number)


class _Function:
    """Something to call that cannot be changed."""

    __slots__ = ()

    def __setattr__(self, *_: object) -> NoReturn:
        raise AttributeError("this cannot be changed")


class _Dtype(_Function):
    def __call__(self, code: Any, *_: Any) -> PlainDtype:
        if not isinstance(code, str):
            raise ValueError("a dtype of NumPy in an unknown form")  # noqa: TRY004 - the file is wrong
        return PlainDtype(code)


class _Scalar(_Function):
    def __call__(self, dtype: Any, raw: Any) -> bool | int | float:
        if not isinstance(dtype, PlainDtype) or not isinstance(raw, bytes):
            raise ValueError("a scalar of NumPy in an unknown form")  # noqa: TRY004 - as above
        return dtype.number(raw)


class _Encode(_Function):
    """How old pickle protocols spell bytes."""

    def __call__(self, text: Any, encoding: Any = "latin1") -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise ValueError("bytes in an unknown form")
        return text.encode("latin1")


STAND_INS: Final[dict[str, Any]] = {
    **{f"{module}.dtype": _Dtype() for module in _NAMES},
    **{f"{module}.scalar": _Scalar() for module in _NAMES},
    "_codecs.encode": _Encode(),
}
"""What is called instead of the function of this name."""
