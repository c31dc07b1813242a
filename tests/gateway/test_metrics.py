"""What is counted, and that no stranger decides how much of it there is."""

from __future__ import annotations

import re
from random import Random
from string import ascii_lowercase, printable

import pytest
import trio
import trio.testing
from prometheus_client import Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from trio.testing import MockClock

from cxp2p.directory import Entry, Via
from cxp2p.errors import InsufficientCredit, JobFailed, NoNode
from cxp2p.net.memory import MemoryNetwork
from cxp2p.records import FailureCode, Piece, Service
from cxp2p.testing import make_identity, make_offer
from cxp2p_gateway.metrics import Metrics
from cxp2p_gateway.metrics.labels import MODELS_MAX, OTHER, SERVICES, ModelLabels, end_label
from cxp2p_gateway.metrics.network import NetworkCollector, NodeState, families, state_of
from cxp2p_gateway.metrics.serving import CONNECTIONS_MAX, REQUEST_S, MetricsServer
from doors import CHAT, KEY, MemoryDoor, ask, chat_body, fails, front, hangs, outcome_of, says
from gates import CALLER, gateway
from pages import page
from worlds import ScriptedEngine, chat_job

Sample = tuple[str, frozenset[tuple[str, str]]]


def samples(metrics: Metrics) -> dict[Sample, float]:
    """What a scrape shows, but for what the process itself and its clock add."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(metrics.registry).decode())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics).get((name, frozenset(labels.items())), 0.0)


# Requests.


async def test_requests_are_counted_by_route_and_status(autojump_clock: MockClock) -> None:
    """Each base's path is the same route; a path with a name in it is one route, and so are all unknown paths."""
    metrics = Metrics()
    app = front(MemoryDoor(), metrics=metrics)
    await ask(app, "POST", "/api/v1/chat/completions", body=chat_body())
    await ask(app, "POST", "/v1/chat/completions", body=chat_body(stream=True))
    await ask(app, "POST", CHAT, body=chat_body(), key="sk-cx-wrong")
    for name in ("one", "two", "org/three"):
        await ask(app, "GET", f"/v1/models/{name}")
    for path in ("/", "/v1/nothing", "/admin.php"):
        await ask(app, "GET", path)
    await ask(app, "GET", "/health")

    def requests(route: str, method: str, service: str, status: int) -> float:
        labels = {"route": route, "method": method, "service": service, "status": str(status)}
        return value(metrics, "cxp2p_http_requests_total", **labels)

    assert requests("/chat/completions", "POST", "chat", 200) == 2
    assert requests("/chat/completions", "POST", "chat", 401) == 1
    assert requests("/models/{model}", "GET", "none", 404) == 3
    assert requests(OTHER, "GET", "none", 404) == 3
    assert requests("/health", "GET", "none", 200) == 1
    assert value(metrics, "cxp2p_http_errors_total", code="invalid_api_key") == 1


def test_each_service_is_known_by_its_routes() -> None:
    """A route that is given a service is one, and every service has one."""
    paths = {route.path for route in front(MemoryDoor()).routes}
    assert {f"/api/v1{route}" for route in SERVICES if not route.startswith("/dashboard/")} <= paths
    assert set(SERVICES.values()) == {service.value for service in Service}


async def test_requests_are_timed(autojump_clock: MockClock) -> None:
    """The status line waits for the first piece, the end for the last."""
    metrics = Metrics()
    app = front(MemoryDoor(work=says("a", "b", "c", pause_s=2)), metrics=metrics)
    await ask(app, "POST", CHAT, body=chat_body(stream=True), headers={"X-Stainless-Retry-Count": "1"})

    assert value(metrics, "cxp2p_http_answer_seconds_sum", route="/chat/completions") == pytest.approx(2)
    assert value(metrics, "cxp2p_http_request_seconds_sum", route="/chat/completions") == pytest.approx(6)
    assert value(metrics, "cxp2p_http_retries_total") == 1


async def test_who_leaves_is_a_status_of_its_own(autojump_clock: MockClock) -> None:
    """A client that is gone before its answer counts as 499."""
    metrics = Metrics()
    app = front(MemoryDoor(work=hangs), metrics=metrics)
    await ask(app, "POST", CHAT, body=chat_body(), leave_after_s=1)

    labels = {"route": "/chat/completions", "method": "POST", "service": "chat", "status": "499"}
    assert value(metrics, "cxp2p_http_requests_total", **labels) == 1


