"""Typed objects become documents and come back equal; what cannot is refused by its place."""

from __future__ import annotations

import array
import collections
import dataclasses
import decimal
import enum
import math
import pathlib
import pickle
import subprocess
import sys
import time
import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple, Self

import attrs
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dacapo_store import converter as converter_module
from dacapo_store.converter import (
    ConversionError,
    Converter,
    TypeNameError,
    UnknownTypeError,
    documents_equal,
    use_converter,
)
from eventstore import tagged_json

NAN = float("nan")


@attrs.define
class Augment:
    """An attrs class with a private attribute, whose argument has no underscore."""

    size: tuple[int, ...]
    _seed: int = 0


@attrs.frozen
class Derived:
    """An attrs class that computes a field and leaves another unset."""

    start: int
    stop: int = attrs.field(init=False)
    note: str = attrs.field(init=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "stop", self.start + 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Trainer:
    """A frozen dataclass that holds other typed objects."""

    name: str
    augments: tuple[Augment, ...] = ()
    rate: float = 0.1
    steps: int = dataclasses.field(default=0, init=False)


class Task(msgspec.Struct, frozen=True):
    """A msgspec struct with a field that may be left out."""

    name: str
    weights: list[float] = []
    note: str | msgspec.UnsetType = msgspec.UNSET


class Voxel(NamedTuple):
    """A named tuple."""

    z: int
    y: int


class Coordinate(tuple[int, ...]):
    """A tuple with a class of its own, made of one sequence."""

    __slots__ = ()


class Awkward(tuple[int, ...]):
    """A tuple that its constructor does not make again."""

    __slots__ = ()

    def __new__(cls, first: int, second: int) -> Self:
        """Take two numbers instead of one sequence."""
        return super().__new__(cls, (first, second))


class Mode(enum.Enum):
    """An enum whose values are no text."""

    TRAIN = 1
    VALIDATE = ("a", 2)


class Level(enum.IntEnum):
    """Members that are ints as well."""

    LOW = 1


class Access(enum.Flag):
    """Flags may be combined."""

    READ = enum.auto()
    WRITE = enum.auto()


class Positive:
    """Without fields that one could take: it needs hooks."""

    def __init__(self, value: int) -> None:
        if value <= 0:
            raise ValueError("must be positive")
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Positive) and other.value == self.value

    __hash__ = None  # type: ignore[assignment]


def through_the_log(converter: Converter, obj: Any) -> Any:
    """The object after its document went through the log's text."""
    return converter.structure(tagged_json.decode(tagged_json.encode(converter.unstructure(obj))))


