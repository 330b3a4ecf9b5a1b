import pytest

from yoi_daemon.cli.exits import ExtraMissing, exit_code, explain, facts
from yoi_daemon.model.errors import (
    ConfigFault,
    ConfigurationError,
    NotAllowed,
    Refused,
    StorageFailed,
    Unreachable,
    YoiError,
)

FAULT = ConfigFault(file="yoi-daemon.toml", key="api.listen", expected="a text", line=3)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError([FAULT]), 78),
        (ExtraMissing("x"), 78),
        (NotAllowed("x"), 77),
        (Refused("unauthenticated", "x"), 77),
        (Refused("forbidden", "x"), 77),
        (StorageFailed("x"), 74),
        (Unreachable("x"), 69),
        (Refused("plugin_not_found", "x"), 1),
        (YoiError("x"), 1),
    ],
)
def test_exit_codes(error: YoiError, code: int) -> None:
    assert exit_code(error) == code
    assert facts(error)["exit_code"] == code


def test_a_refusal_says_what_to_do_next() -> None:
    assert "plugin list" in explain(Refused("plugin_not_found", "No such plugin."))
    assert "try again in 2.5 s" in explain(Refused("queue_full", "Full.", retry_after_s=2.5))


def test_every_fault_of_a_configuration_is_told() -> None:
    error = ConfigurationError([FAULT, FAULT])
    assert explain(error).count("yoi-daemon.toml:3: api.listen: a text") == 2
    assert facts(error)["faults"][1] == {
        "file": "yoi-daemon.toml",
        "line": 3,
        "key": "api.listen",
        "expected": "a text",
    }


def test_what_a_refusal_adds_is_told() -> None:
    refused = Refused("invalid_state", "Not taken.", faults=["a.py:1: x", "b.py:2: y"])
    assert explain(refused).splitlines() == [
        "invalid_state: Not taken.",
        "  a.py:1: x",
        "  b.py:2: y",
    ]
    refused = Refused("tool_failed", "ValueError: no", where="plugins/gen.py:3")
    assert explain(refused).splitlines()[1] == "  at plugins/gen.py:3"
    assert "plugin reload" in explain(refused)