async def test_strangers_cannot_make_series(autojump_clock: MockClock) -> None:
    """Whatever stands in a request, the second hundred of them adds no series."""
    metrics = Metrics()
    app = front(MemoryDoor(work=fails(NoNode("x"))), metrics=metrics)
    rng = Random(5)

    async def nonsense() -> None:
        word = "".join(rng.choices(ascii_lowercase, k=8))
        path = rng.choice([f"/{word}", f"/v1/models/{word}", f"/v1/receipts/{word}", CHAT])
        method = rng.choice(["GET", "POST", "OPTIONS", word.upper()])
        headers = {"X-Title": word, "User-Agent": word, "X-Stainless-Retry-Count": word}
        key = rng.choice([KEY, word])
        await ask(app, method, path, body=chat_body(model=word), headers=headers, key=key)

    for _ in range(400):
        await nonsense()
    before = samples(metrics).keys()
    for _ in range(400):
        await nonsense()

    assert samples(metrics).keys() == before
    assert len(before) < 600


async def test_no_key_and_no_prompt_is_told(autojump_clock: MockClock) -> None:
    """What Prometheus keeps for years has nothing of a request in it."""
    metrics = Metrics()
    app = front(MemoryDoor(), metrics=metrics)
    secret = "sk-cx-abcd2345-secret"
    body = chat_body(messages=[{"role": "user", "content": "hush hush"}], user="somebody")
    await ask(app, "POST", CHAT, body=body)
    await ask(app, "GET", f"/v1/models/{secret}", headers={"X-Title": secret, "User-Agent": secret}, key=secret)

    text = (await metrics.text()).decode()
    assert not any(word in text for word in (KEY, secret, "abcd2345", "hush", "somebody", "account-1", "key-1"))


async def test_all_is_told_in_parts(autojump_clock: MockClock) -> None:
    """The parts together are what the registry says, and others get their turn between them."""
    metrics = Metrics()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        told = await metrics.text()
        nursery.cancel_scope.cancel()

    def named(text: bytes) -> list[bytes]:
        return [line.partition(b" ")[0] if line[:1] != b"#" else line for line in text.splitlines()]

    assert named(told) == named(generate_latest(metrics.registry))
    assert turns > 10


# Models.


def test_a_models_name_is_a_label_once_it_was_served() -> None:
    """The catalogue's always are; others if a node answered, and there is room."""
    labels = ModelLabels(["smollm2:135m"], models_max=2)

    assert labels.label("smollm2:135m", served=False) == "smollm2:135m"
    assert labels.label("mine", served=False) == OTHER
    assert labels.label("mine", served=True) == "mine"
    assert labels.label("mine", served=False) == "mine"
    assert labels.label("yours", served=True) == "yours"
    assert labels.label("third", served=True) == OTHER
    assert labels.label("smollm2:135m", served=True) == "smollm2:135m"


def test_models_are_bounded() -> None:
    """However many are served, as many labels as the limit says, and one for the others."""
    labels, rng = ModelLabels(["known"]), Random(1)
    seen = {labels.label("".join(rng.choices(printable, k=20)), served=True) for _ in range(10 * MODELS_MAX)}

    assert len(seen) == MODELS_MAX + 1
    assert OTHER in seen


def test_ends_are_named_by_kind() -> None:
    """An error's words are a stranger's; its kind is ours."""
    assert end_label(JobFailed(FailureCode.ENGINE_DIED, "words of a stranger")) == "failed"
    assert end_label(NoNode("x")) == "no_node"
    assert end_label(InsufficientCredit("x")) == "insufficient_credit"


# Asks and money, with real nodes.


