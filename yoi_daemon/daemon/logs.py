"""Logging: fields in the journal, human lines on a terminal, else JSON, one event a line, on standard error."""

import json
import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO, cast

import structlog
from structlog.typing import Processor

from yoi_daemon.daemon.journal import JournalHandler
from yoi_daemon.model.redaction import REDACTED, Redaction

LOGGED_HEADERS = frozenset(
    {
        "accept",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "host",
        "user-agent",
        "x-github-delivery",
        "x-github-event",
        "x-request-id",
    }
)
"""What may be logged of a request's headers; of others their names alone, for they may be credentials."""


def configure_logs(
    level: str,
    redaction: Redaction,
    stream: TextIO | None = None,
    journal: JournalHandler | None = None,
) -> None:
    """Configures logging for the process; records of the standard library pass through it too.

    With `journal` they go there, else to `stream`. Whatever is written goes through `redaction`,
    tracebacks too.
    """
    out = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        _allow_headers,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]

    def redact(_logger: Any, _method: str, line: Any) -> str:
        return redaction.apply(str(line))

    def redact_each(_logger: Any, _method: str, event: Any) -> dict[str, str]:
        texts = {key: _text(value) for key, value in event.items() if value is not None}
        return {redaction.apply(str(key)): redaction.apply(text) for key, text in texts.items()}

    render: list[Processor]
    if journal is not None:
        # Each by itself: what is left is an object of texts whatever a secret looks like.
        render = [structlog.processors.format_exc_info, redact_each, _render_json]
    elif out.isatty():
        # No locals in tracebacks: they hold secrets.
        render = [
            structlog.dev.ConsoleRenderer(
                colors=True, exception_formatter=structlog.dev.plain_traceback
            ),
            redact,
        ]
    else:
        render = [structlog.processors.format_exc_info, _render_json, redact]

    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )
    handler = logging.StreamHandler(out) if journal is None else journal
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_log_level(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def set_log_level(level: str) -> None:
    """Drops records below `level` from here on."""
    logging.getLogger().setLevel(level.upper())


def _allow_headers(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if key.endswith("headers") and isinstance(value, Mapping):
            headers = cast("Mapping[Any, Any]", value)
            event[key] = {
                name: text if str(name).lower() in LOGGED_HEADERS else REDACTED
                for name, text in headers.items()
            }
    return event


def _dumps(event: Any, **_options: Any) -> str:
    # One line whatever was logged: json escapes line breaks.
    return json.dumps(event, default=repr, ensure_ascii=False)


_render_json = structlog.processors.JSONRenderer(_dumps)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _dumps(value)
