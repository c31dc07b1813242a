"""What schemathesis is told of this network: names of models and users that it makes up become those there are.

It loads this file by its path, see `e2e/test_openapi_document`. It may not end the key that it comes with.
"""

from __future__ import annotations

import os
from typing import Any

import schemathesis

MODEL = "echo"
OWN_KEY = "CX_OWN_KEY"
OWN_USER = "CX_OWN_USER"


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case[Any], kwargs: dict[str, Any]) -> None:
    """Only names: what is no name at all, or empty, must be refused as it is. One of four stays unknown."""
    body: Any = case.body
    name = body.get("model") if isinstance(body, dict) else None
    if isinstance(name, str) and name and len(name) % 4 != 1:
        body["model"] = MODEL
    user = case.headers.get("X-User-Id")
    if user and len(user) % 4 != 1:
        case.headers["X-User-Id"] = os.environ[OWN_USER]
    if case.path_parameters.get("key") == os.environ[OWN_KEY]:
        case.path_parameters["key"] = "another"
