"""`/metrics`: for Prometheus."""

from prometheus_client.exposition import choose_encoder

from yoi_daemon.api.routing import Request, Route, Text


async def metrics(request: Request) -> Text:
    """Show the metrics in Prometheus' text format."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Text(encode(request.daemon.metrics), content_type)


ROUTES = (Route("GET", "/metrics", "status:read", metrics, gives=Text),)
