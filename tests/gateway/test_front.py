"""The HTTP front: who comes in, which path serves which method, the headers of every answer, CORS, the access log."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from trio.testing import MockClock

from cxp2p_gateway.http import BASES
from cxp2p_gateway.middleware import Admitted, Methods, bearer_token
from cxp2p_gateway.openapi.epochs import EPOCH_OPERATIONS
from doors import CHAT, KEY, OTHER_KEY, USER, Answer, MemoryDoor, ask, card, chat_body, front, says

READY = MemoryDoor(cards=(card(),))


async def get(path: str, method: str = "GET", door: MemoryDoor = READY, **options: Any) -> Answer:
    return await ask(front(door), method, path, **options)


NO_AUTHORIZATION = "Missing or invalid authorization header"
PROTECTED = [
    ("POST", "/chat/completions"),
    ("POST", "/responses"),
    ("POST", "/embeddings"),
    ("GET", "/models"),
    ("GET", "/models/smollm2:135m"),
    ("GET", "/models/smollm2:135m/endpoints"),
    ("GET", "/receipts/x"),
]


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize(
    ("headers", "text", "code"),
    [
        ({}, NO_AUTHORIZATION, "missing_api_key"),
        ({"Authorization": ""}, NO_AUTHORIZATION, "missing_api_key"),
        ({"Authorization": "Bearer"}, NO_AUTHORIZATION, "missing_api_key"),
        ({"Authorization": "Bearer  "}, NO_AUTHORIZATION, "missing_api_key"),
        ({"Authorization": f"Basic {KEY}"}, NO_AUTHORIZATION, "missing_api_key"),
        ({"Authorization": KEY}, NO_AUTHORIZATION, "missing_api_key"),
        ({"Authorization": "Bearer no"}, "Invalid API key", "invalid_api_key"),
        ({"Authorization": f"Bearer {KEY}x"}, "Invalid API key", "invalid_api_key"),
        ({"Authorization": f"Bearer {KEY}", "X-User-Id": "user-2"}, "Invalid API key", "invalid_api_key"),
    ],
)
async def test_who_has_no_key_gets_in_nowhere(
    method: str, path: str, headers: dict[str, str], text: str, code: str, autojump_clock: MockClock
) -> None:
    """401 in both renderings, with the same headers, before any of a body is read."""
    for base in BASES:
        answer = await get(base + path, method, headers=headers, key=None, parts=[(10**6, b"")])
        assert answer.status == 401
        expected: Any = {"message": text, "type": "invalid_request_error", "param": None, "code": code}
        assert answer.json() == {"error": text if base == "/api/v1" else expected}
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["x-should-retry"] == "false"
        assert answer.headers["x-error-code"] == code
        assert answer.headers["cache-control"] == "no-store"


def test_every_route_is_protected_or_changes_nothing() -> None:
    """Enumerated: what is not behind a key is GET, and only health, readiness, epochs and documents."""
    open_paths = set()
    for route in front(READY).routes:
        assert isinstance(route.app, Methods)
        for method, endpoint in route.app.endpoints.items():
            if not isinstance(endpoint, Admitted):
                assert method == "GET"
                open_paths.add(route.path)
    assert open_paths == {
        base + path for base in ("", *BASES) for path in ("/health", "/ready", "/openapi.json", "/docs")
    } | {base + path for base in BASES for path in EPOCH_OPERATIONS}


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY} "},
        {"Authorization": f"BEARER {KEY}", "X-User-Id": USER},
        {"Authorization": f"Bearer {KEY}", "X-User-Id": ""},
    ],
)
async def test_a_key_gets_in(headers: dict[str, str], autojump_clock: MockClock) -> None:
    """The scheme in any case, a token with spaces, with its owner's id or none."""
    assert (await get("/api/v1/models", headers=headers, key=None)).status == 200


async def test_two_keys_are_none(autojump_clock: MockClock) -> None:
    pairs = [("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {OTHER_KEY}")]
    assert (await get("/v1/models", headers=pairs, key=None)).headers["x-error-code"] == "missing_api_key"


