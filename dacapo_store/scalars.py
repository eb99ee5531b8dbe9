"""Numbers as trainers and evaluators hand them over, made plain.

Owns what counts as an iteration and as a scalar, and the words of the refusal. Python numbers,
numpy scalars and arrays or tensors without dimensions all read as one Python number; nothing is
imported for that, so that a process without numpy or torch stays without them. Text is never
parsed into a number: a loss that is a string is a mistake in the program that sends it.
"""

from __future__ import annotations

import operator
from typing import Any, Final

INT64_MIN: Final = -(2**63)
INT64_MAX: Final = 2**63 - 1


def as_iteration(value: Any, *, where: str) -> int:
    """Read an iteration as an int.

    Args:
        value: A Python or numpy integer, or an integer tensor without dimensions.
        where: What the message calls the place, e.g. ``"row 3"``.

    Raises:
        TypeError: The value is no integer; bools and floats are none. Pass ``int(iteration)``.
        ValueError: The integer does not fit 64 bits.
    """
    if type(value) is not int:
        value = _as_index(value, where)
    if not INT64_MIN <= value <= INT64_MAX:
        raise ValueError(f"{where}: iteration {value} does not fit 64 bits (-2**63 to 2**63 - 1)")
    return int(value)


def as_float(value: Any, *, where: str) -> float:
    """Read a number as a float; NaN, infinities and -0.0 stay what they are.

    Args:
        value: A bool, int or float, a numpy scalar, or an array or tensor without dimensions.
        where: What the message calls the place, e.g. ``"iteration 3, loss"``.

    Raises:
        TypeError: The value is no real number. Pass a float, or leave the scalar out.
        ValueError: The number is too large for a float.
    """
    if type(value) is float:
        return value
    number = value if isinstance(value, int | float) else _without_dimensions(value)
    if number is None:
        raise TypeError(
            f"{where}: expected a number, not {describe(value)}; "
            "pass a float, or an array or tensor without dimensions"
        )
    try:
        return float(number)
    except OverflowError:
        raise ValueError(f"{where}: {str(number)[:40]} is too large for a float") from None


def describe(value: Any) -> str:
    """Name a refused value shortly: None itself, else its type and, where it has one, its shape."""
    if value is None:
        return "None"
    name = type(value).__qualname__
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"{name} of shape {tuple(shape)}"
    return f"{name} {value!r}"[:80]


def _as_index(value: Any, where: str) -> int:
    # A bool has __index__, too, but True is no iteration that anybody means.
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise TypeError(f"{where}: an iteration must be an integer, not {describe(value)}; pass int(iteration)")


def _without_dimensions(value: Any) -> Any:
    """The number in a numpy scalar, or in an array or tensor without dimensions; else None."""
    shape = getattr(value, "shape", None)
    # numpy keeps dates, text and objects in scalars as well, and complex numbers have no order.
    kind = getattr(getattr(value, "dtype", None), "kind", "f")
    if not isinstance(shape, tuple) or shape or kind not in ("b", "i", "u", "f"):
        return None
    item = getattr(value, "item", None)
    number = item() if callable(item) else None
    if isinstance(number, int | float):
        return number
    # numpy's long double gives a long double again; float() rounds it.
    return number if getattr(getattr(number, "dtype", None), "kind", None) == "f" else None
