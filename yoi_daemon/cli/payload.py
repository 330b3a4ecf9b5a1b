"""`--data`: JSON on the command line, in a file, or on standard input; read the same way everywhere."""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import BinaryIO

import click

from yoi_daemon.model.strict_json import check_json


def read_payload(data: str) -> bytes:
    """Returns the bytes `--data` names, as they are. Raises `click.BadParameter` unless they are JSON."""
    if data == "-":
        where, payload = "standard input", sys.stdin.buffer.read()
    elif data.startswith("@"):
        where = data[1:]
        try:
            payload = Path(where).read_bytes()
        except OSError as error:
            raise _unreadable(where, error, "--data") from error
    else:
        where, payload = "the value", data.encode("utf-8", "surrogateescape")
    try:
        check_json(payload)
    except ValueError as error:
        raise click.BadParameter(
            f"{where} is not JSON: {error}; a text is written '\"text\"'", param_hint="--data"
        ) from error
    return payload


@contextmanager
def open_lines(source: str, option: str) -> Generator[RawIOBase | BinaryIO]:
    """What `@FILE` or `-` names, to be read unbuffered. Raises `click.BadParameter`.

    Without a buffer there is no lock that a reader who was abandoned in a thread could keep.
    """
    if source == "-":
        yield getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
        return
    if not source.startswith("@"):
        raise click.BadParameter(
            "expected @FILE, or - for standard input; one event is fed with --data",
            param_hint=option,
        )
    try:
        file = Path(source[1:]).open("rb", buffering=0)  # noqa: SIM115 (closed below)
    except OSError as error:
        raise _unreadable(source[1:], error, option) from error
    with file:
        yield file


def _unreadable(file: str, error: OSError, option: str) -> click.BadParameter:
    return click.BadParameter(f"{file} cannot be read: {error.strerror}", param_hint=option)
