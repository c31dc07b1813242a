"""Names of the catalogue, at a real gateway."""

from __future__ import annotations

import openai
import pytest

from e2e.conftest import Up

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("model", "code"), [("llama3.1:8b", "no_healthy_providers"), ("qwertz:8b", "model_not_found")])
def test_a_gateway_tells_what_nobody_serves_from_what_is_not(up: Up, model: str, code: str) -> None:
    """A name of the catalogue is right, and may be served in a minute; one that nobody knows is a mistake."""
    with pytest.raises(openai.APIStatusError) as told:
        up.client(max_retries=0).chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}])
    assert told.value.code == code