async def test_an_ask_is_timed_and_paid(autojump_clock: MockClock) -> None:
    """First piece, gaps, units, spend and commits of one job."""
    async with gateway() as (here, gate):
        await here.node(ScriptedEngine(pause_s=0.5))
        await gate.live(1)
        await gate.ask("one two three")
        await gate.ask("one two three")
        metrics = gate.metrics

        assert value(metrics, "cxp2p_asks_total", service="chat", model="echo", end="done") == 2
        assert value(metrics, "cxp2p_first_piece_seconds_count", service="chat", model="echo") == 2
        assert value(metrics, "cxp2p_first_piece_seconds_sum", service="chat", model="echo") == pytest.approx(
            1, abs=0.2
        )
        assert value(metrics, "cxp2p_piece_gap_seconds_count", service="chat", model="echo") == 4
        assert value(metrics, "cxp2p_piece_gap_seconds_sum", service="chat", model="echo") == pytest.approx(2, abs=0.2)
        assert value(metrics, "cxp2p_units_total", service="chat", model="echo", direction="out") == 6
        assert value(metrics, "cxp2p_spend_microcredits_total", service="chat") == 18
        assert value(metrics, "cxp2p_ledger_commit_seconds_count", change="reserve") == 2
        assert value(metrics, "cxp2p_ledger_commit_seconds_count", change="post") == 2
        assert value(metrics, "cxp2p_node_queue_seconds_count", service="chat") == 2
        assert value(metrics, "cxp2p_failovers_total", service="chat") == 0
        assert value(metrics, "cxp2p_holds_open") == 0


async def test_a_hold_is_open_while_its_job_runs(autojump_clock: MockClock) -> None:
    """A caller that leaves is an end of its own, and what it got is spent."""
    async with gateway() as (here, gate):
        await here.node(ScriptedEngine(pause_s=1))
        await gate.live(1)
        open_then: list[float] = []

        async def look(piece: Piece) -> None:
            await trio.lowlevel.checkpoint()
            open_then.append(value(gate.metrics, "cxp2p_holds_open"))

        with trio.move_on_after(2.5):
            await gate.dispatch.run(CALLER, "chatcmpl-1", chat_job("one two three four"), look, deadline_s=60)

        assert open_then == [1, 1]
        assert value(gate.metrics, "cxp2p_holds_open") == 0
        assert value(gate.metrics, "cxp2p_asks_total", service="chat", model="echo", end="left") == 1
        assert value(gate.metrics, "cxp2p_spend_microcredits_total", service="chat") > 0


async def test_what_fails_over_is_counted(autojump_clock: MockClock) -> None:
    """Each node that was tried in vain before one did a job."""
    metrics = Metrics()
    with metrics.asks.ask(Service.EMBED, "all-minilm") as asked:
        asked.done((outcome_of(), outcome_of()))  # with two attempts each

    assert value(metrics, "cxp2p_failovers_total", service="embed") == 2
    assert value(metrics, "cxp2p_node_queue_seconds_count", service="embed") == 2
    assert value(metrics, "cxp2p_asks_total", service="embed", model="all-minilm-l6-v2", end="done") == 1


async def test_a_hold_that_fails_is_given_back(autojump_clock: MockClock) -> None:
    """A node that dies before its first piece: its hold is open no longer, and nothing is spent."""
    async with gateway() as (here, gate):
        await here.node(ScriptedEngine(fail_at=0))
        await gate.live(1)
        with pytest.raises(JobFailed):
            await gate.ask()

        assert value(gate.metrics, "cxp2p_asks_total", service="chat", model=OTHER, end="failed") == 1
        assert value(gate.metrics, "cxp2p_ledger_commit_seconds_count", change="reserve") >= 1
        assert value(gate.metrics, "cxp2p_holds_open") == 0
        assert value(gate.metrics, "cxp2p_spend_microcredits_total", service="chat") == 0


async def test_an_unknown_model_is_no_label(autojump_clock: MockClock) -> None:
    """What only a client has said is counted as `other`."""
    async with gateway() as (here, gate):
        await here.node(ScriptedEngine())
        await gate.live(1)
        with pytest.raises(NoNode):
            await gate.ask(model="sk-cx-abcd2345-secret")

        assert value(gate.metrics, "cxp2p_asks_total", service="chat", model=OTHER, end="no_node") == 1
        assert b"secret" not in await gate.metrics.text()


def test_the_documentation_lists_all() -> None:
    """docs/operating.md has each metric with its labels, and no other."""
    metrics = Metrics()
    metrics.watch("cxp2p_http_requests_running", "", lambda: 0)
    metrics.watch("cxp2p_jobs_running", "", lambda: 0)
    ours = {family.name for family in metrics.registry.collect() if family.name.startswith("cxp2p_")}
    ours |= {family.name for family in families()}
    rows = page("docs/operating.md").table("metric", "labels", "what")
    listed = {name.removesuffix("_total"): re.findall(r"\w+", labels) for name, labels, _ in rows if name[:1] == "c"}

    assert listed.keys() == ours
    for meter in (metrics.requests, metrics.asks, metrics.money):
        for made in vars(meter).values():
            if isinstance(made, (Counter, Gauge, Histogram)):
                assert listed[next(iter(made.describe())).name] == list(made._labelnames)


