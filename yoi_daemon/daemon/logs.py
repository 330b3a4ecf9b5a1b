"""Logging: human lines on a terminal, else JSON, one event a line, on standard error."""

import json
import logging
import sys
from typing import Any, TextIO

import structlog
from structlog.typing import Processor


def configure_logs(level: str, stream: TextIO | None = None) -> None:
    """Sets the process's logging up; records of the standard library take the same way."""
    out = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render: list[Processor]
    if out.isatty():
        # No locals in tracebacks: they hold secrets.
        render = [
            structlog.dev.ConsoleRenderer(
                colors=True, exception_formatter=structlog.dev.plain_traceback
            )
        ]
    else:
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_dumps)]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
    )
    handler = logging.StreamHandler(out)
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
    """What is below `level` is not logged from here on."""
    logging.getLogger().setLevel(level.upper())


def _dumps(event: Any, **_options: Any) -> str:
    # One line whatever was logged: json escapes line breaks.
    return json.dumps(event, default=repr, ensure_ascii=False)
