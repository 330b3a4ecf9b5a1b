import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yoi_daemon.model.errors import Refused
from yoi_daemon.plugins.signatures import delivery_key, handed_headers, verify_signature
from yoi_daemon.sdk import Config, Secret

BODY = b'{"ref": "refs/heads/main"}'


class One(Config):
    secret: Secret


class Several(Config):
    secret: list[Secret]


def signed(secret: str, body: bytes = BODY) -> dict[str, str]:
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"x-hub-signature-256": f"sha256={digest}"}


def test_githubs_own_example():
    """From GitHub's page on validating webhook deliveries."""
    headers = {
        "x-hub-signature-256": (
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        )
    }
    verify_signature("github", One(Secret("It's a Secret to Everybody")), headers, b"Hello, World!")


def test_any_of_several_secrets_will_do():
    config = Several([Secret("old"), Secret("new")])
    for secret in ("old", "new"):
        verify_signature("github", config, signed(secret), BODY)
    with pytest.raises(Refused):
        verify_signature("github", config, signed("other"), BODY)
    with pytest.raises(Refused):
        verify_signature("github", Several([]), signed(""), BODY)


@given(st.binary(max_size=40), st.integers(0, 300))
def test_any_altered_byte_is_refused(body, place):
    headers = signed("secret", body)
    verify_signature("github", One(Secret("secret")), headers, body)
    altered = bytearray(body + b"!")
    altered[place % len(altered)] ^= 1 + place % 255
    if bytes(altered) != body:
        with pytest.raises(Refused):
            verify_signature("github", One(Secret("secret")), headers, bytes(altered))


GOOD = signed("secret")["x-hub-signature-256"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-hub-signature-256": ""},
        {"x-hub-signature-256": GOOD.removeprefix("sha256=")},
        {"x-hub-signature-256": GOOD.upper()},
        {"x-hub-signature-256": GOOD[:-1]},
        {"x-hub-signature-256": GOOD + "0"},
        {"x-hub-signature-256": "sha256=é\udcff"},
        {"x-hub-signature": GOOD},
        {"x-hub-signature-256": f"{GOOD}, {GOOD}"},
    ],
)
def test_whatever_is_wrong_is_refused_in_the_same_words(headers):
    verify_signature("github", One(Secret("secret")), {"x-hub-signature-256": GOOD}, BODY)
    with pytest.raises(Refused) as caught:
        verify_signature("github", One(Secret("secret")), headers, BODY)
    assert caught.value.code == "unauthenticated"
    assert caught.value.detail.startswith("the github signature is missing or wrong")
    assert GOOD not in str(caught.value)


def test_what_is_handed_on():
    headers = {"x-github-delivery": "72d3162e", "x-github-event": "push"}
    assert delivery_key("github", headers) == "72d3162e"
    assert delivery_key("github", {}) is None
    assert set(handed_headers("github")) == set(headers)
