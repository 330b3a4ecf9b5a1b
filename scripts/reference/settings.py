"""`settings`: every key with its sentence, unit, default and bounds, and what makes a change of it take effect."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import msgspec

from scripts.reference.text import (
    alternatives,
    bounds_of,
    default,
    describe,
    field_docstrings,
    is_struct,
    sentence,
)
from yoi_daemon.model.settings import Section, Settings, is_reloadable

UNITS = {
    "_s": "seconds",
    "_bytes": "bytes",
    "_per_s": "a second",
}
PLACEHOLDER = "NAME"


def render() -> str:
    return "\n".join(
        line for path, kind in tables(Settings, ()) for line in _table_lines(path, kind)
    )


def tables(kind: type[Section], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], type]]:
    """Every table of the file that has keys of its own, and the type that is made of it."""
    fields = msgspec.structs.fields(kind)
    if not fields or any(not _subtables(field.type) for field in fields):
        yield path, kind
    for field in fields:
        is_map = get_origin(field.type) is dict
        for member in _subtables(field.type):
            below = (*path, field.encode_name, *([PLACEHOLDER] if is_map else []))
            yield from tables(member, below)


def _subtables(kind: Any) -> tuple[type[Section], ...]:
    """The types of tables that a field holds, directly or by name."""
    of = get_args(kind)[1] if get_origin(kind) is dict else kind
    members = tuple(member for member in alternatives(of) if is_struct(member))
    return tuple(member for member in members if issubclass(member, Section))


def _table_lines(path: tuple[str, ...], kind: type) -> Iterator[str]:
    config = kind.__struct_config__
    heading = ".".join(path)
    yield f"## `[{heading}]`" + (
        f' with `{config.tag_field} = "{config.tag}"`' if config.tag else ""
    )
    yield ""
    text = sentence(kind.__doc__, f"[{heading}]")
    yield _capital(re.sub(r"^`\[[^`]*\]`[^:]*: ", "", text))
    yield ""
    sentences = field_docstrings(kind)
    for field in msgspec.structs.fields(kind):
        if _subtables(field.type):
            continue
        key = field.encode_name
        yield f"### `{key}`"
        yield ""
        yield sentence(sentences.get(field.name), f"[{heading}] {key}")
        yield ""
        yield facts(field, (*path, key))
        yield ""


def facts(field: msgspec.structs.FieldInfo, path: tuple[str, ...]) -> str:
    """Type, unit, bounds, default, and what makes a change take effect, in one line."""
    parts = [_type_of(field)]
    if field.required:
        parts.append("required")
    else:
        value = field.default
        if value is msgspec.NODEFAULT:
            value = field.default_factory()
        parts.append("no default" if value is None else f"default {default(value)}")
    parts.append("reload" if is_reloadable(path) else "restart")
    return "; ".join(parts) + "."


def _type_of(field: msgspec.structs.FieldInfo) -> str:
    kind = field.type
    if get_origin(kind) is Annotated:
        base, *metas = get_args(kind)
        unit = next(
            (
                UNITS[end]
                for end in sorted(UNITS, key=len, reverse=True)
                if field.encode_name.endswith(end)
            ),
            "",
        )
        bounds = ", ".join(filter(None, map(bounds_of, metas)))
        parts = [describe(base).capitalize(), f"({unit})" if unit else "", bounds]
        return " ".join(filter(None, parts))
    return _capital(describe_optional(kind))


def describe_optional(kind: Any) -> str:
    """As `describe`, without the null that stands for an absent key: TOML has none."""
    members = [member for member in alternatives(kind) if member is not type(None)]
    return " or ".join(map(describe, members))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
