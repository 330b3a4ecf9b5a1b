"""Who sent a webhook: the signature schemes a plugin may declare. The host checks, never the author."""

import hashlib
import hmac
from collections.abc import Mapping
from typing import cast

from yoi_daemon.model.errors import Refused
from yoi_daemon.model.manifest import Verify
from yoi_daemon.sdk.config import Config, Secret

GITHUB_SIGNATURE = "x-hub-signature-256"
GITHUB_DELIVERY = "x-github-delivery"
GITHUB_HEADERS = ("x-github-event", GITHUB_DELIVERY)


def verify_signature(
    verify: Verify, config: Config, headers: Mapping[str, str], body: bytes
) -> None:
    """Checks `body` against the Settings field `secret`; any of several secrets will do.

    `headers` are in lower case. Raises `Refused` (`unauthenticated`), in the same words whatever was wrong.
    """
    match verify:
        case "github":
            given = headers.get(GITHUB_SIGNATURE, "")
    valid = False
    for secret in _secrets(config):
        digest = hmac.new(secret.reveal().encode(), body, hashlib.sha256).hexdigest()
        # Every secret is tried, in constant time, so that timing tells nothing.
        valid |= hmac.compare_digest(f"sha256={digest}".encode(), given.encode("utf-8", "replace"))
    if not valid:
        raise Refused(
            "unauthenticated",
            f"the {verify} signature is missing or wrong; sign the exact body with the shared secret",
        )


def delivery_key(verify: Verify, headers: Mapping[str, str]) -> str | None:
    """Returns the sender's own id of this delivery: a repeated one is the same event."""
    match verify:
        case "github":
            return headers.get(GITHUB_DELIVERY)


def handed_headers(verify: Verify) -> tuple[str, ...]:
    """Returns the headers a handler gets without naming them."""
    match verify:
        case "github":
            return GITHUB_HEADERS


def _secrets(config: Config) -> list[Secret]:
    # Loading has seen to it that the field is one of the two.
    secret = cast("Secret | list[Secret]", getattr(config, "secret", []))
    return [secret] if isinstance(secret, Secret) else secret
