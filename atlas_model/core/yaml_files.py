"""Reads YAML files, validates them against a pydantic model, and replaces single values in them.

Values are read by YAML 1.2, as DVC reads and writes them (https://yaml.org/spec/1.2.2/, section 10.3): `1e-05` is a
number, `010` is ten, `on` and `1:30` are strings. A duplicate key is an error, as in DVC.

Used by `params` and by the shop profiles of the crawlers, which define the models.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from atlas_model.core.errors import InputError

Model = TypeVar("Model", bound=BaseModel)

MAX_VALUES = 1_000_000  # of a file, an alias counted as what it stands for: few lines of them stand for billions
MAX_SHOWN = 200  # characters of a value in a message

BOOL, INT, FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
PLAIN = {  # YAML 1.2: pattern of a plain scalar for each tag, and the characters that it may begin with
    BOOL: (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    FLOAT: (
        r"[-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|"
        r"[-+]?\.[0-9][0-9_]*([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    INT: (r"[-+]?0b[01_]+|[-+]?0o[0-7_]+|[-+]?0x[0-9a-fA-F_]+|[-+]?[0-9][0-9_]*", "-+0123456789"),
}


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, which reads YAML 1.1, with the numbers and booleans of YAML 1.2."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # of yaml.SafeLoader, which declares no type
        letter: [pair for pair in pairs if pair[0] not in PLAIN]
        for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        text = node.value.replace("_", "").lower()
        prefix = text.lstrip("+-")[:2]
        return int(text, 0 if prefix in ("0b", "0o", "0x") else 10)


class _Dumper(yaml.SafeDumper):
    """PyYAML's dumper, which also quotes strings that YAML 1.2 would read as another type."""


for _tag, (_pattern, _letters) in PLAIN.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"({_pattern})$"), list(_letters))
_Loader.add_constructor(INT, _Loader.construct_whole_number)


def read_yaml(path: Path, model: type[Model], error: type[InputError] = InputError) -> Model:
    """Read ``path`` and validate it as a ``model``.

    Raises:
        InputError: (as ``error``) for the reasons of `parse_yaml` and `validate`.
    """
    return validate(parse_yaml(path, error), model, path, error)


def parse_yaml(path: Path, error: type[InputError] = InputError) -> Any:
    """Read ``path`` without validation.

    Raises:
        InputError: (as ``error``) the file is missing or not YAML, or has a duplicate key.
    """
    content, duplicates = parse_with_duplicates(path, error)
    if duplicates:
        raise error.from_faults(str(path), duplicates)
    return content


