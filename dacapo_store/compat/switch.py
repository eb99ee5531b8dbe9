"""Where DaCapo creates its stores, and how it is made to create others.

DaCapo has one function for each kind of store, in ``dacapo.store.create_store``. Its modules, its
worker scripts and people's scripts import these functions by name, so a function put in their place
would reach some of them only. Here the functions stay, and run other code: whoever holds one calls
what is installed, and ``off`` leaves nothing behind.

A module that is imported later is treated as soon as it has run, by a finder on ``sys.meta_path``
that is asked for this one module and finds it by way of the others.
"""

from __future__ import annotations

import sys
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Final, cast

from dacapo_store.compat import factories
from dacapo_store.errors import DaCapoStoreError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec

MODULE: Final = "dacapo.store.create_store"

_REPLACEMENTS: Final = cast(
    "tuple[FunctionType, ...]",
    (
        factories.create_config_store,
        factories.create_stats_store,
        factories.create_weights_store,
        factories.create_array_store,
    ),
)

# As in the module inspect, which takes long to import.
_CO_VARARGS: Final = 0x04
_CO_VARKEYWORDS: Final = 0x08

_replaced: list[tuple[FunctionType, CodeType]] = []
"""DaCapo's functions that run other code now, each with its own."""


class UnsupportedDaCapoError(DaCapoStoreError, ImportError):
    """This DaCapo creates its stores in a way that is not known here; nothing of it was changed.

    Upgrade dacapo-store, or use a DaCapo that it knows; without ``DACAPO_STORE_COMPAT`` in the
    environment DaCapo goes on with stores of its own.
    """


def on() -> None:
    """Let DaCapo's functions create these stores: now if it is imported, else as soon as it will be."""
    if is_on():
        return
    module = sys.modules.get(MODULE)
    if module is not None:
        _replace(module)
    sys.meta_path.insert(0, _finder)


def off() -> None:
    """Let DaCapo's functions do what they did."""
    if is_on():
        sys.meta_path.remove(_finder)
    while _replaced:
        function, code = _replaced.pop()
        function.__code__ = code


def is_on() -> bool:
    """Whether DaCapo creates these stores, as soon as it is imported."""
    return _finder in sys.meta_path


# Neither class inherits from importlib.abc, which would cost each new process ten times what they do.
class _Finder:
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != MODULE:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((each for each in found if each is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = cast("Loader", _Loader(spec.loader))
        return spec


class _Loader:
    """Loads a module as its own loader does, and then replaces the code of its functions."""

    def __init__(self, own: Any) -> None:
        self._own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        module: ModuleType | None = self._own.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        # Whoever asks the module for its source or its loader gets what it would have got.
        module.__loader__ = self._own
        if module.__spec__ is not None:
            module.__spec__.loader = self._own
        self._own.exec_module(module)
        if is_on():
            _replace(module)


_finder: Final = _Finder()


def _replace(module: ModuleType) -> None:
    """Put other code into the module's functions: into all of them, or into none."""
    functions = [_checked(module, replacement) for replacement in _REPLACEMENTS]
    for function, replacement in zip(functions, _REPLACEMENTS, strict=True):
        _replaced.append((function, function.__code__))
        function.__code__ = replacement.__code__


def _checked(module: ModuleType, replacement: FunctionType) -> FunctionType:
    """The module's function of the same name, if the code of the replacement can run in it."""
    name = replacement.__name__
    function = getattr(module, name, None)
    if not isinstance(function, FunctionType):
        raise UnsupportedDaCapoError(f"{module.__name__} has no function {name}() that creates a store")
    if _interface(function.__code__) != _interface(replacement.__code__):
        raise UnsupportedDaCapoError(f"{module.__name__}.{name}() was expected to take no arguments")
    return function


def _interface(code: CodeType) -> tuple[int, int, int, tuple[str, ...]]:
    takes_more = code.co_flags & (_CO_VARARGS | _CO_VARKEYWORDS)
    return code.co_argcount, code.co_kwonlyargcount, takes_more, code.co_freevars