def same(a: Any, b: Any) -> bool:
    """Equal, of the same types all the way down, with NaN equal to itself."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


VALUES: dict[str, Any] = {
    "attrs": Augment((1, 2), seed=3),
    "init false": Derived(3),
    "dataclass": Trainer("t", (Augment((1,)), Augment((), 7)), 0.5),
    "msgspec": Task("s", [1.0, -0.0]),
    "msgspec note": Task("s", [], note="set"),
    "named tuple": Voxel(1, 2),
    "tuple subclass": Coordinate((1, 2, 3)),
    "foreign tuple": time.struct_time(range(9)),
    "enum": [Mode.TRAIN, Mode.VALIDATE, Level.LOW],
    "flags": Access.READ | Access.WRITE,
    "nested": {"a": [Trainer("x", (Augment((1,)),)), None], "b": ({"c": (Task("t"),)},)},
    "numbers": [1, 2**70, 0.1, -0.0, math.inf, NAN, True, 1j, None],
    "text": ["", "ü", "$tuple", "__value__"],
    "keys": {1: "a", (1, 2): "b", None: "c", "$x": "d", "": "e"},
    "typed keys": {Mode.TRAIN: 1, Voxel(1, 2): Mode.TRAIN, "plain": 2},
    "tags": {"$tuple": [1], "__value__": 3},
    "bytes": b"\x00\xff",
    "sets": [{1, "a"}, frozenset({(1, 2)}), set(), {frozenset({1})}],
    "typed sets": [{Mode.TRAIN, Mode.VALIDATE}, frozenset({Voxel(1, 2), (Voxel(3, 4), 5)})],
    "paths": [pathlib.Path("/a/b"), pathlib.PurePosixPath("rel"), pathlib.PureWindowsPath("C:/a")],
    "times": [datetime(2024, 1, 2, 3, tzinfo=UTC), date(2024, 1, 2), timedelta(days=-1, microseconds=1)],
    "rare": [decimal.Decimal("0.10"), uuid.UUID(int=7), range(1, 9, 2), slice(1, None)],
    "numpy types": [np.float32, np.dtype("uint8"), np.dtype(">f4"), np.dtype("<U5")],
    "private attribute": {"_x": 1, "x": 2},
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_what_comes_back_equals_what_went_in(value: Any) -> None:
    """Types, tuples and odd floats included, through the text of the log."""
    assert same(through_the_log(Converter(), value), value) or through_the_log(Converter(), value) == value


def test_nan_in_a_typed_object_comes_back() -> None:
    """NaN makes a dataclass unequal to itself, so it is looked at alone."""
    back = through_the_log(Converter(), Trainer("t", (Augment((1,), 2),), NAN))
    assert math.isnan(back.rate)
    assert back.augments == (Augment((1,), 2),)


def test_fields_that_no_argument_sets_come_back() -> None:
    trainer = Trainer("t")
    object.__setattr__(trainer, "steps", 9)
    assert through_the_log(Converter(), trainer).steps == 9
    assert not hasattr(through_the_log(Converter(), Derived(1)), "note")


def test_a_document_reads_like_the_object() -> None:
    """Fields stand beside the type's name, in order, private ones by their attribute."""
    assert Converter().unstructure(Trainer("t", (Augment((1,), 2),))) == {
        "__type__": "Trainer",
        "name": "t",
        "augments": ({"__type__": "Augment", "size": (1,), "_seed": 2},),
        "rate": 0.1,
        "steps": 0,
    }
    assert Converter().unstructure(Mode.TRAIN) == {"__type__": "Mode", "__value__": "TRAIN"}


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=4) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text().filter(lambda key: key != "__type__") | st.integers(), inner, max_size=3)
        | st.builds(Trainer, st.text(), st.just((Augment((1,)),)), inner)
        | st.builds(Task, st.text(), st.lists(inner, max_size=2))
        | st.builds(Augment, st.lists(inner, max_size=2).map(tuple), inner)
    ),
    max_leaves=15,
)


@given(documents)
def test_any_mix_survives_the_log(value: Any) -> None:
    """Documents of an object and of what came back are equal, and stand the text of the log."""
    converter = Converter()
    document = converter.unstructure(value)
    assert same(tagged_json.decode(tagged_json.encode(document)), document)
    back = converter.structure(document)
    assert type(back) is type(value)
    assert same(converter.unstructure(back), document)
    assert documents_equal(document, converter.unstructure(back))


