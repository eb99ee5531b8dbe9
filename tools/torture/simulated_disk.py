"""A disk that knows what a power cut could leave: what is certain, and what came since.

``Disk`` folds a trace of writes, cuts, names and syncs (``recorder`` makes them of real programs).
``crash_state`` picks one of the folders that a power cut could leave behind. The rules are those of
``docs/format.md``, taken at their worst:

* What a completed sync of a file covers is there. A sync that has begun covers nothing yet.
* Of what came later each 512-byte sector may be there in any of its states since, whichever the
  others are in; a sector is never torn. The length may be any between the least and the greatest.
* A name is certain when its folder was synced; later changes of names come or go one by one. What
  is renamed keeps one of its names. That a file was synced says nothing of its names.
* A sync that failed covers nothing, and no later one makes up for it: the kernel has marked the
  pages clean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Generic, TypeVar

SECTOR_BYTES: Final = 512
ROOT: Final = 0

State = dict[str, bytes | None]
"""A folder: relative paths and what files hold; None is a folder. Folders stand before what is in them."""

Value = TypeVar("Value")
_ZEROS: Final = bytes(SECTOR_BYTES)


@dataclass(frozen=True, slots=True)
class Made:
    """A file or folder came to be; it has no name yet."""

    node: int
    is_folder: bool


@dataclass(frozen=True, slots=True)
class Written:
    """Bytes were put into a file."""

    node: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class WasCut:
    """A file was cut to a length."""

    node: int
    length: int


@dataclass(frozen=True, slots=True)
class Named:
    """A name in a folder stands for a node from now on, or for nothing."""

    folder: int
    name: str
    node: int | None


@dataclass(frozen=True, slots=True)
class Renamed:
    """A node has another name from now on."""

    folder: int
    name: str
    new_folder: int
    new_name: str
    node: int


@dataclass(frozen=True, slots=True)
class SyncBegun:
    """Somebody waits for a node to be durable; nothing is promised yet."""

    node: int


@dataclass(frozen=True, slots=True)
class SyncEnded:
    """What was there when a sync began is certain now, or, if it failed, never will be."""

    node: int
    begun: int
    good: bool


Step = Made | Written | WasCut | Named | Renamed | SyncBegun | SyncEnded


class Cell(Generic[Value]):
    """Something that survives as a whole or not at all: what is certain of it, and what it was since."""

    __slots__ = ("certain", "later")

    def __init__(self, certain: Value) -> None:
        self.certain = certain
        self.later: list[tuple[int, Value, bool]] = []

    @property
    def latest(self) -> Value:
        """What a program sees."""
        return self.later[-1][1] if self.later else self.certain

    def put(self, step: int, value: Value) -> None:
        """It has a new value, of which nothing is certain."""
        self.later.append((step, value, False))

    def settle(self, before: int) -> None:
        """A sync that began at step ``before`` was good: the last value that it covers is certain."""
        for place in range(len(self.later) - 1, -1, -1):
            step, value, doomed = self.later[place]
            if step < before and not doomed:
                self.certain = value
                del self.later[: place + 1]
                return

    def doom(self) -> None:
        """A sync failed: no later one will cover what is pending now."""
        self.later = [(step, value, True) for step, value, _ in self.later]

    def at(self, step: int) -> Value:
        """The value as of a step, if the disk had kept everything until then."""
        found = self.certain
        for made, value, _ in self.later:
            if made <= step:
                found = value
        return found

    def values(self) -> list[Value]:
        """All that may be left of it."""
        return [self.certain, *(value for _, value, _ in self.later)]


class _File:
    """A file as cells: its length and its sectors."""

    def __init__(self, content: bytes = b"") -> None:
        self.size = Cell(len(content))
        self.sectors = {
            start // SECTOR_BYTES: Cell(content[start : start + SECTOR_BYTES].ljust(SECTOR_BYTES, b"\0"))
            for start in range(0, len(content), SECTOR_BYTES)
        }
        self.pending: set[int] = set()

    def write(self, step: int, offset: int, data: bytes) -> None:
        place = 0
        while place < len(data):
            sector, start = divmod(offset + place, SECTOR_BYTES)
            part = data[place : place + SECTOR_BYTES - start]
            old = self._cell(sector).latest
            self._put(step, sector, old[:start] + part + old[start + len(part) :])
            place += len(part)
        if offset + len(data) > self.size.latest:
            self.size.put(step, offset + len(data))

    def cut(self, step: int, length: int) -> None:
        first, start = divmod(length, SECTOR_BYTES)
        for sector in [sector for sector in self.sectors if sector >= first]:
            kept = self.sectors[sector].latest[:start] if sector == first else b""
            self._put(step, sector, kept.ljust(SECTOR_BYTES, b"\0"))
        self.size.put(step, length)

    def settle(self, before: int) -> None:
        self.size.settle(before)
        for sector in list(self.pending):
            self.sectors[sector].settle(before)
            if not self.sectors[sector].later:
                self.pending.discard(sector)

    def doom(self) -> None:
        self.size.doom()
        for sector in self.pending:
            self.sectors[sector].doom()

    def content(self, size: int, pick: Callable[[Cell[bytes]], bytes]) -> bytes:
        parts = []
        for sector in range(-(-size // SECTOR_BYTES)):
            cell = self.sectors.get(sector)
            parts.append(_ZEROS if cell is None else pick(cell) if cell.later else cell.certain)
        return b"".join(parts)[:size]

    def cells(self) -> Iterator[Cell[Any]]:
        if self.size.later:
            yield self.size
        yield from (self.sectors[sector] for sector in sorted(self.pending))

    def _cell(self, sector: int) -> Cell[bytes]:
        return self.sectors.setdefault(sector, Cell(_ZEROS))

    def _put(self, step: int, sector: int, content: bytes) -> None:
        self._cell(sector).put(step, content)
        self.pending.add(sector)


class _Folder:
    """A folder as cells: its names."""

    def __init__(self) -> None:
        self.names: dict[str, Cell[int | None]] = {}

    def put(self, step: int, name: str, node: int | None) -> None:
        self.names.setdefault(name, Cell[int | None](None)).put(step, node)

    def settle(self, before: int) -> None:
        for cell in self.names.values():
            cell.settle(before)

    def doom(self) -> None:
        for cell in self.names.values():
            cell.doom()

    def cells(self) -> Iterator[Cell[Any]]:
        return (cell for cell in self.names.values() if cell.later)


class Disk:
    """What a trace leaves: for each file and folder what is certain, and what came later.

    Args:
        state: The folder at the beginning; all of it is durable.
    """

    def __init__(self, state: State) -> None:
        self.steps = 0
        self._files: dict[int, _File] = {}
        self._folders = {ROOT: _Folder()}
        self._renames: list[tuple[int, Renamed]] = []
        nodes = {"": ROOT}
        for path, content in state.items():
            node = nodes[path] = len(nodes)
            parent, _, name = path.rpartition("/")
            self._folders[nodes[parent]].names[name] = Cell[int | None](node)
            if content is None:
                self._folders[node] = _Folder()
            else:
                self._files[node] = _File(content)
        self.next_node = len(nodes)

    def apply(self, step: Step) -> None:
        """Fold the next step of the trace."""
        at = self.steps
        self.steps += 1
        match step:
            case Made():
                self._make(step)
            case Written():
                self._files[step.node].write(at, step.offset, step.data)
            case WasCut():
                self._files[step.node].cut(at, step.length)
            case Named():
                self._folders[step.folder].put(at, step.name, step.node)
            case Renamed():
                self._renames.append((at, step))
                self._folders[step.folder].put(at, step.name, None)
                self._folders[step.new_folder].put(at, step.new_name, step.node)
            case SyncEnded():
                synced = self._files.get(step.node) or self._folders[step.node]
                if step.good:
                    synced.settle(step.begun)
                else:
                    synced.doom()

    def find(self, path: str) -> int | None:
        """The node that a path stands for at present."""
        node: int | None = ROOT
        for name in path.split("/") if path else []:
            folder = None if node is None else self._folders.get(node)
            cell = None if folder is None else folder.names.get(name)
            node = None if cell is None else cell.latest
        return node

    def is_file(self, node: int) -> bool:
        """Whether a node is a file; otherwise it is a folder."""
        return node in self._files

    def live(self) -> State:
        """The folder as a program sees it."""
        return self.state(lambda cell: cell.latest, lambda size: size.latest)

    def certain(self) -> State:
        """The folder if nothing survives but what must."""
        return self.state(lambda cell: cell.certain, lambda size: size.certain)

    def on_disk(self, node: int) -> bytes:
        """A file as it would be read if the kernel had forgotten all that is not certain."""
        file = self._files[node]
        return file.content(file.size.latest, lambda cell: cell.certain)

    def pending(self) -> list[Cell[Any]]:
        """Everything that is not certain, in an order that the trace alone decides."""
        nodes: list[_File | _Folder] = [*self._folders.values(), *self._files.values()]
        return [cell for node in nodes for cell in node.cells()]

    def state(self, pick: Callable[[Cell[Any]], Any], pick_size: Callable[[Cell[int]], int]) -> State:
        """The folder with a state of each sector and name, and a length of each file, as picked."""
        names = {
            (number, name): pick(cell)
            for number, folder in self._folders.items()
            for name, cell in folder.names.items()
        }
        for at, renamed in self._renames:
            old, new = (renamed.folder, renamed.name), (renamed.new_folder, renamed.new_name)
            was_certain = self._folders[renamed.folder].names[renamed.name].certain == renamed.node
            cell = self._folders[renamed.new_folder].names[renamed.new_name]
            if was_certain and names[new] is None and names[old] != renamed.node:
                names[new] = cell.at(at)
        return self._listed(ROOT, "", names, pick, pick_size)

    def _listed(
        self,
        number: int,
        prefix: str,
        names: dict[tuple[int, str], int | None],
        pick: Callable[[Cell[Any]], Any],
        pick_size: Callable[[Cell[int]], int],
    ) -> State:
        state: State = {}
        for name in self._folders[number].names:
            node = names[number, name]
            if node is None:
                continue
            file = self._files.get(node)
            state[prefix + name] = None if file is None else file.content(pick_size(file.size), pick)
            if file is None:
                state |= self._listed(node, f"{prefix}{name}/", names, pick, pick_size)
        return state

    def _make(self, made: Made) -> None:
        if made.is_folder:
            self._folders[made.node] = _Folder()
        else:
            self._files[made.node] = _File()
        self.next_node = max(self.next_node, made.node + 1)


def crash_state(disk: Disk, dice: Random) -> State:
    """One of the folders that a power cut could leave at this step."""
    pick = _way_to_pick(disk, dice)

    def pick_size(size: Cell[int]) -> int:
        if not size.later or dice.random() < 0.5:  # noqa: PLR2004 - as the sectors, or anything in between
            return int(pick(size))
        low, high = min(size.values()), max(size.values())
        unit = dice.choice([1, 8, SECTOR_BYTES])
        return min(high, max(low, dice.randint(low // unit, high // unit) * unit))

    return disk.state(pick, pick_size)


def _way_to_pick(disk: Disk, dice: Random) -> Callable[[Cell[Any]], Any]:
    """What disks do most, and what is hardest to tell apart: everything but one sector, and the like."""
    pending = disk.pending()
    if not pending:
        return lambda cell: cell.certain
    one, until = dice.choice(pending), dice.randrange(disk.steps)
    share = dice.choice([0.1, 0.5, 0.9])

    def earlier(cell: Cell[Any]) -> Any:
        return dice.choice(cell.values()[:-1]) if cell.later else cell.certain

    ways: dict[str, Callable[[Cell[Any]], Any]] = {
        "all": lambda cell: cell.latest,
        "none": lambda cell: cell.certain,
        "until": lambda cell: cell.at(until),
        "some": lambda cell: cell.latest if cell.later and dice.random() < share else earlier(cell),
        "but one": lambda cell: earlier(cell) if cell is one else cell.latest,
        "only one": lambda cell: cell.latest if cell is one else cell.certain,
    }
    return ways[
        dice.choice(["all", "none", "until", "some", "some", "but one", "but one", "but one", "only one"])
    ]
