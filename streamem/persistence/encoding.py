"""Values as JSON and named arrays, and back: what a checkpoint is written in.

Numbers, strings, arrays, enumerations, lists, tuples, dictionaries with string keys, and dataclasses of
these. What comes back has the same bits and memory layout, and what was one object in two places is one
again. A dataclass is rebuilt field by field, none of its code runs; its type comes from this library or from
the caller, never from an import that a file asks for.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamem.errors import InputError, ModelFileError

__all__ = ["Encoded", "decode", "encode"]

PLAIN = (bool, int, float, str, type(None))
OURS = "streamem."


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """A value that can be written."""

    tree: dict[str, Any]
    """For JSON: plain values as they are, ``[i]`` for node i."""
    arrays: dict[str, NDArray[Any]]
    """What the nodes name."""
    types: dict[str, type] = field(default_factory=dict)
    """Types that are not this library's, by the names that nodes have for them: `decode` wants them back."""


def encode(value: Any, where: str = "value") -> Encoded:
    """Return a value as JSON and arrays; messages call it ``where``.

    Raises
    ------
    InputError
        If some part of it is none of what can be written.

    Examples
    --------
    >>> encoded = encode({"a": (1, np.float32(0.1)), "b": np.arange(3)})
    >>> encoded.tree["nodes"]
    [{'scalar': '<f4', 'value': 0.10000000149011612}, {'tuple': [1, [0]]}, {'array': '0', 'axes': [0]}, \
{'dict': {'a': [1], 'b': [2]}}]
    >>> decode(encoded.tree, encoded.arrays)
    {'a': (1, np.float32(0.1)), 'b': array([0, 1, 2])}
    """
    encoder = _Encoder()
    root = encoder.put(value, where)
    return Encoded({"root": root, "nodes": encoder.nodes}, encoder.arrays, encoder.types)


@dataclass(slots=True, eq=False)
class _Encoder:
    nodes: list[dict[str, Any]] = field(default_factory=list)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    types: dict[str, type] = field(default_factory=dict)
    seen: dict[int, tuple[int, Any]] = field(default_factory=dict)
    """Node and object, by the object's id: holding the object keeps its id its own."""

    def put(self, value: Any, where: str) -> Any:
        """Return a plain value, or a reference to its node."""
        if type(value) in PLAIN:
            return value
        if id(value) not in self.seen:
            node = self._node(value, where)
            self.seen[id(value)] = len(self.nodes), value
            self.nodes.append(node)
        return [self.seen[id(value)][0]]

    def _node(self, value: Any, where: str) -> dict[str, Any]:
        kind = type(value)
        if kind is np.ndarray and not value.dtype.hasobject:
            return self._array(value)
        if isinstance(value, np.generic) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
            return {"scalar": value.dtype.str, "value": value.item()}
        if isinstance(value, enum.Enum):
            return {"enum": self._name(kind), "name": value.name}
        if kind in (list, tuple):
            return {kind.__name__: [self.put(each, f"{where}[{i}]") for i, each in enumerate(value)]}
        if kind is dict and all(type(key) is str for key in value):
            return {"dict": {key: self.put(each, f"{where}[{key!r}]") for key, each in value.items()}}
        if dataclasses.is_dataclass(value):
            parts = {
                part.name: self.put(getattr(value, part.name), f"{where}.{part.name}")
                for part in dataclasses.fields(value)
            }
            return {"object": self._name(kind), "fields": parts}
        raise InputError(
            f"{where}: a {kind.__module__}.{kind.__qualname__} cannot be written to a checkpoint. Make it of "
            "dataclasses, arrays, numbers, strings, enumerations, lists, tuples and dictionaries with string "
            "keys, or leave checkpoint out."
        )

    def _array(self, value: NDArray[Any]) -> dict[str, Any]:
        """Store an array in the order of its memory: sums depend on that order to the last bit."""
        axes = sorted(range(value.ndim), key=lambda axis: -abs(value.strides[axis]))
        name = str(len(self.arrays))
        self.arrays[name] = np.ascontiguousarray(value.transpose(axes)).reshape(
            [value.shape[axis] for axis in axes]
        )
        return {"array": name, "axes": axes}

    def _name(self, kind: type) -> str:
        if kind.__module__.startswith(OURS):
            return f"{kind.__module__}:{kind.__qualname__}"
        self.types[f":{kind.__qualname__}"] = kind
        return f":{kind.__qualname__}"


def decode(
    tree: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], types: Mapping[str, type] | None = None
) -> Any:
    """Return the value that `encode` was given.

    Parameters
    ----------
    types
        Types that are not this library's, as `Encoded.types` has them.

    Raises
    ------
    ModelFileError
        If it is of types that are not known, or that have other fields by now.
    """
    done: list[Any] = []

    def get(reference: Any) -> Any:
        return done[reference[0]] if isinstance(reference, list) else reference

    for node in tree["nodes"]:
        done.append(_value(node, get, arrays, types or {}))
    return get(tree["root"])


def _value(
    node: Mapping[str, Any], get: Any, arrays: Mapping[str, NDArray[Any]], types: Mapping[str, type]
) -> Any:
    """Return what a node stands for."""
    if "array" in node:
        return arrays[node["array"]].transpose(np.argsort(node["axes"]).astype(int).tolist())
    if "scalar" in node:
        return np.dtype(node["scalar"]).type(node["value"])
    if "list" in node:
        return [get(each) for each in node["list"]]
    if "tuple" in node:
        return tuple(get(each) for each in node["tuple"])
    if "dict" in node:
        return {key: get(each) for key, each in node["dict"].items()}
    kind = _type(node["enum"] if "enum" in node else node["object"], types)
    if "enum" in node:
        return kind[node["name"]]
    given, added = node["fields"], _defaults(kind)
    wanted = {part.name for part in dataclasses.fields(kind)}
    if not set(given) <= wanted <= set(given) | set(added):
        raise ModelFileError(
            f"{kind.__qualname__}: stored with the fields {sorted(given)}, but it has {sorted(wanted)}. Use "
            "the version that wrote the file, or start anew."
        )
    value = object.__new__(kind)
    for name, each in (added | {name: get(each) for name, each in given.items()}).items():
        object.__setattr__(value, name, each)  # frozen, and no __post_init__ wanted
    return value


def _defaults(kind: Any) -> dict[str, Any]:
    """Return the values of fields that a file may lack, as it was written before there were such fields."""
    parts = dataclasses.fields(kind)
    return {part.name: part.default for part in parts if part.default is not dataclasses.MISSING}


def _type(name: str, types: Mapping[str, type]) -> Any:
    """Return a dataclass or enumeration by the name that `encode` gave it."""
    module, _, qualname = name.partition(":")
    kind: Any = types.get(name)
    if module.startswith(OURS):
        kind = getattr(sys.modules.get(module), qualname, None)
    if not isinstance(kind, type) or not (dataclasses.is_dataclass(kind) or issubclass(kind, enum.Enum)):
        raise ModelFileError(
            f"{qualname}: a type that neither this version of streamem nor the model has. Use the model and "
            "the version that wrote the file, or start anew."
        )
    return kind
