"""LangChain, which many agents are made with, on a real network: nothing of it is changed but the base URL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from e2e.conftest import EMBED_MODEL, MODEL, Up

pytestmark = pytest.mark.slow

PROGRAM = '''
import json, sys
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

access = json.loads(sys.argv[1])
settings = {"base_url": access["base_url"], "api_key": access["api_key"]}
chat = ChatOpenAI(model=access["model"], temperature=0, max_tokens=60, **settings)


@tool
def weather(city: str) -> str:
    """Tells the weather in a city."""
    return f"It rains in {city}."


answer = chat.invoke([SystemMessage("You answer in one sentence."), HumanMessage("What is gravity?")])
chain = ChatPromptTemplate.from_messages([("human", "Name the capital of {country}.")]) | chat
streamed = list(chain.stream({"country": "France"}))
called = chat.bind_tools([weather], tool_choice="weather").invoke("How is the weather in Paris?")
schema = {
    "title": "animal",
    "description": "an animal",
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "legs": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["name", "legs"],
    "additionalProperties": False,
}
animal = chat.with_structured_output(schema, method="json_schema").invoke("A dog has four legs.")
many = chat.batch(["Say one.", "Say two.", "Say three."])
embeddings = OpenAIEmbeddings(model=access["embed_model"], check_embedding_ctx_length=False, **settings)
vectors = embeddings.embed_documents(["a cat", "a kitten", "the tax office"])
print(json.dumps({
    "answer": answer.content,
    "usage": answer.usage_metadata,
    "finish": answer.response_metadata["finish_reason"],
    "pieces": [chunk.content for chunk in streamed],
    "whole": chain.invoke({"country": "France"}).content,
    "calls": called.tool_calls,
    "animal": animal,
    "many": [each.content for each in many],
    "vectors": vectors,
    "query": embeddings.embed_query("a cat"),
}))
'''


@pytest.fixture(scope="module")
def said(up: Up) -> dict[str, Any]:
    """What the program says; it runs by itself, as people's programs do."""
    access = {
        "base_url": up.base_url,
        "api_key": up.access["api_key"],
        "model": MODEL,
        "embed_model": EMBED_MODEL,
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(access)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "LANGSMITH_TRACING": "false"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def test_an_answer_and_what_it_took(said: dict[str, Any]) -> None:
    assert "ravity" in said["answer"]
    assert said["finish"] in ("stop", "length")
    usage = said["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0


def test_a_stream_through_a_chain_is_the_whole_answer(said: dict[str, Any]) -> None:
    assert len(said["pieces"]) > 3
    assert "".join(said["pieces"]) == said["whole"]
    assert "Paris" in said["whole"]


def test_a_tool_is_called_with_its_arguments(said: dict[str, Any]) -> None:
    (call,) = said["calls"]
    assert call["name"] == "weather"
    assert isinstance(call["args"]["city"], str)
    assert call["id"]


def test_an_answer_of_a_schema(said: dict[str, Any]) -> None:
    assert set(said["animal"]) == {"name", "legs"}
    assert isinstance(said["animal"]["legs"], int)


def test_a_batch_is_answered_in_order(said: dict[str, Any]) -> None:
    assert len(said["many"]) == 3
    assert all(said["many"])


def test_vectors_say_what_is_alike(said: dict[str, Any]) -> None:
    cat, kitten, office = said["vectors"]
    assert _product(cat, kitten) > _product(cat, office)
    assert _product(cat, said["query"]) > 0.999


def _product(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
