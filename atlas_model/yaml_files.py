"""Reading a YAML file that people write, checked as a whole against a pydantic model, and changing a text in one.

Knows no file and no model: `params` and the shop profiles of the crawlers bring theirs.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from atlas_model.errors import InputError

Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path, model: type[Model], error: type[InputError] = InputError) -> Model:
    """The content of ``path`` as a ``model``.

    Raises:
        InputError: (as ``error``) as `parse_yaml` and `check` do.
    """
    return check(parse_yaml(path, error), model, path, error)


def parse_yaml(path: Path, error: type[InputError] = InputError) -> Any:
    """What ``path`` says, unchecked.

    Raises:
        InputError: (as ``error``) the file is missing or not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as unreadable:
        raise error(f"{path}: cannot be read as YAML: {unreadable}") from unreadable


def check(content: Any, model: type[Model], path: Path, error: type[InputError] = InputError) -> Model:
    """``content``, which ``path`` says, as a ``model``.

    Raises:
        InputError: (as ``error``) it is something else than the model allows; the text lists every fault with its
            place in the file, what came, and what is allowed.
    """
    try:
        return model.model_validate(content)
    except ValidationError as invalid:
        faults: dict[str, list[str]] = {}  # by place: the members of a union complain one by one
        for fault in invalid.errors():
            faults.setdefault(_place(fault["loc"]), []).append(_text(dict(fault)))
        told = [f"{place}: {' or: '.join(dict.fromkeys(texts))}" for place, texts in faults.items()]
        raise error.of(str(path), told) from invalid


def replace_text(path: Path, place: Sequence[str], value: str, error: type[InputError] = InputError) -> bytes:
    """The bytes of ``path`` with ``value`` as the text at ``place`` (keys), and everything else as it is.

    Raises:
        InputError: (as ``error``) there is no text on one line at ``place``; or the file is missing or not YAML.
    """
    parse_yaml(path, error)
    content = path.read_bytes().decode()
    node = yaml.compose(content, Loader=yaml.SafeLoader)
    for key in place:
        values = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((found for name, found in values if name.value == key), None)
    written = content[node.start_mark.index : node.end_mark.index] if isinstance(node, yaml.ScalarNode) else ""
    if node is None or written not in (node.value, f"'{node.value}'", f'"{node.value}"'):
        raise error(
            f"{path}: {'.'.join(place)}: expected a text on one line, without an anchor or a tag, in order to replace "
            f"it; got {written or 'none'!r}. Write it so"
        )
    quote = written[: written.index(node.value)]
    return (content[: node.start_mark.index] + quote + value + quote + content[node.end_mark.index :]).encode()


def replace_values(path: Path, values: Mapping[tuple[str, ...], Any], error: type[InputError] = InputError) -> bytes:
    """The bytes of ``path`` with other values at some places (keys), and everything else, comments too, as it is.

    Raises:
        InputError: (as ``error``) the file is missing or not YAML, lacks a place, or has a value in a form that cannot
            be replaced without changing more than that.
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
        same = yaml.safe_load(content) == expected
    except yaml.YAMLError:  # of an alias whose anchor is gone
        same = False
    if not same:
        raise error(
            f"{path}: the values cannot be replaced without changing more than that. Write each on a line of its own, "
            "once, without anchors, aliases and merge keys"
        )
    return content.encode()


def _with_value(content: str, place: tuple[str, ...], value: Any, path: Path, error: type[InputError]) -> str:
    """``content`` with ``value`` at ``place``; the comment that follows it in its line keeps its column if it can."""
    node = yaml.compose(content, Loader=yaml.SafeLoader)
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
    if len(written.splitlines()) != 1:  # it holds characters that break lines
        written = _dumped(value, allow_unicode=False)
    space = " " * (start == end and content[start - 1] == ":")  # a key with nothing behind it
    rest = content[end:]
    gap = len(rest) - len(rest.lstrip(" "))
    if gap and rest.lstrip(" ").startswith("#"):
        rest = " " * max(1, gap + (end - start) - len(space + written)) + rest.lstrip(" ")
    return content[:start] + space + written + rest


def _dumped(value: Any, allow_unicode: bool) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=allow_unicode)
    return text.removesuffix("\n").removesuffix("\n...")


def _place(location: tuple[int | str, ...]) -> str:
    """The keys of ``location``; without the names of a union's members, which pydantic adds ("literal['native']")."""
    keys = [str(part) for part in location if part != "constrained-int" and "[" not in str(part)]
    return ".".join(keys) or "(the file)"


def _text(fault: dict[str, Any]) -> str:
    if fault["type"] == "missing":
        return "missing; every key must be there"
    if fault["type"] == "extra_forbidden":
        return "unknown key"
    text: str = fault["msg"].removeprefix("Value error, ")
    given = fault["input"]
    return text if isinstance(given, dict) else f"{text}; got {given!r}"
