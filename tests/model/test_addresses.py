import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoi_daemon.model.addresses import TcpAddress, UnixAddress, parse_listen, url


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7420", TcpAddress("127.0.0.1", 7420)),
        ("[::1]:7420", TcpAddress("::1", 7420)),
        ("localhost:0", TcpAddress("localhost", 0)),
        (":0", TcpAddress("127.0.0.1", 0)),
        (":65535", TcpAddress("127.0.0.1", 65535)),
        ("unix:/run/x.sock", UnixAddress("/run/x.sock")),
        ("unix:rel/x:y.sock", UnixAddress("rel/x:y.sock")),
    ],
)
def test_an_address_is_read(text: str, address: TcpAddress | UnixAddress) -> None:
    assert parse_listen(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "", "7420", "127.0.0.1", "127.0.0.1:", ":65536", ":-1", ":+1", ":७", ":99999999999999999999",
        "::1:7420", "[::1]", "[127.0.0.1]:1", "[::1:7420", "http://127.0.0.1:7420", "a b:1",
        "u@h:1", "unix:", "unix:a\0b",
    ],
)  # fmt: skip
def test_an_invalid_address_is_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT"):
        parse_listen(text)


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = parse_listen(text)
    except ValueError:
        return
    assert parse_listen(str(address)) == address


def test_urls() -> None:
    assert url(TcpAddress("127.0.0.1", 7420), "http") == "http://127.0.0.1:7420"
    assert url(TcpAddress("::1", 7421), "ws") == "ws://[::1]:7421"
    assert url(UnixAddress("/run/x.sock"), "http") == "unix:/run/x.sock"
