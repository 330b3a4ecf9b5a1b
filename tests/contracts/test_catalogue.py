"""The catalogue of kinds says what it means, and nothing is emitted that it does not have."""

import re
from pathlib import Path
from typing import get_args

import msgspec
import pytest

import yoi_daemon
from yoi_daemon.model.events import (
    CATALOGUE,
    MAX_EVENT_BYTES,
    AttemptOutcome,
    Data,
    IngressAttempt,
    matches_kind,
)
from yoi_daemon.model.ids import RESERVED_PLUGIN_IDS
from yoi_daemon.stream.protocol import read_query

PACKAGE = Path(yoi_daemon.__file__).parent
KIND = re.compile(r"[a-z]+(\.[a-z_]+)+")
LITERAL = re.compile(r'"((?:daemon|plugin|worker)\.[a-z_]+(?:\.[a-z_]+)*)"')


def kinds_of(shape: type[Data]) -> set[str]:
    """The kinds that have a sentence in a shape's docstring: a line each, `kind`: and what happened."""
    return set(re.findall(r"^\s*`([a-z_.]+)`: \S", shape.__doc__ or "", re.MULTILINE))


@pytest.mark.parametrize("shape", set(CATALOGUE.values()), ids=lambda shape: shape.__name__)
def test_a_shapes_docstring_names_exactly_its_kinds(shape):
    assert kinds_of(shape) == {kind for kind, of in CATALOGUE.items() if of is shape}


def test_every_shape_there_is_has_a_kind():
    assert set(Data.__subclasses__()) == set(CATALOGUE.values())


def test_every_outcome_of_an_attempt_has_a_kind():
    for outcome in get_args(AttemptOutcome):
        assert CATALOGUE[f"plugin.ingress.{outcome}"] is IngressAttempt


@pytest.mark.parametrize("kind", CATALOGUE)
def test_a_kind_can_be_asked_for_and_is_no_plugins(kind):
    assert KIND.fullmatch(kind)
    assert kind.partition(".")[0] in RESERVED_PLUGIN_IDS
    assert read_query(f"kinds={kind}").kinds == (kind,)
    # No kind is a prefix of another, or asking for one would give two.
    assert [other for other in CATALOGUE if matches_kind(other, kind)] == [kind]


@pytest.mark.parametrize("shape", set(CATALOGUE.values()), ids=lambda shape: shape.__name__)
def test_a_shape_is_json_and_a_number_carries_its_unit(shape):
    schema = msgspec.json.schema(shape)["$defs"][shape.__name__]
    for name, field in schema["properties"].items():
        if field.get("type") == "number":
            assert name.endswith(("_s", "_ms")), f"{shape.__name__}.{name}"


def test_every_kind_in_the_source_is_in_the_catalogue():
    emitted = {
        kind
        for file in PACKAGE.rglob("*.py")
        if file.relative_to(PACKAGE) != Path("model/events.py")
        if file.relative_to(PACKAGE).parts[0] in ("daemon", "plugins", "runtime", "api", "serve.py")
        for kind in LITERAL.findall(file.read_text(encoding="utf-8"))
    }
    assert len(emitted) >= 10
    assert emitted <= set(CATALOGUE)


def test_the_largest_event_is_as_promised():
    assert MAX_EVENT_BYTES == 256 * 1024