def test_a_token_is_all_that_stands_after_the_first_space() -> None:
    assert bearer_token("Bearer a b") == "a b"
    assert bearer_token("Bearer\ta") is None


@pytest.mark.parametrize("path", ["/health", "/ready", "/api/v1/health", "/v1/ready"])
async def test_health_needs_no_key(path: str, autojump_clock: MockClock) -> None:
    assert (await get(path, key=None)).status == 200


async def test_ready_means_that_there_is_a_node(autojump_clock: MockClock) -> None:
    answer = await get("/ready", door=MemoryDoor(), key=None)
    assert (answer.status, answer.json()) == (503, {"error": "No live node is known yet"})
    assert answer.headers["retry-after"] == "5"
    assert (await get("/health", door=MemoryDoor(), key=None)).status == 200


@pytest.mark.parametrize("base", BASES)
async def test_models(base: str, autojump_clock: MockClock) -> None:
    """The list, and each by its id, with a colon or a slash in it, or by another name of it; who serves it, too."""
    door = MemoryDoor(cards=(card(), card("org/model:1b")))
    listed = (await get(base + "/models", door=door)).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["smollm2:135m", "org/model:1b"]
    for model in listed["data"]:
        assert (await get(f"{base}/models/{model['id']}", door=door)).json() == model
        served = (await get(f"{base}/models/{model['id']}/endpoints", door=door)).json()
        assert (served["data"]["id"], served["data"]["endpoints"]) == (model["id"], [])
    by_alias = await get(base + "/models/SmolLM2", door=door)
    assert by_alias.json()["id"] == "smollm2:135m"
    for path in ("/models/nix", "/models/nix/endpoints"):
        missing = await get(base + path, door=door)
        assert missing.status == 404
        assert missing.headers["x-error-code"] == "model_not_found"


