"""Notes what is logged as an error, by either logging library, so that a test must say it expects it."""

import logging
from collections.abc import Generator
from contextlib import contextmanager

import structlog


class LoggedErrors:
    """The error records of one test that nobody has asked for yet."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def expect(self, text: str) -> list[str]:
        """Takes the records that hold `text`; there must be one."""
        found = [message for message in self.messages if text in message]
        assert found, f"no error with {text!r} was logged, but {self.messages}"
        self.messages = [message for message in self.messages if text not in message]
        return found

    def check(self) -> None:
        assert not self.messages, (
            f"errors were logged that the test did not expect: {self.messages}"
        )


@contextmanager
def watch_errors() -> Generator[LoggedErrors]:
    """Watches until the end of the context, then puts logging back as it was.

    At the record factory, because a program under test may replace every handler.
    """
    errors = LoggedErrors()
    make_record = logging.getLogRecordFactory()

    def note_record(*args: object, **kwargs: object) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        if (record.levelno or 0) >= logging.ERROR:  # makeLogRecord asks for one without a level
            errors.messages.append(record.getMessage())
        return record

    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    logging.setLogRecordFactory(note_record)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    try:
        yield errors
    finally:
        logging.setLogRecordFactory(make_record)
        structlog.reset_defaults()
        root.handlers[:] = handlers
        root.setLevel(level)
