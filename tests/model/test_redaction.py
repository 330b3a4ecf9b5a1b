import json
import urllib.parse

import pytest

from yoi_daemon.model.redaction import MAX_SECRETS, Redaction

SECRET = 'hunter2 "é/+&\\'
TOKEN = "yoi_" + "aB3-_" * 8 + "xyz"


@pytest.fixture
def redaction() -> Redaction:
    found = Redaction()
    found.add(SECRET)
    return found


@pytest.mark.parametrize(
    "write",
    [
        str,
        repr,
        json.dumps,
        lambda text: json.dumps(text, ensure_ascii=False),
        urllib.parse.quote,
        urllib.parse.quote_plus,
        lambda text: urllib.parse.quote(text, safe=""),
        lambda text: f"a{text}b{text}c",
        lambda text: json.dumps({"error": f"ValueError: {text}"}),
    ],
)
def test_a_secret_is_redacted_in_every_form(redaction, write):
    written = write(SECRET)
    assert "hunter2" in written
    told = redaction.apply(written)
    assert "hunter2" not in told
    assert "[redacted]" in told


def test_every_line_of_a_key_is_redacted(redaction):
    redaction.add("-----BEGIN KEY-----\nabcdefgh\nijklmnop\n-----END KEY-----")
    assert redaction.apply("read ijklmnop") == "read [redacted]"


def test_of_two_that_begin_alike_the_longer_goes_whole(redaction):
    redaction.add("correct horse")
    redaction.add("correct horse battery")
    assert redaction.apply("is correct horse battery!") == "is [redacted]!"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"token {TOKEN}!", "token [redacted]!"),
        (f"Authorization: Bearer {TOKEN}", "Authorization: Bearer [redacted]"),
        ("authorization: bearer abcdefghij", "authorization: bearer [redacted]"),
        ("Authorization: Basic dXNlcjpwYXNz", "Authorization: Basic [redacted]"),
        ("a bearer of news", "a bearer of news"),
        ("module yoi_plugin_github_watch__0123456789ab", "module yoi_plugin_github_watch__0123456789ab"),
        ("yoi_plugin_" + "a" * 22 + "__0123456789ab", "yoi_plugin_" + "a" * 22 + "__0123456789ab"),
        ("import yoi_daemon.daemon.logs", "import yoi_daemon.daemon.logs"),
        ("an ordinary line", "an ordinary line"),
    ],
)  # fmt: skip
def test_tokens_are_known_by_their_form(text, told):
    assert Redaction().apply(text) == told


def test_a_short_value_would_take_out_words_and_stays(redaction):
    redaction.add("error")
    assert redaction.apply("error: no") == "error: no"


def test_the_latest_are_kept():
    redaction = Redaction()
    for number in range(MAX_SECRETS + 1):
        redaction.add(f"value-{number}-end")
    assert redaction.apply("value-0-end") == "value-0-end"
    assert redaction.apply(f"value-{MAX_SECRETS}-end") == "[redacted]"
