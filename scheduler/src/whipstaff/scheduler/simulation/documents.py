"""Manifests and dumps: files, folders and standard input become objects that say where they stood.

No loop runs here. JSON and YAML are told apart by what they begin with. A `List`, as `kubectl get
-o json` makes it of mixed kinds, is taken apart. Whatever can't be used is an error that names the
file, the document in it, and the field.

Answers to the visitors of `k8s.io/cli-runtime/pkg/resource` (`kubectl -f`). Left out: addresses on
the web, kustomizations, and `--recursive`.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

import orjson
import yaml

from whipstaff.runtime import errors

Object = dict[str, Any]

STANDARD_INPUT = "-"
SUFFIXES = (".json", ".yaml", ".yml")
"""The files of a folder that are read."""


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """An object, and where it was found (`web.yaml: document 2`)."""

    obj: Object
    origin: str

    def problem(self, text: str) -> errors.ConfigurationError:
        """An error about the object; `text` names the field."""
        return errors.ConfigurationError(f"{self.origin}: {self.name}: {text}")

    @property
    def name(self) -> str:
        """As messages call it: `Deployment default/web`."""
        metadata = self.obj["metadata"]
        name = metadata.get("name") or metadata.get("generateName") or "without a name"
        inside = metadata.get("namespace")
        return f"{self.obj['kind']} {inside}/{name}" if inside else f"{self.obj['kind']} {name}"


def read(paths: Iterable[str | pathlib.Path]) -> list[Document]:
    """Every object in the files, in their order; `-` is standard input.

    Raises:
        errors.ConfigurationError: a file can't be read, or something in it isn't an object.
    """
    return [document for path in paths for name in _files(path) for document in _file(name)]


def of_objects(objects: Iterable[Mapping[str, Any]], origin: str = "objects") -> list[Document]:
    """Objects that are in memory already, lists among them.

    Raises:
        errors.ConfigurationError: one of them isn't an object.
    """
    return [
        found
        for index, obj in enumerate(objects)
        for found in _flat(obj, f"{origin}: number {index + 1}")
    ]


def _files(path: str | pathlib.Path) -> list[str]:
    folder = pathlib.Path(path)
    if str(path) == STANDARD_INPUT or not folder.is_dir():
        return [str(path)]
    found = sorted(str(each) for each in folder.iterdir() if each.suffix in SUFFIXES)
    if not found:
        raise errors.ConfigurationError(f"{path}: no {', '.join(SUFFIXES)} in this folder")
    return found


def _file(path: str) -> Iterator[Document]:
    name = "standard input" if path == STANDARD_INPUT else path
    try:
        content = (
            sys.stdin.buffer.read() if path == STANDARD_INPUT else pathlib.Path(path).read_bytes()
        )
    except OSError as error:
        raise errors.ConfigurationError(f"{name}: {error.strerror or error}") from error
    values = _json(content, name) if content.lstrip()[:1] in (b"{", b"[") else None
    if values is None:
        values = _yaml(content, name)
    several = len(values) > 1
    for index, value in enumerate(values):
        if value is not None:
            yield from _flat(value, f"{name}: document {index + 1}" if several else name)


def _json(content: bytes, name: str) -> list[Any] | None:
    """The one value that a JSON file holds; None where it may be YAML that looks like JSON."""
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        try:
            return _yaml(content, name)
        except errors.ConfigurationError:
            place = f"line {error.lineno}, column {error.colno}"
            raise errors.ConfigurationError(f"{name}: {place}: {error.msg}") from error
    return value if isinstance(value, list) else [value]


class _Loader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
    """YAML as Kubernetes reads it: a key given twice is an error, and a date is a text."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Hashable] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"the field {key!r} is given twice", key_node.start_mark
            )
        seen.add(key)
    mapping: dict[Hashable, Any] = loader.construct_mapping(node, deep=True)
    return mapping


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor(
    "tag:yaml.org,2002:timestamp", lambda loader, node: loader.construct_scalar(node)
)


def _yaml(content: bytes, name: str) -> list[Any]:
    try:
        return list(yaml.load_all(content, Loader=_Loader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise errors.ConfigurationError(f"{name}: {place}{problem}") from error


def _flat(value: Any, origin: str) -> Iterator[Document]:
    if not isinstance(value, dict):
        raise errors.ConfigurationError(f"{origin}: expected an object, found {_kind_of(value)}")
    kind, version = value.get("kind"), value.get("apiVersion")
    for field, text in (("kind", kind), ("apiVersion", version)):
        if not isinstance(text, str) or not text:
            raise errors.ConfigurationError(f"{origin}: {field}: is required")
    if "items" in value and str(kind).endswith("List"):
        items = value["items"] or []
        if not isinstance(items, list):
            raise errors.ConfigurationError(f"{origin}: items: expected a list")
        kinds = {"kind": str(kind).removesuffix("List"), "apiVersion": version}
        for index, item in enumerate(items):
            if isinstance(item, dict) and kind != "List":
                item = {**kinds, **item}  # noqa: PLW2901 - the API server leaves them out of items
            yield from _flat(item, f"{origin}: items[{index}]")
        return
    if not isinstance(value.get("metadata"), dict):
        raise errors.ConfigurationError(f"{origin}: {kind}: metadata: is required")
    yield Document(value, origin)


def _kind_of(value: Any) -> str:
    names = {type(None): "nothing", list: "a list", str: "a text"}
    return names.get(type(value), f"the value {value!r}")
