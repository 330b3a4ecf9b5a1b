"""Cursors over real connections: nothing that never was one gives data, and any cut resumes exactly."""

import base64
import random
import string
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.e2e.conftest import start_daemon as start_daemon
from tests.proofs.stream.rig import TICKS, Stream, burst, seqs, write_config
from yoi_daemon.model.cursor import CursorCodec, MalformedCursorError, decode_cursor

pytest.importorskip("trio_websocket")
pytestmark = pytest.mark.prove

FUZZED, SAMPLE = 10_000, 500
HISTORY, EVERY = 500, 10
URL_SAFE = string.ascii_letters + string.digits + "-_"


def fuzzed(good: list[str], seed: int) -> Iterator[str]:
    """Texts that are no cursor of this log: altered ones, and ones that never came near."""
    rnd = random.Random(seed)
    while True:
        text = rnd.choice(good)
        at = rnd.randrange(len(text))
        raw = bytearray(base64.urlsafe_b64decode(text))
        raw[rnd.randrange(len(raw))] ^= 1 << rnd.randrange(8)
        yield rnd.choice(
            [
                text[:at] + rnd.choice(URL_SAFE.replace(text[at], "")) + text[at + 1 :],
                base64.urlsafe_b64encode(raw).decode(),
                base64.urlsafe_b64encode(rnd.randbytes(24)).decode(),
                text[:at],
                text[:at] + text[at + 1 :],
                text[:at] + rnd.choice(URL_SAFE) + text[at:],
                text + rnd.choice(["=", "==", "A", " ", "\n", "\0", "é", text]),
                text.replace(text[at], rnd.choice("+/ %&#?é\x00😀")),
                text.swapcase(),
                text[::-1],
                str(rnd.randrange(-5, 2000)),
                rnd.choice(["Earliest", "LATEST", "latest ", "null", "0", "-1", "{}", "head", "*"]),
                "".join(rnd.choices(string.printable, k=rnd.randrange(1, 60))),
                "".join(chr(rnd.randrange(1, 0xD800)) for _ in range(rnd.randrange(1, 40))),
            ]
        )


@pytest.fixture
def daemon(start_daemon, tmp_path):
    daemon = start_daemon(write_config(tmp_path / "config"))
    burst(daemon, HISTORY, 100, wait=True)
    return daemon


def cursors_of(daemon) -> list[str]:
    with Stream(daemon, "cursor=earliest") as stream:
        return [message["cursor"] for message in stream.until_live()]


def answer_to(daemon, cursor: str) -> tuple[list[str], str | None, int | None]:
    """The types of the messages before the close or a bookmark, the error's code, and the close code."""
    with Stream(daemon, f"cursor={quote(cursor)}") as stream:
        types, code = [], None
        for message in stream:
            types.append(message["type"])
            code = message.get("code")
            if message["type"] == "bookmark":
                break
        return types, code, stream.close_code


UNKNOWN = (["error"], "cursor_unknown", 4422)


def test_fuzzed_cursors_are_unknown_and_never_give_data(daemon, full):
    good = cursors_of(daemon)
    known = {*good, "", "earliest", "latest"}  # an empty one is a case of its own
    texts = (text for text in fuzzed(good, seed=4) if text not in known)
    for number, text in zip(range(FUZZED if full else SAMPLE), texts, strict=False):
        assert answer_to(daemon, text) == UNKNOWN, (number, text)
    assert answer_to(daemon, "") == UNKNOWN
    # The control: unaltered, each of them gives data.
    for text in random.Random(4).sample(good[:-1], 20):
        types, code, _ = answer_to(daemon, text)
        assert (types[0], types[-1], code) == ("hello", "bookmark", None)
        assert "event" in types


def test_control_without_its_check_a_cursor_is_taken_from_altered_text(daemon, monkeypatch):
    good = cursors_of(daemon)
    texts = [text for text, _ in zip(fuzzed(good, seed=4), range(SAMPLE), strict=False)]

    def taken() -> list[str]:
        found = []
        for text in texts:
            try:
                decode_cursor(text)
            except MalformedCursorError:
                continue
            found.append(text)
        return [text for text in found if text not in good]

    assert not taken()

    class Anything(str):
        def __eq__(self, other: object) -> bool:
            return True

        def __ne__(self, other: object) -> bool:
            return False

        __hash__ = str.__hash__

    monkeypatch.setattr(CursorCodec, "encode", lambda self, seq: Anything())
    assert len(taken()) > 20


def resumed(daemon, query: str, cut_after: int, forget: int = 0) -> list[int]:
    """Cut behind so many messages and resumed from the last but `forget` of them."""
    with Stream(daemon, f"cursor=earliest&{query}") as stream:
        first = [message for _, message in zip(range(cut_after), stream, strict=False)]
        stream.reset()
    told = first[: len(first) - forget]
    cursor = told[-1]["cursor"] if told else "earliest"
    with Stream(daemon, f"cursor={cursor}&{query}") as stream:
        rest = stream.until_live()
    return seqs(first) + seqs(rest)


@pytest.mark.parametrize("query", ["", TICKS], ids=["everything", "ticks"])
def test_cut_at_every_frame_and_resumed_across_processes_is_the_whole_log(daemon, query, full):
    with Stream(daemon, f"cursor=earliest&{query}") as stream:
        messages = stream.until_live()
    whole = seqs(messages)
    assert len(whole) >= HISTORY
    for cut_after in range(0, len(messages) + 1, 1 if full else EVERY):
        assert resumed(daemon, query, cut_after) == whole, cut_after
    # The control: a client that forgets what it was told last sees that event again.
    assert resumed(daemon, query, 100, forget=1) != whole