# --- plain values -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float32(0.5), 0.5),
        (np.float64(0.1), 0.1),
        (np.int64(3), 3),
        (np.bool_(1), True),
        (np.complex64(1j), 1j),
        (np.str_("a"), "a"),
        (bytearray(b"ab"), b"ab"),
        (collections.OrderedDict(a=1), {"a": 1}),
        (collections.UserDict(a=1), {"a": 1}),
        (type("Name", (str,), {})("n"), "n"),
        (type("Loud", (float,), {"__str__": lambda self: "!"})(0.5), 0.5),
        (type("Count", (int,), {})(5), 5),
        (type("Names", (list,), {})([1]), [1]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_equals_a_plain_value_becomes_one(value: Any, plain: Any) -> None:
    """Numpy scalars and subclasses, which other programs could not read, are stored as they count."""
    assert same(Converter().unstructure({"x": (value,)}), {"x": (plain,)})


def test_a_registered_subclass_stays_what_it_is() -> None:
    converter = Converter()
    name = converter.register(type("Name", (str,), {}))
    counter = converter.register(collections.Counter)
    assert type(through_the_log(converter, name("n"))) is name
    assert through_the_log(converter, counter({1: 2})) == counter({1: 2})
    assert type(through_the_log(converter, counter("aab"))) is counter


def test_universal_paths_come_back() -> None:
    """Local or not, with their storage options."""
    upath = pytest.importorskip("upath")
    paths = [
        upath.UPath("/a/b"),
        upath.UPath("rel"),
        upath.UPath("memory://a/b"),
        upath.UPath("memory://a", x=1),
    ]
    back = through_the_log(Converter(), paths)
    assert back == paths
    assert list(map(type, back)) == list(map(type, paths))
    assert dict(back[3].storage_options) == {"x": 1}


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (
            np.zeros((2, 3)),
            r"\$\.trainer\.weights\[1\]: an array \(numpy.ndarray of shape \(2, 3\)\).*tolist\(\).*register",
        ),
        (np.array(1.0), r"an array .*tolist"),
        (np.datetime64(1, "s"), r"numpy.datetime64 cannot be stored"),
        (np.dtype([("a", int)]), r"cannot be stored"),
        (object(), r"\$\.trainer\.weights\[1\]: a builtins.object cannot be stored .* register"),
        (Positive(1), r"a .*Positive cannot be stored"),
        (Positive, r"the class .*Positive cannot be stored"),
        (len, r"cannot be stored"),
        (Awkward(1, 2), r"a .*Awkward cannot be stored"),
        (array.array("d", [1.0]), r"array.array cannot be stored"),
        ({"__type__": 3}, r"'__type__' names a type .* must be text, not 3"),
    ],
    ids=[
        "array",
        "0-d",
        "date",
        "dtype",
        "object",
        "no fields",
        "class",
        "function",
        "tuple",
        "buffer",
        "type",
    ],
)
def test_what_has_no_document_is_refused_by_its_place(value: Any, match: str) -> None:
    """The message says where, what and what to do."""
    with pytest.raises(ConversionError, match=match) as caught:
        Converter().unstructure({"trainer": {"weights": [0, value]}})
    assert caught.value.path.startswith("$.trainer.weights[1]")
    assert isinstance(caught.value, TypeError)


def test_an_object_that_holds_itself_is_refused() -> None:
    loop: list[Any] = []
    loop.append({"a b": loop})
    with pytest.raises(ConversionError, match=r"\$\[0\]\['a b'\]: the object holds itself"):
        Converter().unstructure(loop)


def test_an_object_that_is_held_twice_is_no_loop() -> None:
    once = Augment((1,))
    assert through_the_log(Converter(), [once, once]) == [once, once]


def test_errors_survive_pickling() -> None:
    """A worker process hands them to its parent."""
    for error in (ConversionError("m", path="$.a"), UnknownTypeError("m", path="$.b", type_name="T")):
        again = pickle.loads(pickle.dumps(error))  # our own bytes
        assert (type(again), str(again), vars(again)) == (type(error), "m", vars(error))


# --- structuring --------------------------------------------------------------------------------


def test_an_unknown_type_is_named() -> None:
    """In a process that has not registered the class; the document is not handed out as a dict."""
    document = {"parts": [{"__type__": "Elsewhere", "a": 1}]}
    with pytest.raises(
        UnknownTypeError, match=r"\$\.parts\[0\]: .* 'Elsewhere' .* register its class .*raw=True"
    ) as caught:
        Converter().structure(document)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, LookupError)
    assert caught.value.type_name == "Elsewhere"


