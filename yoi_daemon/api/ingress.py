"""The way in for events: the API's, and the webhooks'."""

from yoi_daemon.api.routing import Answer, Call, Route


async def post_ingress(call: Call) -> Answer:
    """Accepts any JSON for a service; 202 after the commit."""
    payload = await call.json_bytes()
    receipt = await call.daemon.plugins.admission.accept(
        call.daemon.plugins.service(call.params["plugin_id"]),
        call.params["ingress"],
        payload,
        key=call.headers.get("idempotency-key"),
    )
    return Answer(receipt, status=202)


async def post_hook(call: Call) -> Answer:
    """Accepts a webhook with the declared signature; 202 after the commit."""
    body = await call.body()
    service = call.daemon.plugins.service(call.params["plugin_id"])
    receipt = await call.daemon.plugins.admission.accept_hook(
        service, call.params["ingress"], body, call.headers
    )
    return Answer(receipt, status=202)


ROUTES = (
    Route("POST", "/api/plugins/<plugin_id>/ingress/<ingress>", "ingress:write", post_ingress),
    Route("POST", "/hooks/<plugin_id>/<ingress>", "signed", post_hook),
)
