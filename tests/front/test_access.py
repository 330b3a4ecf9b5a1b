import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoi_daemon.front.access import (
    ALL_SCOPES,
    Names,
    Principal,
    Tokens,
    names_of,
    refuse_token_in_query,
)
from yoi_daemon.model.addresses import TcpAddress, UnixAddress
from yoi_daemon.model.errors import Refused

TOKEN = "yoi_0123456789"


@pytest.mark.parametrize("header", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER  {TOKEN} "])
def test_the_admins_token_may_everything(header):
    principal = Tokens(TOKEN).authenticate(header)
    assert principal == Principal("admin", ALL_SCOPES)
    for scope in ALL_SCOPES:
        principal.require(scope)


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}",
     f"Bearer {TOKEN.upper()}", "Bearer \udc80", f"Bearer{TOKEN}"],
)  # fmt: skip
def test_anything_else_is_refused(header):
    with pytest.raises(Refused) as caught:
        Tokens(TOKEN).authenticate(header)
    assert caught.value.code == "unauthenticated"
    assert TOKEN not in str(caught.value)


@given(st.text(max_size=30))
def test_no_other_text_is_the_token(text):
    with pytest.raises(Refused):
        Tokens(TOKEN).authenticate(f"Bearer {text}")


def test_a_scope_that_is_lacking_is_named():
    principal = Principal("tok_1", frozenset({"events:read"}))
    principal.require("events:read")
    with pytest.raises(Refused, match="workers:command") as caught:
        principal.require("workers:command")
    assert caught.value.code == "forbidden"


LISTENER = [TcpAddress("127.0.0.1", 7420), TcpAddress("::1", 7421)]


def names(hosts=(), origins=(), addresses=LISTENER) -> Names:
    return names_of(addresses, hosts, origins)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:7420", "localhost:7420", "LocalHost:7420", "[::1]:7421", "localhost:7421",
     "daemon.example", "daemon.example:7420", "other.example:9999"],
)  # fmt: skip
def test_names_that_are_served(host):
    names(["Daemon.example", "other.example:9999"]).check(host, None, None)


@pytest.mark.parametrize(
    "host",
    [None, "", "evil.example", "evil.example:7420", "127.0.0.1", "127.0.0.1:7422", "localhost",
     "127.0.0.1:7420.evil.example", "other.example:7420", "daemon.example:1"],
)  # fmt: skip
def test_names_that_are_not(host):
    with pytest.raises(Refused) as caught:
        names(["daemon.example", "other.example:9999"]).check(host, None, None)
    assert caught.value.code == "host_not_allowed"


def test_on_port_80_clients_leave_the_port_out():
    listener = names(addresses=[TcpAddress("127.0.0.1", 80), TcpAddress("::1", 80)])
    for host in ("127.0.0.1", "localhost", "[::1]", "localhost:80"):
        listener.check(host, None, None)
    with pytest.raises(Refused):
        listener.check("evil.example", None, None)


@pytest.mark.parametrize("host", ["[::1]", "[::1]:99999", "a:b:c", "host:99999", "host:"])
def test_a_strange_configured_name_harms_nobody(host):
    names([host]).check("127.0.0.1:7420", None, None)


def test_over_a_unix_socket_the_name_tells_nothing():
    names(addresses=[UnixAddress("/run/x")]).check("localhost", None, None)


@pytest.mark.parametrize(
    ("origin", "site", "allowed"),
    [
        (None, None, True),
        (None, "none", True),
        (None, "same-origin", True),
        (None, "same-site", False),
        (None, "cross-site", False),
        ("https://app.example", "cross-site", True),
        ("https://app.example", None, True),
        ("https://evil.example", None, False),
        ("http://app.example", None, False),
        ("https://app.example:444", None, False),
        ("http://127.0.0.1:7420", "same-origin", False),
        ("null", None, False),
        ("", None, False),
    ],
)
def test_which_pages_may_ask(origin, site, allowed):
    listener = names(origins=["https://app.example"])
    if allowed:
        listener.check("127.0.0.1:7420", origin, site)
        return
    with pytest.raises(Refused) as caught:
        listener.check("127.0.0.1:7420", origin, site)
    assert caught.value.code == "origin_not_allowed"


@pytest.mark.parametrize("query", ["token=x", "a=b&TOKEN=", "access_token=x", "%74oken=x"])
def test_a_token_in_the_query_is_refused(query):
    with pytest.raises(Refused, match="invalid_request"):
        refuse_token_in_query(query)


def test_another_query_is_not():
    refuse_token_in_query("cursor=token&kinds=a")