# The network.


def test_each_node_is_in_one_state() -> None:
    """The first that fits: drains, failed, is not listened to, is full, is live."""
    offer = make_offer(make_identity(1), 1)

    def entry(**changes: float) -> Entry:
        made = Entry(offer, b"", Via.DHT, 0, alive_until=100.0)
        for name, at in changes.items():
            setattr(made, name, at)
        return made

    assert state_of(entry(), 50) is NodeState.LIVE
    assert state_of(entry(), 101) is NodeState.RESTING
    assert state_of(entry(busy_until=60.0), 50) is NodeState.FULL
    assert state_of(entry(busy_until=60.0, suspended_until=60.0), 50) is NodeState.SUSPENDED
    drains = Entry(make_offer(make_identity(1), 1, draining=True), b"", Via.DHT, 0, alive_until=100.0)
    assert state_of(drains, 50) is NodeState.DRAINING


async def test_nodes_are_counted_by_state(autojump_clock: MockClock) -> None:
    """A node that died is live no longer, once its beats are missed."""
    async with gateway() as (here, gate):
        nodes = [await here.node(ScriptedEngine()) for _ in range(2)]
        await gate.live(2)
        gate.metrics.registry.register(NetworkCollector(gate.net, here.wall_ms, trio.current_time))

        assert value(gate.metrics, "cxp2p_nodes", state="live") == 2
        assert value(gate.metrics, "cxp2p_nodes_offering", service="chat") == 2
        assert value(gate.metrics, "cxp2p_peers_connected") >= 2
        network = nodes[0].network
        assert isinstance(network, MemoryNetwork)
        network.hang()
        await trio.sleep(10)
        assert value(gate.metrics, "cxp2p_nodes", state="live") == 1
        assert value(gate.metrics, "cxp2p_nodes_offering", service="chat") == 1


# Over HTTP.


async def up() -> bytes:
    await trio.lowlevel.checkpoint()
    return b"up 1\n"


async def scrape(server: MetricsServer, said: bytes, nursery: trio.Nursery) -> bytes:
    """The whole answer to these bytes."""
    ours, theirs = trio.testing.memory_stream_pair()
    nursery.start_soon(server.serve, theirs)
    await ours.send_all(said)
    answer = b""
    while part := await ours.receive_some():
        answer += part
    await ours.aclose()
    return answer


@pytest.mark.parametrize(
    ("said", "status", "body"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200 OK", b"up 1\n"),
        (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", b"200 OK", b"up 1\n"),
        (b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n", b"200 OK", b""),
        (b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx", b"405 Method Not Allowed", b""),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"404 Not Found", b""),
        (b"nonsense\r\n\r\n", b"400 Bad Request", b""),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000, b"431 Request Header Fields Too Large", b""),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n", b"408 Request Timeout", b""),
    ],
)
async def test_metrics_are_read_by_get_only(said: bytes, status: bytes, body: bytes, autojump_clock: MockClock) -> None:
    """One path, two methods; whatever else comes is told what it is, and no web page may read it."""
    async with trio.open_nursery() as nursery:
        answer = await scrape(MetricsServer(up), said, nursery)
    head, _, told = answer.partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 " + status + b"\r\n")
    assert told == body
    assert b"access-control" not in head.lower()


async def test_slow_scrapers_do_not_pile_up(autojump_clock: MockClock) -> None:
    """So many at once; those beyond are closed, and those that say nothing end by themselves."""
    server = MetricsServer(up)
    async with trio.open_nursery() as nursery:
        silent = []
        for _ in range(CONNECTIONS_MAX):
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(server.serve, theirs)
            silent.append(ours)
        await trio.sleep(1)
        assert await scrape(server, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", nursery) == b""
        await trio.sleep(2 * REQUEST_S)
        answer = await scrape(server, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", nursery)
        assert answer.startswith(b"HTTP/1.1 200 OK")
