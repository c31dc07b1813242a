"""What the errors of nodes, of the network and of accounts become for a client."""

from __future__ import annotations

import pytest

from cxp2p.errors import (
    CxError,
    InsufficientCredit,
    JobFailed,
    JobRefused,
    LocalProtocolError,
    NoNode,
    PeerUnreachable,
    ReceiptInvalid,
    RemoteProtocolError,
)
from cxp2p.records import FailureCode, RefusalCode, Service
from cxp2p_gateway.asking import KeyForbids, Limit, Overloaded, RateLimited
from cxp2p_gateway.faults import Base, Condition, Dialect, cut_of, fault_of, render, text_of
from cxp2p_gateway.store import StoreError, StoreUnavailable


@pytest.mark.parametrize(
    ("error", "known", "expected"),
    [
        (NoNode("x"), True, Condition.NO_NODE),
        (NoNode("x"), False, Condition.MODEL_UNKNOWN),
        (InsufficientCredit("x"), True, Condition.CREDIT_SPENT),
        (KeyForbids(Limit.MODEL), True, Condition.MODEL_FORBIDDEN),
        (KeyForbids(Limit.SERVICE), True, Condition.SERVICE_FORBIDDEN),
        (RateLimited("60 requests per minute", 5), True, Condition.RATE_LIMITED),
        (Overloaded(5), True, Condition.OVERLOADED),
        (StoreUnavailable("away"), True, Condition.BOOKS_AWAY),
        (JobRefused(RefusalCode.BUSY, "", 9_000), True, Condition.OVERLOADED),
        (JobRefused(RefusalCode.DRAINING, ""), True, Condition.OVERLOADED),
        (JobRefused(RefusalCode.PRICE_TOO_LOW, ""), True, Condition.UPSTREAM_FAILED),
        (JobFailed(FailureCode.CONTEXT_LENGTH, "", 10, 11), True, Condition.CONTEXT_EXCEEDED),
        (JobFailed(FailureCode.REQUEST_UNSUPPORTED, ""), True, Condition.REQUEST_UNSUPPORTED),
        (JobFailed(FailureCode.SCHEMA_INVALID, "no"), True, Condition.SCHEMA_INVALID),
        (JobFailed(FailureCode.TIMEOUT, ""), True, Condition.DEADLINE),
        (JobFailed(FailureCode.ENGINE_DIED, ""), True, Condition.UPSTREAM_FAILED),
        (PeerUnreachable(""), True, Condition.UPSTREAM_FAILED),
        (RemoteProtocolError(""), True, Condition.UPSTREAM_FAILED),
        (ReceiptInvalid(""), True, Condition.UPSTREAM_FAILED),
    ],
)
def test_each_error_before_the_first_piece_has_its_row(error: CxError, known: bool, expected: Condition) -> None:
    """What the network says becomes one of the documented conditions."""
    fault = fault_of(error, "x", known)
    assert fault is not None
    assert fault.condition is expected
    assert render(fault, Dialect.OPENAI, Base.ALIAS).body


@pytest.mark.parametrize(
    ("service", "param", "name"),
    [(Service.CHAT, "messages", "chat completions"), (Service.EMBED, "input", "embeddings")],
)
def test_an_error_names_what_its_service_is_about(service: Service, param: str, name: str) -> None:
    """The parameter that is too long, and what a key may not use."""
    long = fault_of(JobFailed(FailureCode.CONTEXT_LENGTH, "", 10, 11), "x", True, service)
    forbidden = fault_of(KeyForbids(Limit.SERVICE), "x", True, service)
    assert long is not None
    assert forbidden is not None

    assert long.param == param
    assert text_of(forbidden, Base.ALIAS) == f"This API key may not use {name}"


def test_what_a_busy_node_says_reaches_the_client() -> None:
    """Retry-After of an overloaded answer is what the nodes asked for."""
    fault = fault_of(JobRefused(RefusalCode.BUSY, "", 9_000), "x", known=True)
    assert fault is not None
    assert dict(render(fault, Dialect.SIMPLE, Base.ALIAS).headers)["retry-after"] == "9"


def test_no_refusal_or_failure_of_a_node_is_our_bug() -> None:
    """Every code a node can send has an answer, before and after the first piece; only our own bug has none."""
    errors = [*(JobRefused(code, "") for code in RefusalCode), *(JobFailed(code, "", 1, 2) for code in FailureCode)]
    for error in errors:
        fault, cut = fault_of(error, "x", known=True), cut_of(error)
        assert fault is not None
        assert cut is not None
        assert cut.condition in (Condition.UPSTREAM_CUT, Condition.DEADLINE)
    assert fault_of(LocalProtocolError(), "x", known=True) is None
    assert fault_of(StoreError(), "x", known=True) is None
    assert cut_of(LocalProtocolError()) is None
