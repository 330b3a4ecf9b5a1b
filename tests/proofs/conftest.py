import logging

import pytest
import structlog


@pytest.fixture
def quiet(logged_errors) -> None:
    """Logs nothing: services fail by the hundred here, and the proof looks at their events instead."""
    silent = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=silent)
    # `logged_errors`, which set logging up, resets it.
