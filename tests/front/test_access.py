"""The names a listener is called by, and the pages that may ask it."""

import pytest

from yoi_daemon.front.access import Names, joined, names_of, refuse_token_in_query
from yoi_daemon.front.principal import make_secret
from yoi_daemon.model.addresses import TcpAddress, UnixAddress
from yoi_daemon.model.errors import Refused

SECRET = make_secret()
LISTENER = [TcpAddress("127.0.0.1", 7420), TcpAddress("::1", 7421)]


def headers_of(host=None, origin=None, site=None) -> dict[str, str]:
    given = {"host": host, "origin": origin, "sec-fetch-site": site}
    return {name: value for name, value in given.items() if value is not None}


def names(hosts=(), origins=(), addresses=LISTENER) -> Names:
    return names_of(addresses, hosts, origins)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:7420", "localhost:7420", "LocalHost:7420", "[::1]:7421", "localhost:7421",
     "daemon.example", "daemon.example:7420", "other.example:9999"],
)  # fmt: skip
def test_names_that_are_served(host):
    names(["Daemon.example", "other.example:9999"]).check(headers_of(host))


@pytest.mark.parametrize(
    "host",
    [None, "", "evil.example", "evil.example:7420", "127.0.0.1", "127.0.0.1:7422", "localhost",
     "127.0.0.1:7420.evil.example", "other.example:7420", "daemon.example:1"],
)  # fmt: skip
def test_names_that_are_not(host):
    with pytest.raises(Refused) as caught:
        names(["daemon.example", "other.example:9999"]).check(headers_of(host))
    assert caught.value.code == "host_not_allowed"


def test_on_port_80_clients_leave_the_port_out():
    listener = names(addresses=[TcpAddress("127.0.0.1", 80), TcpAddress("::1", 80)])
    for host in ("127.0.0.1", "localhost", "[::1]", "localhost:80"):
        listener.check(headers_of(host))
    with pytest.raises(Refused):
        listener.check(headers_of("evil.example"))


@pytest.mark.parametrize("host", ["[::1]", "[::1]:99999", "a:b:c", "host:99999", "host:"])
def test_a_strange_configured_name_harms_nobody(host):
    names([host]).check(headers_of("127.0.0.1:7420"))


def test_over_a_unix_socket_the_name_tells_nothing():
    names(addresses=[UnixAddress("/run/x")]).check(headers_of("localhost"))


@pytest.mark.parametrize(
    ("origin", "site", "allowed"),
    [
        (None, None, True),
        (None, "none", True),
        (None, "same-origin", True),
        (None, "same-site", False),
        (None, "cross-site", False),
        (None, "of-tomorrow", False),
        (None, "none, none", False),
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
        listener.check(headers_of("127.0.0.1:7420", origin, site))
        return
    with pytest.raises(Refused) as caught:
        listener.check(headers_of("127.0.0.1:7420", origin, site))
    assert caught.value.code == "origin_not_allowed"


@pytest.mark.parametrize("twice", ["host", "origin", "sec-fetch-site"])
def test_a_header_given_twice_fits_nothing(twice):
    listener = names(origins=["https://app.example"])
    once = headers_of("127.0.0.1:7420", "https://app.example", "cross-site")
    if twice == "sec-fetch-site":
        once = headers_of("127.0.0.1:7420", site="none")
    listener.check(joined(once.items()))
    with pytest.raises(Refused):
        listener.check(joined([*once.items(), (twice, once[twice])]))


@pytest.mark.parametrize(
    "query",
    [
        "token=x",
        "a=b&TOKEN=",
        "access_token=x",
        "%74oken=x",
        f"cursor={SECRET}",
        f"a=1;b={SECRET}",
        SECRET.replace("y", "%79", 1),
    ],
)
def test_a_token_in_the_query_is_refused(query):
    with pytest.raises(Refused, match="invalid_request"):
        refuse_token_in_query(query)


def test_another_query_is_not():
    refuse_token_in_query("cursor=token&kinds=a&after=yoi_daemon")
