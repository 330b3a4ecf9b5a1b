"""`errors`: every code with its status and sentence."""

from collections.abc import Mapping

from scripts.reference.text import sentence, table
from yoi_daemon.model.errors import CODES, CodeInfo


def render(codes: Mapping[str, CodeInfo] = CODES) -> str:
    rows = [
        (
            f"`{code}`",
            str(info.status),
            "yes" if info.retryable else "no",
            sentence(info.meaning, code),
        )
        for code, info in sorted(codes.items(), key=lambda item: (item[1].status, item[0]))
    ]
    return table(("code", "status", "retry", "meaning"), rows)
