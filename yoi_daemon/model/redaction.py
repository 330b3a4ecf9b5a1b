"""Redacts secrets in text: the safety net under `Secret`, for output of authors and libraries."""

import json
import re
import urllib.parse

REDACTED = "[redacted]"
MIN_SECRET_CHARS = 6
"""A shorter value would match ordinary words, and protects nothing."""
MAX_SECRETS = 256
"""The latest are kept: a secret that a reload replaced may still be valid elsewhere."""

# By their form, because only their hashes are known: tokens are 32 random bytes in URL-safe base64.
_TOKEN = r"yoi_(?!plugin_)[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])"
_AUTHORIZATION = r"(?i:(?<=\bbearer )|(?<=\bbasic ))[A-Za-z0-9._~+/=-]{8,}"


class Redaction:
    """Redacts tokens, and each added value in the forms in which it is written."""

    def __init__(self) -> None:
        self._forms: dict[str, tuple[str, ...]] = {}
        self._pattern: re.Pattern[str] | None = None

    def add(self, value: str) -> None:
        """Redacts `value` from now on, unless it is shorter than `MIN_SECRET_CHARS`."""
        if len(value) < MIN_SECRET_CHARS or value in self._forms:
            return
        self._forms[value] = _forms(value)
        if len(self._forms) > MAX_SECRETS:
            del self._forms[next(iter(self._forms))]
        self._pattern = None

    def apply(self, text: str) -> str:
        """Returns `text` with every secret as `[redacted]`."""
        pattern = self._pattern
        if pattern is None:
            pattern = self._pattern = self._compile()
        return pattern.sub(REDACTED, text)

    def _compile(self) -> re.Pattern[str]:
        known = {re.escape(form) for forms in list(self._forms.values()) for form in forms}
        # The longest first: one secret may begin like another.
        longest_first = sorted(known, key=len, reverse=True)
        return re.compile("|".join([*longest_first, _TOKEN, _AUTHORIZATION]))


def _forms(value: str) -> tuple[str, ...]:
    """Returns the value as is, in JSON, as Python's repr, and in URLs; and each line, for keys."""
    lines = [line.strip() for line in value.splitlines()]
    forms = [value, *(line for line in lines if len(line) >= MIN_SECRET_CHARS)]
    for text in (value, value.strip()):
        forms += [
            text,
            json.dumps(text)[1:-1],
            json.dumps(text, ensure_ascii=False)[1:-1],
            repr(text)[1:-1],
            urllib.parse.quote(text),
            urllib.parse.quote(text, safe=""),
            urllib.parse.quote_plus(text),
        ]
    return tuple(dict.fromkeys(form for form in forms if len(form) >= MIN_SECRET_CHARS))
