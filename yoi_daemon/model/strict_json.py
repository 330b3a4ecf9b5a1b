"""JSON from outside: what parsers disagree on is refused before anything is decoded.

msgspec itself refuses NaN, Infinity, lone surrogates and invalid UTF-8. It accepts duplicate keys, of
which each parser sees another value, and nesting as deep as the interpreter allows.
"""

import re
from typing import Any

import msgspec

MAX_DEPTH = 64
"""Limit of nesting; events and tool arguments come nowhere near."""
MAX_DIGITS = 1000
"""Limit of consecutive digits. A double needs at most 767; parsing a longer integer costs its length squared."""

# Possessive: no backtracking, so the time is linear in whatever is sent (Python 3.11).
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_LONG_NUMBER = re.compile(rb"(?<![0-9])[0-9]{%d}" % (MAX_DIGITS + 1))
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

_decode = msgspec.json.Decoder(Any).decode
_encode = msgspec.json.Encoder().encode


def check_json(data: bytes) -> None:
    """Checks `data` against RFC 8259 and I-JSON (RFC 7493).

    Raises `ValueError` with a sentence that quotes nothing of `data`. Linear:
    a MiB of the worst costs a third of a second, a hundred bytes a microsecond.
    """
    is_plain = _is_plain(data)
    bare = data if is_plain else _STRING.sub(b"", data)
    if not is_plain:
        if _LONG_NUMBER.search(bare):
            raise ValueError(f"a number has more than {MAX_DIGITS} digits")
        _check_depth(bare)
    try:
        value = _decode(data)
    except msgspec.ValidationError as error:
        raise ValueError("a number is out of range") from error
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    except RecursionError as error:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}") from error
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    written = bare.count(b":")
    if written > 1:
        # What was decoded holds each key once: written again it has fewer pairs if one was there twice.
        again = _encode(value)
        if (again if is_plain else _STRING.sub(b"", again)).count(b":") != written:
            raise ValueError("an object has the same key twice")


def _is_plain(data: bytes) -> bool:
    """True if the checks need not remove the strings first.

    There are too few brackets and digits to be refused, and no colon is written as an escape, so
    strings have as many colons decoded as encoded.
    """
    return (
        data.count(b"{") + data.count(b"[") <= MAX_DEPTH
        and b"\\u003" not in data
        and (len(data) <= MAX_DIGITS or _LONG_NUMBER.search(data) is None)
    )


def _check_depth(bare: bytes) -> None:
    brackets = bare.translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        inner = brackets.replace(b"[]", b"")
        if len(inner) == len(brackets):
            return  # nothing is left, or it is no JSON
        brackets = inner
    if brackets:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