async def test_a_receipt_is_its_accounts_own(autojump_clock: MockClock) -> None:
    app = front(MemoryDoor())
    made = (await ask(app, "POST", CHAT, body=chat_body())).json()["id"]
    receipt = await ask(app, "GET", f"/api/v1/receipts/{made}")
    parts = ("order", "receipt", "countersign", "counts", "inclusion")
    assert receipt.json().keys() == {"id", "object", *parts, "data"}
    assert receipt.json()["data"] == [{name: receipt.json()[name] for name in parts}]
    other = await ask(app, "GET", f"/api/v1/receipts/{made}", key=OTHER_KEY)
    assert (other.status, other.json()) == (404, {"error": "No receipt under this id"})


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/api/v1/chat/completions", "POST, OPTIONS"),
        ("PUT", "/v1/chat/completions", "POST, OPTIONS"),
        ("GET", "/v1/embeddings", "POST, OPTIONS"),
        ("HEAD", "/v1/chat/completions", "POST, OPTIONS"),
        ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
        ("TRACE", "/health", "GET, HEAD, OPTIONS"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(
    method: str, path: str, allow: str, autojump_clock: MockClock
) -> None:
    answer = await get(path, method)
    assert (answer.status, answer.headers["allow"]) == (405, allow)
    assert answer.headers["x-error-code"] == "method_not_allowed"


@pytest.mark.parametrize(
    "path", ["/", "/nix", "/api", "/api/v1", "/api/v1/chat/completions/", "/v1//models", "/v2/models"]
)
async def test_a_path_that_is_not_served_is_404(path: str, autojump_clock: MockClock) -> None:
    answer = await get(path)
    assert (answer.status, answer.headers["x-error-code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/models/nix", "/nix"])
async def test_head_is_get_without_its_body(path: str, autojump_clock: MockClock) -> None:
    whole, head = await get(path), await get(path, "HEAD")
    assert (head.status, head.body) == (whole.status, b"")
    assert head.headers["content-length"] == str(len(whole.body))


@pytest.mark.parametrize(
    ("method", "path"), [("POST", CHAT), ("GET", "/nix"), ("OPTIONS", CHAT), ("GET", "/v1/models")]
)
async def test_the_headers_of_every_answer(method: str, path: str, autojump_clock: MockClock) -> None:
    """A request id, the time it took, and CORS; a client's own id comes back if it is sound."""
    for client_id, echoed in (
        ("abc-123", "abc-123"),
        ("a" * 512, "a" * 512),
        ("a" * 513, None),
        ("a b", None),
        ("", None),
    ):
        answer = await get(path, method, headers={"X-Client-Request-Id": client_id}, body=chat_body(stream=True))
        assert re.fullmatch("req_[0-9A-HJKMNP-TV-Z]{26}", answer.headers["x-request-id"])
        assert answer.headers["x-cx-processing-ms"].isdigit()
        assert answer.headers["access-control-allow-origin"] == "*"
        exposed = answer.headers["access-control-expose-headers"]
        assert {"x-request-id", "retry-after", "x-cx-generation-id", "x-error-code", "x-cx-voice"} <= set(
            exposed.split(", ")
        )
        assert answer.headers.get("x-client-request-id") == echoed
        assert len({name for name, _ in answer.raw_headers}) == len(answer.raw_headers)


async def test_a_preflight(autojump_clock: MockClock) -> None:
    """204 for any path, without a key: the documented headers, and the SDKs' own whatever they will be called."""
    asked = "authorization,x-stainless-lang, X-Stainless-Future-Thing ,x-evil,x-stainless-\xff"
    answer = await get(CHAT, "OPTIONS", key=None, headers={"Access-Control-Request-Headers": asked})
    assert (answer.status, answer.body) == (204, b"")
    allowed = answer.headers["access-control-allow-headers"].lower().split(", ")
    documented = "authorization content-type x-user-id x-title http-referer x-client-request-id x-cx-metadata".split()
    assert {*documented, "x-error-format", "x-stainless-lang", "x-stainless-future-thing"} <= set(allowed)
    assert not {"x-evil", "x-stainless-\xff"} & set(allowed)
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "content-length" not in answer.headers


async def logged(caplog: pytest.LogCaptureFixture, **headers: str) -> dict[str, Any]:
    """The access log's line of one chat request."""
    caplog.set_level("INFO", "cxp2p.gateway.access")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    await ask(front(MemoryDoor(work=says("a"))), "POST", CHAT, body=chat_body(), headers=named)
    line: dict[str, Any] = json.loads(caplog.messages[-1])
    return line


async def test_the_access_log_names_no_secret(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    """One line of JSON: who, what, how long, which node; never the key, the prompt or the answer."""
    line = await logged(caplog, X_Client_Request_Id="mine", User_Agent="u" * 500)
    assert line["status"] == 200
    assert (line["account"], line["key"], line["client_request_id"]) == ("account-1", "key-1", "mine")
    assert (line["model"], line["stream"], line["pieces"], line["in"], line["out"]) == (
        "smollm2:135m",
        False,
        1,
        10,
        20,
    )
    assert len(line["agent"]) == 200
    assert KEY not in caplog.text
    assert "Hi" not in caplog.text


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("My app", "My app"),
        ("a\x1b[31mb\x7f\tc", "a[31mbc"),
        ("t" * 81, "t" * 80),
        ("Café".encode().decode("latin-1"), "Café"),
        ("Caf\xe9", "Café"),
        ("\x01", None),
        ("", None),
    ],
)
async def test_a_services_title(
    title: str, shown: str | None, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """At most 80 characters, none that a terminal obeys; UTF-8 if it is that, else Latin-1."""
    assert (await logged(caplog, X_Title=title)).get("title") == shown


@pytest.mark.parametrize(
    ("referer", "shown"),
    [
        ("https://app.example/page?q=secret#x", "https://app.example"),
        ("http://user:secret@app.example:8080/", "http://app.example:8080"),
        ("http://[::1]:3000/x", "http://[::1]:3000"),
        ("https://" + "a" * 300, "https://" + "a" * 192),
        ("ftp://app.example", None),
        ("app.example", None),
        ("http://a:99999/", None),
        ("http://[", None),
        ("", None),
    ],
)
async def test_a_services_address(
    referer: str, shown: str | None, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """Its origin and no more, at most 200 characters."""
    assert (await logged(caplog, HTTP_Referer=referer)).get("referer") == shown
    assert (await logged(caplog, Referer=referer)).get("referer") == shown
