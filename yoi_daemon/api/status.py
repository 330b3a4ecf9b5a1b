"""`/api/status`: the daemon on one page."""

from yoi_daemon.api.routing import Answer, Request, Route
from yoi_daemon.daemon.status import DaemonStatus


async def status(request: Request) -> Answer:
    """Show the daemon's health."""
    return Answer(request.daemon.status())


ROUTES = (Route("GET", "/api/status", "status:read", status, gives=DaemonStatus),)
