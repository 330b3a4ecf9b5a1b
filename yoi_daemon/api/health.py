"""`/healthz` and `/readyz`: yes or no, with codes, and nothing else to strangers."""

from yoi_daemon.api.routing import Answer, Request, Route
from yoi_daemon.api.shapes import Alive, Readiness


async def healthz(request: Request) -> Answer:
    """Answer while the process runs."""
    return Answer({"ok": True})


async def readyz(request: Request) -> Answer:
    """Tell whether the daemon serves as configured; answer 503 with codes where it does not."""
    # Which plugin it is, is for those with a token.
    codes = sorted({code.partition(":")[0] for code in request.daemon.not_ready()})
    return Answer({"ready": not codes, "codes": codes}, status=503 if codes else 200)


ROUTES = (
    Route("GET", "/healthz", "public", healthz, gives=Alive),
    Route("GET", "/readyz", "public", readyz, gives=Readiness, other_status=503),
)