def parse_with_duplicates(path: Path, error: type[InputError] = InputError) -> tuple[Any, list[str]]:
    """Read ``path`` without validation; also return a message for each duplicate key.

    Raises:
        InputError: (as ``error``) the file is missing or not YAML.
    """
    try:
        return _parsed(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as unreadable:
        raise error(f"{path}: cannot be read as YAML: {unreadable}") from unreadable
    except (ValueError, RecursionError) as unreadable:  # 2026-13-45, a number of 5,000 digits; nested too deep
        raise error(f"{path}: cannot be read as YAML: {unreadable}") from unreadable


def parse_text(text: str) -> Any:
    """Parse a YAML text that a program, such as DVC, wrote.

    Raises:
        yaml.YAMLError: it is not YAML.
    """
    return _parsed(text)[0]


def _parsed(text: str) -> tuple[Any, list[str]]:
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None, []
        _check_size(root, {})
        duplicates = list(_duplicate_keys(root))  # before constructing, which puts merged keys into the nodes
        return loader.construct_document(root), duplicates
    finally:
        loader.dispose()


def _check_size(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of values in ``node``, with aliases resolved.

    Args:
        node: of the document.
        known: id of a collection -> its number of values; 0 while it is counted.

    Raises:
        yaml.YAMLError: there are more than `MAX_VALUES`, or a value contains itself.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) in known:
        if not known[id(node)]:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: a value contains itself, by an alias")
        return known[id(node)]
    known[id(node)] = 0
    children = node.value if isinstance(node, yaml.SequenceNode) else (child for pair in node.value for child in pair)
    count = 1 + sum(_check_size(child, known) for child in children)
    if count > MAX_VALUES:
        raise yaml.YAMLError(
            f"line {node.start_mark.line + 1}: expected at most {MAX_VALUES} values, got more by aliases"
        )
    known[id(node)] = count
    return count


def _duplicate_keys(root: yaml.Node) -> Iterator[str]:
    waiting: list[tuple[tuple[str, ...], yaml.Node]] = [((), root)]
    seen: set[int] = set()  # an alias is the same node in two places
    while waiting:
        place, node = waiting.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += ((place, item) for item in reversed(node.value))
            continue
        first: dict[tuple[str, str], yaml.Node] = {}
        below: list[tuple[tuple[str, ...], yaml.Node]] = []
        for key, value in node.value:
            named = (*place, str(key.value)) if isinstance(key, yaml.ScalarNode) else place
            if isinstance(key, yaml.ScalarNode):
                earlier = first.setdefault((key.tag, key.value), key)
                if earlier is not key:
                    lines = f"{earlier.start_mark.line + 1} and {key.start_mark.line + 1}"
                    yield f"{_shortened('.'.join(named))}: duplicate key, on lines {lines}; remove one of them"
            below.append((named, value))
        waiting += reversed(below)


def validate(
    content: Any,
    model: type[Model],
    path: Path,
    error: type[InputError] = InputError,
    known: Sequence[str] = (),
) -> Model:
    """Validate ``content``, which was read from ``path``, as a ``model``.

    Args:
        content: of ``path``.
        model: to validate against.
        path: for the error message.
        error: the type of the error.
        known: faults that were found in ``path`` before.

    Raises:
        InputError: (as ``error``) the content is not valid; the message lists all errors, each with its key, the value,
            and what is allowed.
    """
    try:
        checked = model.model_validate(content)
    except ValidationError as invalid:
        faults: dict[str, list[str]] = {}  # by place: pydantic reports each member of a union
        for fault in invalid.errors():
            faults.setdefault(_place(fault["loc"]), []).append(_text(dict(fault)))
        texts_by_place = [f"{place}: {' or: '.join(dict.fromkeys(texts))}" for place, texts in faults.items()]
        raise error.from_faults(str(path), [*known, *texts_by_place]) from invalid
    if known:
        raise error.from_faults(str(path), known)
    return checked


def replace_text(path: Path, place: Sequence[str], value: str, error: type[InputError] = InputError) -> bytes:
    """Return the bytes of ``path`` with ``value`` as the string at ``place`` (keys); every other byte stays.

    Raises:
        InputError: (as ``error``) there is no string on one line at ``place``; or the file is missing or not YAML.
    """
    parse_yaml(path, error)
    content = path.read_bytes().decode()
    node = yaml.compose(content, Loader=_Loader)
    for key in place:
        values = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((found for name, found in values if name.value == key), None)
    written = content[node.start_mark.index : node.end_mark.index] if isinstance(node, yaml.ScalarNode) else ""
    if node is None or written not in (node.value, f"'{node.value}'", f'"{node.value}"'):
        raise error(
            f"{path}: {'.'.join(place)}: expected a string on one line, without anchor or tag, in order to replace it; "
            f"got {written or 'none'!r}. Write it in that form"
        )
    quote = written[: written.index(node.value)]
    return (content[: node.start_mark.index] + quote + value + quote + content[node.end_mark.index :]).encode()


def replace_values(path: Path, values: Mapping[tuple[str, ...], Any], error: type[InputError] = InputError) -> bytes:
    """Return the bytes of ``path`` with new ``values`` by place (keys); every other byte stays, comments included.

    Raises:
        InputError: (as ``error``) the file is missing or not YAML, lacks a place, or has a value in a form that cannot
            be replaced without changing other values.
    """
    expected = parse_yaml(path, error)
    content = path.read_bytes().decode()
    try:
        for place, value in values.items():
            content = _with_value(content, place, value, path, error)
            at = expected
            for key in place[:-1]:
                at[key] = dict(at[key])  # an alias is the same object in two places
                at = at[key]
            at[place[-1]] = value
        same = _parsed(content) == (expected, [])
    except yaml.YAMLError:  # an alias has lost its anchor
        same = False
    if not same:
        raise error(
            f"{path}: the values cannot be replaced without changing others. Write each on a line of its own, "
            "once, without anchors, aliases and merge keys"
        )
    return content.encode()


def _with_value(content: str, place: tuple[str, ...], value: Any, path: Path, error: type[InputError]) -> str:
    """Replace the value at ``place``; a comment after it keeps its column if there is room."""
    node = yaml.compose(content, Loader=_Loader)
    for key in place:
        values = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((found for name, found in values if name.value == key), None)
    if node is None:
        raise error(f"{path}: {'.'.join(place)}: missing; every key must be there")
    start, end = node.start_mark.index, node.end_mark.index
    flow = isinstance(node, yaml.ScalarNode) or bool(getattr(node, "flow_style", False))
    if not flow or "\n" in content[start:end]:
        raise error(f"{path}: {'.'.join(place)}: expected a value on one line in order to replace it")
    written = _dumped(value, allow_unicode=True)
    if len(written.splitlines()) != 1:  # the value has characters that break lines
        written = _dumped(value, allow_unicode=False)
    space = " " * (start == end and content[start - 1] == ":")  # a key without a value
    rest = content[end:]
    gap = len(rest) - len(rest.lstrip(" "))
    if gap and rest.lstrip(" ").startswith("#"):
        rest = " " * max(1, gap + (end - start) - len(space + written)) + rest.lstrip(" ")
    return content[:start] + space + written + rest


def _dumped(value: Any, allow_unicode: bool) -> str:
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=10_000, allow_unicode=allow_unicode)
    return text.removesuffix("\n").removesuffix("\n...")


def _place(location: tuple[int | str, ...]) -> str:
    """The keys of ``location``, without the names of a union's members that pydantic adds ("literal['native']")."""
    keys = [str(part) for part in location if part != "constrained-int" and "[" not in str(part)]
    return _shortened(".".join(keys)) or "(the file)"


def _text(fault: dict[str, Any]) -> str:
    if fault["type"] == "missing":
        return "missing; every key must be there"
    if fault["type"] == "extra_forbidden":
        return "unknown key"
    text: str = fault["msg"].removeprefix("Value error, ")
    given = fault["input"]
    return text if isinstance(given, dict) else f"{text}; got {_shortened(repr(given))}"


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
