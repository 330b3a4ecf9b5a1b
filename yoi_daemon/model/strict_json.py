"""JSON as it is taken from outside: what readers disagree on is refused before anything is decoded.

msgspec refuses NaN, Infinity, lone surrogates and what is no UTF-8 by itself. It lets through a key
given twice, of which each reader sees another value, and nests as deep as the interpreter can.
"""

import re
from typing import Any

import msgspec

MAX_DEPTH = 64
"""Objects and arrays inside each other; an event or a tool's arguments come nowhere near."""
MAX_DIGITS = 1000
"""In a row. A double written out needs 767; to read a longer integer costs the square of its length."""

# Possessive: no backtracking, so the time is linear in whatever is sent (Python 3.11).
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_LONG_NUMBER = re.compile(rb"(?<![0-9])[0-9]{%d}" % (MAX_DIGITS + 1))
_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))

_decode = msgspec.json.Decoder(Any).decode
_encode = msgspec.json.Encoder().encode


def check_json(data: bytes) -> None:
    """Holds `data` against RFC 8259 and I-JSON (RFC 7493).

    Raises `ValueError` with a sentence that says what is wrong and quotes nothing of `data`. Linear:
    a MiB of the worst costs a third of a second, a hundred bytes some microseconds.
    """
    bare = _without_strings(data)
    if len(bare) > MAX_DIGITS and _LONG_NUMBER.search(bare):
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
    # What was decoded holds each key once: written again it has fewer pairs if one was there twice.
    if written > 1 and _without_strings(_encode(value)).count(b":") != written:
        raise ValueError("an object has the same key twice")


def _without_strings(data: bytes) -> bytes:
    if b"\\" in data:
        return _STRING.sub(b"", data)
    # Without an escape every quote begins a string or ends one: a fifth of the time.
    return b"".join(data.split(b'"')[::2])


def _check_depth(bare: bytes) -> None:
    if bare.count(b"[") + bare.count(b"{") <= MAX_DEPTH:
        return
    brackets = bare.translate(_BRACKETS, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        inner = brackets.replace(b"[]", b"")
        if len(inner) == len(brackets):
            return  # nothing is left, or it is no JSON
        brackets = inner
    if brackets:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
