"""The rule that an error which nobody expects fails its test, held against itself."""

import io
import logging

import pytest
import structlog

from tests.logwatch import watch_errors
from yoi_daemon.daemon.logs import configure_logs
from yoi_daemon.model.redaction import Redaction


def by_logging() -> None:
    logging.getLogger("some.library").error("went %s", "wrong")


def by_structlog() -> None:
    structlog.get_logger("api").error("went wrong", request_id="req_1")


@pytest.mark.parametrize("log", [by_logging, by_structlog])
@pytest.mark.parametrize("configured", [False, True])
def test_an_error_nobody_expected_is_found(log, configured, logged_errors):
    with watch_errors() as errors:
        if configured:
            configure_logs("info", Redaction(), io.StringIO())
        log()
    with pytest.raises(AssertionError, match="went wrong"):
        errors.check()
    logged_errors.expect("went wrong")  # this test's own watch saw it too


@pytest.mark.parametrize("log", [by_logging, by_structlog])
def test_an_expected_error_passes(log, logged_errors):
    log()
    assert len(logged_errors.expect("went wrong")) == 1


def test_what_is_expected_must_come(logged_errors):
    with pytest.raises(AssertionError, match="no error"):
        logged_errors.expect("went wrong")


def test_a_warning_is_no_error():
    logging.getLogger("some.library").warning("well")
    structlog.get_logger("api").warning("well")