def test_a_name_in_a_document_imports_nothing() -> None:
    """Documents are data: neither importable nor built-in names are looked up."""
    for name in ("os.system", "dacapo_store.converter.Converter", "eval", "Trainer"):
        with pytest.raises(UnknownTypeError):
            Converter().structure({"__type__": name, "__value__": "1"})
    with pytest.raises(UnknownTypeError):
        Converter().structure({"__type__": ["list"]})


def test_a_registered_class_is_read_in_another_process() -> None:
    converter = Converter()
    converter.register(Trainer)
    converter.register(Augment)
    document = Converter().unstructure(Trainer("t", (Augment((1,)),)))
    assert converter.structure(document) == Trainer("t", (Augment((1,)),))


def test_a_class_that_was_met_needs_no_registration() -> None:
    converter = Converter()
    document = converter.unstructure(Trainer("t"))
    assert converter.structure(document) == Trainer("t")


def test_the_expected_class_serves_a_document_without_type() -> None:
    """DaCapo's run configs name no type."""
    assert Converter().structure({"name": "t", "rate": 0.5}, Trainer) == Trainer("t", rate=0.5)
    assert Converter().structure({"__type__": "Trainer", "name": "t"}, Trainer) == Trainer("t")
    assert Converter().structure({"a": 1}, dict) == {"a": 1}


def test_another_class_than_expected_is_refused() -> None:
    converter = Converter()
    document = converter.unstructure(Trainer("t"))
    with pytest.raises(ConversionError, match="expected a Task; the document is a Trainer"):
        converter.structure(document, Task)
    with pytest.raises(ConversionError, match="expected a Positive; the document is a dict"):
        converter.structure({"value": 1}, Positive)


@pytest.mark.parametrize(
    "content",
    [{"name": "t", "lost": 1}, {"rate": 1.0}, {"__value__": 3}],
    ids=["lost", "missing", "no fields"],
)
def test_a_class_that_refuses_its_fields_is_named(content: dict[str, Any]) -> None:
    """A class that changed since is an error, not an object with other content."""
    converter = Converter()
    converter.register(Trainer)
    with pytest.raises(ConversionError, match=r"\$\.trainer: .*Trainer cannot be made .* structure hook"):
        converter.structure({"trainer": {"__type__": "Trainer", **content}})


def test_a_field_that_was_added_since_takes_its_default() -> None:
    converter = Converter()
    converter.register(Trainer)
    assert converter.structure({"__type__": "Trainer", "name": "t"}) == Trainer("t")


# --- registering --------------------------------------------------------------------------------


def test_hooks_take_apart_and_make() -> None:
    converter = Converter()
    converter.register(Positive, unstructure=lambda it: it.value, structure=Positive)
    assert converter.unstructure(Positive(3)) == {"__type__": "Positive", "__value__": 3}
    assert through_the_log(converter, [Positive(3)]) == [Positive(3)]


@pytest.mark.parametrize(
    "content", [lambda it: {"value": it.value}, lambda it: it.value], ids=["mapping", "value"]
)
def test_without_a_structure_hook_the_class_is_called(content: Any) -> None:
    """With a mapping as its arguments, with anything else as its only one."""
    converter = Converter()
    converter.register(Positive, unstructure=content)
    assert through_the_log(converter, Positive(3)) == Positive(3)


def test_a_hook_may_give_typed_objects() -> None:
    converter = Converter()
    converter.register(
        Positive,
        unstructure=lambda it: (Voxel(it.value, 0), Mode.TRAIN),
        structure=lambda parts: Positive(parts[0].z),
    )
    assert through_the_log(converter, Positive(3)) == Positive(3)


