"""`/metrics`: for Prometheus."""

from prometheus_client.exposition import choose_encoder

from yoi_daemon.api.routing import Call, Route, Text


async def metrics(call: Call) -> Text:
    """Everything that is counted, as Prometheus reads it."""
    encode, content_type = choose_encoder(call.headers.get("accept", ""))
    return Text(encode(call.daemon.metrics), content_type)


ROUTES = (Route("GET", "/metrics", "status:read", metrics, gives=Text),)
