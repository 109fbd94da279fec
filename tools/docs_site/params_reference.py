"""The reference of params.yaml: every key with type, unit, default and range, from the pydantic models.

The default is the value in params.yaml, because the models have none.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from atlas_model.core.params import Params
from tools.docs_site.comments import field_comments, yaml_comments
from tools.docs_site.markdown import code, plain

PARAMS = Path("params.yaml")
# The unit of a number, from its key or from the beginning of its comment; the first match holds.
UNITS = (
    (r"_s$", "s"),
    (r"_ms$", "ms"),
    (r"_days$", "days"),
    (r"bytes", "bytes"),
    (r"pixels$", "pixels"),
    (r"attempts", "attempts"),
    (r"share|drop$|dropout|erase$|^crop$|^color$|probability|threshold", "share"),
    (r"epochs$|patience$", "epochs"),
    (r"^batch_size$|_sample$|^sample$|_rows$|^overlays$|^large_category$|^min_images", "images"),
    (r"^concurrency", "requests at once"),
    (r"_steps$", "optimizer steps"),
    (r"pages", "pages"),
    (r"products", "products"),
    (r"^resamples$", "resamples"),
    (r"margin$", "F, absolute"),
    (r"^workers$", "threads or processes"),
    (r"^accumulate$", "batches"),
    (r"^grid$", "cells per side"),
    (r"^beam$", "paths"),
    (r"^randaugment$", "operations"),
    (r"^exact_nodes$", "images x nodes"),
    (r"_size$", "numbers in a vector"),
    (r"_buckets$", "vectors"),
    (r"^views$", "views per image"),
)
COMMENT_UNITS = (
    (r"^px\b|, px\b|\bpx,", "px"),
    (r"^bits\b", "bits"),
    (r"^ms\b", "ms"),
    (r"distance\b", "distance, 0 to 1"),
)


@dataclass(frozen=True)
class Parameter:
    """A key of params.yaml; the last three are Markdown."""

    key: str  # train.lr
    default: Any
    unit: str  # empty unless it is a number
    kind: str  # type and range
    meaning: str


def params_reference() -> str:
    """Markdown: a heading per section, and a definition per key."""
    parts = []
    for name, field in Params.model_fields.items():
        section = field.annotation
        assert isinstance(section, type) and issubclass(section, BaseModel), name
        parts.append(f"## {name}\n\n{plain(section.__doc__ or '')}\n")
        parts += map(_definition, parameters_of(name))
    return "\n".join(parts)


def _definition(parameter: Parameter) -> str:
    facts = [f"default {code(json.dumps(parameter.default))}", parameter.kind]
    if parameter.unit:
        facts.append(f"unit: {parameter.unit}")
    body = "; ".join(facts) + (f"\n\n  {parameter.meaning}" if parameter.meaning else "")
    return f"({parameter.key})=\n{code(parameter.key)}\n: {body}\n"


def parameters_of(name: str) -> Iterator[Parameter]:
    """The keys of the section ``name``, in the order of its model."""
    section = Params.model_fields[name].annotation
    assert isinstance(section, type) and issubclass(section, BaseModel), name
    values = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))[name]
    yield from _parameters(section, name, values, yaml_comments(PARAMS))


def _parameters(
    section: type[BaseModel], prefix: str, values: dict[str, Any], said: dict[str, str]
) -> Iterator[Parameter]:
    schema = section.model_json_schema()
    for name, field in section.model_fields.items():
        key = f"{prefix}.{name}"
        part = field.annotation
        if isinstance(part, type) and issubclass(part, BaseModel):
            yield from _parameters(part, key, values[name], said)
            continue
        what = schema["properties"][name]
        kind, limits = _kind(what), _limits(what) or _expected(section, name)
        texts = [text for text in (said.get(key, ""), field_comments(section).get(name, "")) if text]
        yield Parameter(
            key=key,
            default=values[name],
            unit=_unit(name, " ".join(texts)) if re.search("integer|number", kind) else "",
            kind=", ".join(filter(None, (kind, limits))),
            meaning="; ".join(dict.fromkeys(plain(text.rstrip(".")) for text in texts)),
        )


def _kind(what: dict[str, Any]) -> str:
    if "anyOf" in what:
        return " or ".join(dict.fromkeys(_kind(one) for one in what["anyOf"]))
    if "enum" in what or "const" in what:
        return "one of " + ", ".join(code(str(one)) for one in what.get("enum", [what.get("const")]))
    if what.get("format") == "path":
        return "path"
    if what.get("type") == "array":
        return f"list of {_kind(what['items'])}"
    names = {"string": "text", "object": "mapping", "boolean": "`true` or `false`", "null": "`null`"}
    return names.get(what.get("type", ""), str(what.get("type", "")))


def _limits(what: dict[str, Any]) -> str:
    if "anyOf" in what:
        return ", ".join(filter(None, map(_limits, what["anyOf"])))
    low, high = what.get("minimum"), what.get("maximum")
    above, below = what.get("exclusiveMinimum"), what.get("exclusiveMaximum")
    if what.get("type") == "integer" and above is not None:
        low, above = above + 1, None
    if what.get("type") == "integer" and below is not None:
        high, below = below - 1, None
    if low is not None and high is not None:
        return f"{low:,} to {high:,}"
    texts = [
        "" if low is None else f"at least {low:,}",
        "" if above is None else f"above {above:,}",
        "" if high is None else f"at most {high:,}",
        "" if below is None else f"below {below:,}",
    ]
    if "pattern" in what:
        texts.append(f"as {code(what['pattern'])}")
    if what.get("minLength", 0) > 1:
        texts.append(f"at least {what['minLength']} characters")
    return " and ".join(filter(None, texts))


def _expected(section: type[BaseModel], name: str) -> str:
    """What a validator of ours says that it expects, asked with a value that is none."""
    for wrong in ("\0", {"host": "\0"}):
        try:
            section.model_validate({name: wrong})
        except ValidationError as error:
            for fault in error.errors():
                if fault["loc"][:1] == (name,) and fault["type"] == "value_error":
                    return plain(
                        fault["msg"].removeprefix("Value error, expected ").removesuffix(", or null for never")
                    )
    return ""


def _unit(key: str, comment: str) -> str:
    found = [unit for pattern, unit in COMMENT_UNITS if re.search(pattern, comment)]
    found += [unit for pattern, unit in UNITS if re.search(pattern, key)]
    return found[0] if found else "a number"
