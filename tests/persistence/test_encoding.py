"""Values come back with their bits, their memory layout and their identity, and no code of theirs runs."""

import enum
import json
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from streamem.convergence import Event, PassRecord, Status
from streamem.errors import InputError, ModelFileError
from streamem.persistence import decode, encode


@dataclass(frozen=True, slots=True, eq=False)
class Frozen:
    a: object
    b: object = None


@dataclass
class Loud:
    a: float

    def __post_init__(self):
        raise AssertionError("code ran")


class Colour(enum.Enum):
    RED = 1


def back(value, types=None):
    encoded = encode(value)
    return decode(json.loads(json.dumps(encoded.tree)), encoded.arrays, types or encoded.types)


numbers = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.just(Status.CONVERGED),
    st.just(Colour.RED),
)
trees = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner, inner), st.dictionaries(st.text(), inner), st.builds(Frozen, inner)
    ),
    max_leaves=20,
)


def plain(value):
    """What can be compared: dataclasses as their fields, NaN as text."""
    if isinstance(value, Frozen):
        return ("Frozen", plain(value.a), plain(value.b))
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(each) for each in value)
    return (type(value), repr(value))


@given(trees)
def test_tree__comes_back(tree):
    types = {":Frozen": Frozen, ":Colour": Colour}
    assert plain(back(tree, types)) == plain(tree)


@given(npst.arrays(npst.scalar_dtypes(), npst.array_shapes(min_dims=0, max_dims=3, min_side=0)), st.randoms())
def test_array__comes_back_to_the_bit_in_its_memory_layout(array, chance):
    axes = chance.sample(range(array.ndim), array.ndim)
    array = np.asarray(array).transpose(axes)
    got = back(array)
    assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes())
    if array.size:
        long = [i for i in range(array.ndim) if array.shape[i] > 1]
        assert [got.strides[i] for i in long] == [array.copy(order="K").strides[i] for i in long]


@pytest.mark.parametrize("kind", ["f4", "f8", "i8", "u1", "?"])
def test_scalar__keeps_its_type(kind):
    value = np.dtype(kind).type(0.1)
    got = back(value)
    assert type(got) is type(value) and got == value


def test_object__in_two_places_is_one_again():
    params = Frozen(np.arange(3.0))
    got = back({"best": params, "step": Frozen(params, params.a)})
    assert got["step"].a is got["best"]
    assert got["step"].b is got["best"].a


def test_history__comes_back():
    record = PassRecord(-1.5, -1.25, np.inf, 0.1, 7, events=(Event("kind", "text", 3),))
    got = back([record])[0]
    assert (got.objective, got.remaining_gain, got.events[0].message) == (-1.25, np.inf, "text")


def test_dataclass__is_rebuilt_without_its_code():
    loud = object.__new__(Loud)
    loud.a = 2.0
    assert back(loud).a == 2.0


@pytest.mark.parametrize("bad", [{1, 2}, lambda: 0, np.array([object()]), {1: 2}, 1j, b"x", object()])
def test_what_cannot_be_written__is_named_with_its_place(bad):
    with pytest.raises(InputError, match=r"params\.a\[1\].*cannot be written to a checkpoint"):
        encode(Frozen([0, bad]), "params")


def test_type__that_nobody_gave_is_refused():
    with pytest.raises(ModelFileError, match="Frozen"):
        back(Frozen(1), types={":Other": Loud})


def test_type__is_never_imported():
    for name in ("antigravity:x", "os:environ", "streamem.nonsense:x", "streamem.cli.demo:demo"):
        with pytest.raises(ModelFileError):
            decode({"root": [0], "nodes": [{"object": name, "fields": {}}]}, {})
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("now", [{"b": 2}, {"a": 1, "b": 2, "c": 3}, {}])
def test_dataclass__whose_fields_are_others_by_now_is_refused(now):
    tree = encode(Frozen(1)).tree
    tree["nodes"][0]["fields"] = now
    with pytest.raises(ModelFileError, match="fields"):
        decode(tree, {}, {":Frozen": Frozen})


def test_dataclass__has_the_defaults_of_fields_that_were_added():
    tree = encode(Frozen(1, 2)).tree
    del tree["nodes"][0]["fields"]["b"]
    old = decode(tree, {}, {":Frozen": Frozen})
    assert (old.a, old.b) == (1, None)


def test_history__written_before_decoding_was_told_comes_back():
    encoded = encode((PassRecord(-1.5, -1.25, np.inf, 0.1, 7, read_seconds=0.5, decode_seconds=0.25),))
    for node in encoded.tree["nodes"]:
        node.get("fields", {}).pop("decode_seconds", None)
    (record,) = decode(encoded.tree, encoded.arrays)
    assert (record.objective, record.read_seconds, record.decode_seconds) == (-1.25, 0.5, 0)
