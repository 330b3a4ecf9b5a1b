from prometheus_client.parser import text_string_to_metric_families


async def test_metrics_are_told_as_prometheus_reads_them(client):
    answer = await client("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert answer.headers["x-request-id"].startswith("req_")
    names = {family.name for family in text_string_to_metric_families(answer.body.decode())}
    assert {"yoi_ready", "yoi_log_window_events", "process_open_fds"} <= names


async def test_openmetrics_is_told_where_it_is_asked_for(client):
    answer = await client(
        "GET", "/metrics", accept="application/openmetrics-text;version=1.0.0,*/*;q=0.1"
    )
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.body.endswith(b"# EOF\n")


async def test_metrics_need_a_token(client):
    assert (await client("GET", "/metrics", token=None)).status == 401