@pytest.mark.parametrize("content", [{"__type__": "x"}, {"__value__": 1}, {1: 2}, {}], ids=str)
def test_a_hook_may_give_any_mapping(content: dict[Any, Any]) -> None:
    """Keys that a document uses itself do not get in the way."""
    converter = Converter()
    converter.register(Voxel, name="x", unstructure=lambda it: "inner", structure=lambda it: Voxel(0, 0))
    made: list[Any] = []
    converter.register(
        Positive, unstructure=lambda it: content, structure=lambda it: made.append(it) or Positive(1)
    )
    through_the_log(converter, Positive(1))
    assert made == [Voxel(0, 0) if "__type__" in content else content]


def test_a_hook_that_gives_its_own_type_is_refused() -> None:
    converter = Converter()
    converter.register(Positive, unstructure=lambda it: it)
    with pytest.raises(ConversionError, match="hook of Positive gives a Positive again"):
        converter.unstructure(Positive(1))


def test_a_validator_that_refuses_is_the_cause() -> None:
    converter = Converter()
    converter.register(Positive, unstructure=lambda it: it.value)
    with pytest.raises(ConversionError, match="must be positive") as caught:
        converter.structure({"__type__": "Positive", "__value__": -1})
    assert isinstance(caught.value, ValueError)


def test_register_decorates() -> None:
    """With and without arguments; the class stays what it is."""
    converter = Converter()

    @converter.register
    @dataclasses.dataclass
    class Plain:
        a: int

    @converter.register(name="other")
    @dataclasses.dataclass
    class Named:
        a: int

    assert converter.structure({"__type__": "Plain", "a": 1}) == Plain(1)
    assert converter.structure({"__type__": "other", "a": 1}) == Named(1)
    assert converter.unstructure(Named(1))["__type__"] == "other"


