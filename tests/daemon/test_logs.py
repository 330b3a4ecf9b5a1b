import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from yoi_daemon.daemon.logs import configure_logs
from yoi_daemon.model.redaction import Redaction
from yoi_daemon.sdk import Secret

SECRET = "hunter2-and-more"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[io.StringIO, Terminal])
def out(request) -> Iterator[io.StringIO]:
    """What is written, as JSON and as a terminal shows it; logging is as it was afterwards."""
    root = logging.getLogger()
    handlers, level, configured = root.handlers[:], root.level, structlog.get_config()
    stream = request.param()
    redaction = Redaction()
    redaction.add(SECRET)
    configure_logs("info", redaction, stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.configure(**configured)


def fail() -> None:
    held = SECRET  # noqa: F841 (a local, which a traceback must not show)
    raise ValueError(f"refused: {SECRET}")


def test_a_secret_that_was_written_out_is_taken_out_of_every_record(out):
    log = structlog.get_logger("plugin")
    log.info("as an event %s", SECRET)
    in_the_text = f"in the text {SECRET}"
    log.info(in_the_text)
    log.info("as a fact", value=SECRET, listed=[SECRET], told={"deep": {"er": SECRET}})
    logging.getLogger("some.library").warning("of a library: %s", SECRET)
    try:
        fail()
    except ValueError:
        log.warning("with its traceback", exc_info=True)
        logging.getLogger("some.library").warning("a library's", exc_info=True)
    text = out.getvalue()
    assert SECRET not in text
    assert text.count("[redacted]") >= 8
    assert text.count("in fail") == 2  # the tracebacks are there


def test_a_secret_itself_shows_nothing(out):
    structlog.get_logger().info("got", secret=Secret(SECRET), both=[Secret(SECRET)])
    logging.getLogger("some.library").warning("got %s %r", Secret(SECRET), Secret(SECRET))
    assert SECRET not in out.getvalue()
    assert out.getvalue().count("Secret(…)") == 4


def test_of_headers_only_the_allowed_are_written(out):
    headers = {
        "User-Agent": "curl",
        "Cookie": "session=abcdefgh",
        "X-Api-Key": "k",
        "X-Other": "z9z9",
    }
    structlog.get_logger().info("asked", headers=headers, request_headers=headers)
    text = out.getvalue()
    assert text.count("curl") == 2
    for hidden in ("abcdefgh", "z9z9"):
        assert hidden not in text
    assert text.count("X-Api-Key") == 2
    assert headers["Cookie"] == "session=abcdefgh"


def test_a_line_is_still_json(out):
    if isinstance(out, Terminal):
        pytest.skip("for people")
    structlog.get_logger().info("x", value=f'"{SECRET}"\n')
    assert json.loads(out.getvalue())["value"] == '"[redacted]"\n'
