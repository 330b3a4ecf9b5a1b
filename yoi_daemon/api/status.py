"""`/api/status`: the daemon on one page."""

from yoi_daemon.api.routing import Answer, Call, Route
from yoi_daemon.daemon.status import DaemonStatus


async def status(call: Call) -> Answer:
    """See `DaemonStatus`."""
    return Answer(call.daemon.status())


ROUTES = (Route("GET", "/api/status", "status:read", status, gives=DaemonStatus),)
