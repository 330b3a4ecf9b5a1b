import pytest

from yoi_daemon.model.public_text import public_text


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("No such file: '/home/me/a b/c.py'", "No such file: <path>"),
        ('"/x"', "<path>"),
        ("at /var/lib/yoi/x.db: locked", "at <path>: locked"),
        ("/etc/yoi/yoi-daemon.toml:3: a.b: expected", "<path>:3: a.b: expected"),
        ("GET https://user:pw@host/x?y failed", "GET <url> failed"),
        ("unix:///run/x.sock", "<url>"),
        ("two: /a/b, /c/d/", "two: <path>, <path>"),
    ],
)
def test_places_of_this_machine_are_left_out(text, public):
    assert public_text(text) == public


@pytest.mark.parametrize(
    "text",
    ["", "and/or", "1/2", "plugins/p.py:3", "a // b", "use /readyz", "n/a: 3 of 4", "5 km/h"],
)
def test_other_text_stays_as_it_is(text):
    assert public_text(text) == text


@pytest.mark.parametrize("text", ["a", "a://", "'/", "/a", "/", "a:"])
def test_a_long_text_is_handled_in_linear_time(text):
    """A square of its length would take this test hours."""
    public_text(text * 300_000)
