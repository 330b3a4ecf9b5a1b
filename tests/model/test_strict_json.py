"""What JSON is taken: the standard library's reader, made strict, is the oracle."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoi_daemon.model.strict_json import MAX_DEPTH, MAX_DIGITS, check_json

REFUSED = {
    "nothing": (b"", "truncated"),
    "not JSON": (b"{", "truncated"),
    "something behind it": (b"{} {}", "malformed"),
    "NaN": (b"[NaN]", "malformed"),
    "Infinity": (b"[Infinity]", "malformed"),
    "-Infinity": (b"[-Infinity]", "malformed"),
    "1e999": (b"[1e999]", "out of range"),
    "a BOM": (b"\xef\xbb\xbf{}", "malformed"),
    "not UTF-8": (b'"\xff"', "UTF-8"),
    "a surrogate in UTF-8": (b'"\xed\xa0\x80"', "UTF-8"),
    "a lone high surrogate": (b'"\\ud800"', "truncated"),
    "a lone high surrogate before a letter": (b'"\\ud800 abcdef"', "surrogate"),
    "a lone low surrogate": (b'"\\udc00"', "surrogate"),
    "a lone surrogate in a key": (b'{"\\udc00": 1}', "surrogate"),
    "a control character": (b'"\x01"', "malformed"),
    "a single quote": (b"{'a': 1}", "malformed"),
    "a comment": (b"{} // a", "malformed"),
    "a key twice": (b'{"a": 1, "a": 2}', "same key"),
    "a key twice, with the same value": (b'{"a": 1, "a": 1}', "same key"),
    "a key twice, once escaped": (b'{"a": 1, "\\u0061": 2}', "same key"),
    "an empty key twice": (b'{"": 1, "": 2}', "same key"),
    "a key twice, deep": (b'{"b": [{"c": {"a": 1, "d": {}, "a": 2}}]}', "same key"),
    "a key twice beside an escaped colon": (b'{"a": 1, "a": "\\u003A"}', "same key"),
    "a key twice beside colons in text": (b'{"a:b": ":", "a:b": "\\":"}', "same key"),
    "5,000 digits": (b"9" * 5000, "digits"),
    "5,000 digits of a fraction": (b"0." + b"9" * 5000, "digits"),
    "5,000 digits of an exponent": (b"1e" + b"9" * 5000, "digits"),
    "too deep": (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "deeper"),
    "too deep in objects": (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "deeper"),
    "far too deep": (b"[" * 200_000 + b"]" * 200_000, "deeper"),
    "opened without end": (b"[" * 200_000, "deeper"),
    "quotes without end": (b'"' + b'\\"' * 200_000 + b"\\", "truncated"),
}  # fmt: skip
TAKEN = {
    "one value": b"1",
    "nothing inside": b'[{}, [], "", {"": ""}]',
    "as deep as may be": b"[" * MAX_DEPTH + b"]" * MAX_DEPTH,
    "brackets in text": b'"' + b"[{" * 1000 + b'"',
    "digits in text": b'{"a": "' + b"9" * 5000 + b'"}',
    "as many digits as may be": b"9" * MAX_DIGITS,
    "the same key in two objects": b'[{"a": 1}, {"a": {"a": 2}}]',
    "a pair of surrogates": b'"\\ud83d\\ude00"',
    "a NUL, escaped": b'"\\u0000"',
    "quotes and backslashes": rb'{"a\"b": "c\\", "a\\": "\"", "a": ":"}',
    "space": b' \t\r\n{ "a" : [ 1 , 2 ] } ',
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    data, says = REFUSED[name]
    with pytest.raises(ValueError, match=says):
        check_json(data)


@pytest.mark.parametrize(
    "name", ["a key twice", "5,000 digits of a fraction", "too deep", "too deep in objects"]
)
def test_what_msgspec_alone_lets_through(name: str) -> None:
    """The negative control."""
    msgspec.json.decode(REFUSED[name][0])


@pytest.mark.parametrize("name", TAKEN)
def test_taken(name: str) -> None:
    check_json(TAKEN[name])


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError
    return made


def _oracle_takes(data: bytes) -> bool:
    try:
        value = json.loads(data.decode(), object_pairs_hook=_refuse_twice)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except ValueError:  # UnicodeError is one
        return False
    return True


KEYS = st.sampled_from(["a", "b", "a:", '"', "\\", "{", ""])
PIECES = st.sampled_from(
    [b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b'"a"', b'"b"', b'"a":1', b"\\u003a", b"1", b"-0.5e3", b" "]
)  # fmt: skip


def _written(value: Any) -> st.SearchStrategy[str]:
    return st.lists(st.tuples(KEYS, value), max_size=3).map(
        lambda pairs: "{" + ",".join(f"{json.dumps(key)}:{text}" for key, text in pairs) + "}"
    )


DOCUMENTS = st.recursive(
    st.sampled_from(["1", "null", '":{\\""', '"\\\\"', '":"', r'"\u003a"', r'"\\u003a"']),
    lambda inner: _written(inner) | st.lists(inner, max_size=3).map(lambda i: f"[{','.join(i)}]"),
)


@given(DOCUMENTS)
def test_documents_with_keys_perhaps_twice(text: str) -> None:
    assert _takes(text.encode()) == _oracle_takes(text.encode())


@given(st.lists(PIECES, max_size=12).map(b"".join))
def test_pieces_of_json(data: bytes) -> None:
    assert _takes(data) == _oracle_takes(data)


def _takes(data: bytes) -> bool:
    try:
        check_json(data)
    except ValueError:
        return False
    return True
