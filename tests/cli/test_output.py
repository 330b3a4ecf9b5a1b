import json

import pytest

from yoi_daemon.cli.output import (
    duration,
    local_time,
    size,
    write_json,
    write_record,
    write_table,
)
from yoi_daemon.cli.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 日本", "plain ü 日本"),
        ("\x1b]52;c;aGk=\x07", "\\x1b]52;c;aGk=\\x07"),
        ("a\nb\tc\rd", "a\\nb\\tc\\rd"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202eevil", "\\u202eevil"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_no_text_can_command_a_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_what_is_kept_is_kept() -> None:
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_a_table_in_a_pipe_is_plain_columns(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(("A", "LONGER"), [("x\x1b", None), ("wider", 3)], empty="nothing")
    assert capsys.readouterr().out == "A      LONGER\nx\\x1b  -\nwider  3\n"
    write_table(("A",), [], empty="nothing")
    assert capsys.readouterr().out == "nothing\n"


def test_a_record_is_one_field_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    write_record({"state": "failed", "reason": {"code": "x"}, "at": None, "critical": True})
    assert capsys.readouterr().out.splitlines() == [
        "state     failed",
        'reason    {"code":"x"}',
        "at        -",
        "critical  yes",
    ]


def test_spans_sizes_and_times() -> None:
    assert [duration(s) for s in (0.04, 59, 61, 3600, 93_784)] == [
        "0.0 s",
        "59 s",
        "1 min 1 s",
        "1 h",
        "1 d 2 h",
    ]
    assert [size(n) for n in (0, 1023, 1024, 1.5 * 1024**2, 5 * 1024**4)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 MiB",
        "5120.0 GiB",
    ]
    assert local_time("no time") == "no time"
    assert local_time("2026-01-02T03:04:05.678901Z").endswith(":04:05.678")


@pytest.mark.parametrize("text", ["\x9b31m", "\u202e", "\U000e0041", "plain ü 日本", "\x7f\n"])
def test_json_cannot_command_a_terminal_and_stays_the_same_json(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json({"a": text})
    out = capsys.readouterr().out
    assert json.loads(out) == {"a": text}
    assert out.removesuffix("\n").isprintable()