@pytest.mark.parametrize(
    ("cls", "match"),
    [
        (Positive, "has no fields .* pass hooks"),
        (dict, "carried as it is"),
        (str, "carried as it is"),
        (3, "takes a class"),
    ],
    ids=["no fields", "dict", "str", "no class"],
)
def test_what_cannot_be_registered_is_refused(cls: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        Converter().register(cls)


def other_of_name(name: str, module: str = "elsewhere", **fields: type) -> Any:
    return dataclasses.make_dataclass(name, fields or {"name": str}, namespace={"__module__": module})


def test_two_classes_of_one_name_are_refused() -> None:
    """At registration, and when an instance is met; another name for one of them helps."""
    converter, other = Converter(), other_of_name("Trainer")
    converter.register(Trainer)
    with pytest.raises(TypeNameError, match=r"elsewhere.Trainer; .*register\(cls, name=...\)"):
        converter.register(other)
    with pytest.raises(TypeNameError, match=r"^\$\.a: two types would be called 'Trainer'"):
        converter.unstructure({"a": other("x")})
    converter.register(other, name="elsewhere.Trainer")
    assert through_the_log(converter, [Trainer("t"), other("x")]) == [Trainer("t"), other("x")]


def test_a_name_of_the_module_itself_is_taken() -> None:
    with pytest.raises(TypeNameError, match="'UPath': one of this module's own"):
        Converter().register(other_of_name("UPath"))


def test_a_class_that_was_made_anew_replaces_the_old_one() -> None:
    """A notebook cell that ran twice; the hooks and the name that were registered stay."""
    converter = Converter()
    first, second = other_of_name("Cell"), other_of_name("Cell")
    converter.register(first, name="cell", unstructure=lambda it: it.name.upper())
    assert converter.unstructure(second("a")) == {"__type__": "cell", "__value__": "A"}
    assert type(converter.structure({"__type__": "cell", "__value__": "A"})) is second
    assert converter.unstructure(first("a")) == {"__type__": "cell", "__value__": "A"}


def test_registering_again_replaces_the_hooks_and_keeps_the_old_name_readable() -> None:
    converter = Converter()
    converter.register(Trainer)
    converter.register(Trainer, name="trainer")
    assert converter.unstructure(Trainer("t"))["__type__"] == "trainer"
    assert converter.structure({"__type__": "Trainer", "name": "t"}) == Trainer("t")


def test_classes_made_by_one_function_are_told_apart_by_their_fields() -> None:
    """The same fields: the function ran again. Others: two classes, which need two names."""

    def make(**fields: type) -> Any:
        cls = other_of_name("Local", __name__, **fields)
        cls.__qualname__ = "make.<locals>.Local"
        return cls

    converter = Converter()
    converter.unstructure(make(a=int)(1))
    again = make(a=int)
    assert type(through_the_log(converter, again(2))) is again
    with pytest.raises(TypeNameError, match="made more than once, with different fields"):
        converter.unstructure(make(b=int)(1))


# --- the converter in use -----------------------------------------------------------------------


def test_the_module_functions_use_the_modules_converter() -> None:
    assert converter_module.structure(converter_module.unstructure(Voxel(1, 2))) == Voxel(1, 2)
    assert converter_module.register == converter_module.converter.register


def test_another_converter_can_be_put_in_place() -> None:
    """DaCapo's own has the same two methods."""

    class Upper:
        def unstructure(self, obj: Any) -> Any:
            """Shout."""
            return obj.upper()

        def structure(self, document: Any, cls: Any) -> Any:
            """Whisper."""
            return document.lower(), cls

    before = use_converter(Upper())
    try:
        assert converter_module.unstructure("a") == "A"
        assert converter_module.structure("A", str) == ("a", str)
    finally:
        assert isinstance(use_converter(before), Upper)
    assert converter_module.unstructure("a") == "a"


def test_importing_the_converter_loads_no_heavy_package() -> None:
    code = (
        "import sys, dacapo_store.converter;"
        "print(*{'numpy', 'torch', 'upath', 'attr', 'pyarrow', 'duckdb', 'zarr'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


# --- equality of documents ----------------------------------------------------------------------

EQUAL: dict[str, tuple[Any, Any]] = {
    "nan": ({"a": [NAN]}, {"a": [float("nan")]}),
    "complex nan": (complex(NAN, 1), complex(NAN, 1)),
    "order of keys": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "number kinds": ({"a": 1}, {"a": 1.0}),
    "nan in sets": ({NAN, 1.0}, {float("nan"), 1.0}),
    "dict and mapping": ({"a": 1}, collections.OrderedDict(a=1)),
    "paths": (pathlib.Path("a"), pathlib.Path("a")),
}

DIFFERENT: dict[str, tuple[Any, Any]] = {
    "tuple and list": ((1,), [1]),
    "lengths": ([1], [1, 2]),
    "order of items": ([1, 2], [2, 1]),
    "true and 1": ({"a": True}, {"a": 1}),
    "nan and number": (NAN, 1.0),
    "nan and none": (NAN, None),
    "keys": ({"a": None}, {}),
    "set and frozenset": ({1}, frozenset({1})),
    "sets": ({1}, {2}),
    "types": ({"__type__": "A"}, {"__type__": "B"}),
    "text and bytes": ("a", b"a"),
}


@pytest.mark.parametrize(("a", "b"), EQUAL.values(), ids=EQUAL.keys())
def test_documents_are_equal(a: Any, b: Any) -> None:
    assert documents_equal(a, b)
    assert documents_equal([a], [b])


@pytest.mark.parametrize(("a", "b"), DIFFERENT.values(), ids=DIFFERENT.keys())
def test_documents_are_different(a: Any, b: Any) -> None:
    assert not documents_equal(a, b)
    assert not documents_equal({"x": a}, {"x": b})


def test_ignored_keys_count_at_the_top_only() -> None:
    a, b = {"name": "a", "n": {"name": "x"}}, {"name": "b", "n": {"name": "x"}, "more": 1}
    assert documents_equal(a, b, ignore=("name", "more"))
    assert not documents_equal(a, b, ignore=("name",))
    assert not documents_equal({"n": {"name": 1}}, {"n": {"name": 2}}, ignore=("name",))
    assert documents_equal(a, a, ignore=None)
