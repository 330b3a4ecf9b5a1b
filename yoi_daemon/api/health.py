"""`/healthz` and `/readyz`: yes or no, with codes, and nothing else to strangers."""

from yoi_daemon.api.routing import Answer, Call, Route
from yoi_daemon.api.shapes import Alive, Readiness


async def healthz(call: Call) -> Answer:
    """The process answers."""
    return Answer({"ok": True})


async def readyz(call: Call) -> Answer:
    """Whether it serves as configured; 503 with codes where not."""
    # Which plugin it is, is for those with a token.
    codes = sorted({code.partition(":")[0] for code in call.daemon.not_ready()})
    return Answer({"ready": not codes, "codes": codes}, status=503 if codes else 200)


ROUTES = (
    Route("GET", "/healthz", "public", healthz, gives=Alive),
    Route("GET", "/readyz", "public", readyz, gives=Readiness, other_status=503),
)
