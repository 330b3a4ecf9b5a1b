"""What the pages share: sentences from docstrings, types in words, tables."""

import ast
import inspect
import re
import textwrap
import types
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec


class Undocumented(Exception):
    """Something that a reader can meet has no sentence; the message names it."""


def sentence(text: str | None, of: str) -> str:
    """`text` as one paragraph. Raises `Undocumented` where it is empty or no sentence."""
    joined = " ".join((text or "").split())
    if not joined.endswith((".", "…")) or " " not in joined:
        raise Undocumented(f"{of} has no sentence")
    return joined


def attribute_docstrings(kind: type) -> dict[str, str]:
    """The string that follows each field in the source of a class, as tools for documentation read it."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for node, following in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            found[node.target.id] = following.value.value
    return found


def field_docstrings(kind: type) -> dict[str, str]:
    """The same, with those of the classes that `kind` inherits from."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base is not msgspec.Struct and issubclass(base, msgspec.Struct):
            found |= attribute_docstrings(base)
    return found


def number(value: float) -> str:
    """A number as people read it: `65,536`, `0.1`."""
    return f"{value:,}" if isinstance(value, int) else f"{value:,g}"


def default(value: Any) -> str:
    """A default as TOML or JSON writes it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return f"`{msgspec.json.encode(value).decode()}`"


def is_struct(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The members of a union; of anything else itself."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


_BASIC: dict[Any, str] = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "boolean",
    bytes: "bytes",
    Any: "any JSON",
    types.NoneType: "null",
    msgspec.UnsetType: "absent",
}


def describe(kind: Any) -> str:
    """A type in words, with its bounds."""
    if kind in _BASIC:
        return _BASIC[kind]
    origin, members = get_origin(kind), get_args(kind)
    if origin is Annotated:
        bounds = " ".join(filter(None, map(bounds_of, members[1:])))
        return f"{describe(members[0])} {bounds}".strip()
    if origin is Literal:
        return ", ".join(f"`{member}`" for member in members)
    if origin in (Union, types.UnionType):
        return " or ".join(map(describe, members))
    if origin is dict:
        return f"object of {describe(members[1])}"
    if origin in (list, tuple, Sequence):
        return f"list of {describe(members[0])}"
    if is_struct(origin or kind):
        own = (origin or kind).__name__
        return f"{own} of {describe(members[0])}" if members else own
    return str(kind)


def bounds_of(meta: Any) -> str:
    """The bounds of a `msgspec.Meta`: `1 to 1,000`, `over 0, at most 86,400`; empty without any."""
    if not isinstance(meta, msgspec.Meta):
        return ""
    parts = [
        f"{word} {number(value)}"
        for word, value in (
            ("over", meta.gt),
            ("at least", meta.ge),
            ("below", meta.lt),
            ("at most", meta.le),
            ("at least", meta.min_length),
            ("at most", meta.max_length),
        )
        if value is not None
    ]
    return ", ".join(parts)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines)


def kinds_and_sentences(text: str) -> Iterator[tuple[str, str]]:
    """Each `kind`: and its sentence, of a docstring that has one a line; further lines go with the last."""
    for match in re.finditer(
        r"^\s*`([a-z_.]+)`: (.+?)(?=^\s*`[a-z_.]+`: |\Z|^\s*$)", text, re.MULTILINE | re.DOTALL
    ):
        yield match[1], match[2]
