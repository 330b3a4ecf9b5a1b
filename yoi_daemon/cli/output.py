"""Writing to people and to programs: tables on a terminal, plain columns and JSON elsewhere.

What is written came from plugins, webhooks and models: it passes `printable` or `json_text`.
"""

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from yoi_daemon.cli.printable import printable

_STATE_STYLE: Mapping[str, str] = {
    "running": "green",
    "ready": "green",
    "available": "green",
    "idle": "green",
    "starting": "yellow",
    "stopping": "yellow",
    "draining": "yellow",
    "stopped": "dim",
    "failed": "bold red",
    "unavailable": "bold red",
}


def write_json(value: Any) -> None:
    """One JSON document: indented on a terminal, one line elsewhere."""
    encoded = msgspec.json.encode(value)
    click.echo(json_text(encoded, indented=sys.stdout.isatty()))


def json_text(encoded: bytes, *, indented: bool) -> str:
    """JSON for a terminal, its numbers as they were written: what does not print is escaped JSON's way."""
    text = (msgspec.json.format(encoded, indent=2) if indented else encoded).decode()
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character == "\n" else _json_escape(character)
        for character in text
    )


def write_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str) -> None:
    """Rows under headings; `empty` is the line for none. None is written as a dash."""
    cells = [[printable(_cell(value)) for value in row] for row in rows]
    if not cells:
        click.echo(empty)
        return
    if not sys.stdout.isatty():
        write_columns([list(columns), *cells])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell, style=_STATE_STYLE.get(cell, "")) for cell in row))
    Console().print(table)


def write_columns(rows: Sequence[Sequence[str]]) -> None:
    """Rows in columns as wide as their widest cell; nothing is cut."""
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        click.echo(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


def write_record(record: Mapping[str, Any]) -> None:
    """One field a line; what has structure of its own is written as JSON."""
    width = max((len(name) for name in record), default=0)
    for name, value in record.items():
        shown = printable(_cell(value))
        styled = click.style(shown, **_click_style(shown)) if name in {"state", "status"} else shown
        click.echo(f"{printable(name).ljust(width)}  {styled}".rstrip())


def write_state(state: str) -> str:
    """Returns a state's name in its colour, where colours are shown."""
    return click.style(state, **_click_style(state))


def note(sentence: str) -> None:
    """A line about the command itself, on standard error."""
    click.echo(f"yoi-daemon: {printable(sentence)}", err=True)


def duration(seconds: float) -> str:
    """Returns a span in its two largest units: `3 d 4 h`, `12 s`."""
    whole = int(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        count, whole = divmod(whole, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or f"{seconds:.1f} s"


def size(count: float) -> str:
    """Bytes in the largest binary unit that leaves at least one."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("the last unit takes everything")


def local_time(rfc3339: str) -> str:
    """Returns a time as the clock on the wall shows it, to the millisecond; other text is left as it is."""
    try:
        moment = datetime.fromisoformat(rfc3339)
    except ValueError:
        return rfc3339
    return moment.astimezone().strftime("%H:%M:%S.%f")[:-3]


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case str():
            return value
        case bool():
            return "yes" if value else "no"
        case int() | float():
            return f"{value:g}" if isinstance(value, float) else str(value)
        case _:
            return msgspec.json.encode(value).decode()


def _click_style(state: str) -> dict[str, Any]:
    words = _STATE_STYLE.get(state, "").split()
    colour = next((word for word in words if word not in {"bold", "dim"}), None)
    return {"fg": colour, "bold": "bold" in words or None, "dim": "dim" in words or None}


def _json_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n : n + 2].hex()}" for n in range(0, len(units), 2))
