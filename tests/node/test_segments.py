"""Answer, reasoning and tool calls, told apart however the output is cut."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxp2p_node.engines.marks import (
    HARMONY,
    HERMES,
    LLAMA3,
    MISTRAL,
    PIPED,
    Arguments,
    Call,
    Reasoning,
    Segment,
    Text,
    ToolFormat,
    format_of,
)
from cxp2p_node.engines.segments import SegmentReader, reader_of

CASES: list[tuple[str, ToolFormat | None, list[Segment]]] = [
    ("Hi there", HERMES, [Text("Hi there")]),
    (
        '<tool_call>\n{"name": "f", "arguments": {"a": "}\\"{"}}\n</tool_call>',
        HERMES,
        [Call(0, "f"), Arguments(0, '{"a": "}\\"{"}')],
    ),
    (
        'Sure.\n<tool_call>{"name":"f","arguments":{}}</tool_call>\n'
        '<tool_call>\n{"arguments":{"x":1},"name":"g"}\n</tool_call>',
        HERMES,
        [Text("Sure.\n"), Call(0, "f"), Arguments(0, "{}"), Call(1, "g"), Arguments(1, '{"x": 1}')],
    ),
    (
        '[TOOL_CALLS][{"name":"f","arguments":{"a":1}}, {"name":"g","arguments":{}}]',
        MISTRAL,
        [Call(0, "f"), Arguments(0, '{"a":1}'), Call(1, "g"), Arguments(1, "{}")],
    ),
    ('{"name": "f", "parameters": {"a": [1,2]}}', LLAMA3, [Call(0, "f"), Arguments(0, '{"a": [1,2]}')]),
    ('{"foo": 1} hm', LLAMA3, [Text('{"foo": 1} hm')]),
    ("<think>hmm</think>\n\nYes", HERMES, [Reasoning("hmm"), Text("Yes")]),
    ("a < b <tool_call", HERMES, [Text("a < b <tool_call")]),
    ('<tool_call>{"name": "f", "arguments": {"a"', HERMES, [Call(0, "f"), Arguments(0, '{"a"')]),
    (
        'Sure.<|tool_call|>[{"name": "f", "arguments": {"a": 1}}, {"name": "g", "arguments": {}}]<|/tool_call|>',
        PIPED,
        [Text("Sure."), Call(0, "f"), Arguments(0, '{"a": 1}'), Call(1, "g"), Arguments(1, "{}")],
    ),
    ('<|tool_call|>{"name": "f", "arguments": {}}<|/tool_call|>', PIPED, [Call(0, "f"), Arguments(0, "{}")]),
    ('<|tool_call|>[{"name": "f", "arguments": {}}]', PIPED, [Call(0, "f"), Arguments(0, "{}")]),
    (
        "<|channel|>analysis<|message|>Hm < x.<|end|><|start|>assistant<|channel|>final<|message|>Yes <|",
        HARMONY,
        [Reasoning("Hm < x."), Text("Yes <|")],
    ),
    (
        "<|channel|>analysis<|message|>Look.<|end|><|start|>assistant<|channel|>commentary to=functions.f "
        '<|constrain|>json<|message|>{"a": 1}<|call|>',
        HARMONY,
        [Reasoning("Look."), Call(0, "f"), Arguments(0, '{"a": 1}')],
    ),
    (
        " to=functions.f<|channel|>commentary json<|message|>{}<|end|><|start|>assistant to=functions.g"
        "<|channel|>commentary json<|message|>[1",
        HARMONY,
        [Call(0, "f"), Arguments(0, "{}"), Call(1, "g"), Arguments(1, "[1")],
    ),
    ("<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant", HARMONY, [Text("I will look.")]),
    ("It does not speak its format.", HARMONY, [Text("It does not speak its format.")]),
    ("x" * 600 + "<|start|>", HARMONY, [Text("x" * 600)]),
    ("<tool_call>not json</tool_call> x", HERMES, [Text("<tool_call>not json</tool_call> x")]),
    ('<tool_call>{"no": "name"}</tool_call>', HERMES, [Text('<tool_call>{"no": "name"}</tool_call>')]),
    ('<tool_call>{"name": "f"}</tool_call>', None, [Text('<tool_call>{"name": "f"}</tool_call>')]),
]


def read(parts: list[str], tools: ToolFormat | None) -> list[Segment]:
    reader = reader_of(tools or HERMES, calls=tools is not None)
    segments = [segment for part in parts for segment in reader.feed(part)]
    return joined(segments + reader.end())


def joined(segments: list[Segment]) -> list[Segment]:
    out: list[Segment] = []
    for segment in segments:
        last = out[-1] if out else None
        if isinstance(segment, Text) and isinstance(last, Text):
            out[-1] = Text(last.text + segment.text)
        elif isinstance(segment, Reasoning) and isinstance(last, Reasoning):
            out[-1] = Reasoning(last.text + segment.text)
        elif isinstance(segment, Arguments) and isinstance(last, Arguments) and segment.number == last.number:
            out[-1] = Arguments(last.number, last.text + segment.text)
        else:
            out.append(segment)
    return out


@pytest.mark.parametrize(("output", "tools", "segments"), CASES)
def test_an_output_is_read_for_what_it_means(output: str, tools: ToolFormat | None, segments: list[Segment]) -> None:
    assert read([output], tools) == segments


@given(st.sampled_from(CASES), st.lists(st.integers(0, 200), max_size=12))
def test_it_means_the_same_however_it_is_cut(
    case: tuple[str, ToolFormat | None, list[Segment]], places: list[int]
) -> None:
    output, tools, segments = case
    edges = sorted({0, len(output), *(place % (len(output) + 1) for place in places)})
    assert read([output[start:end] for start, end in itertools.pairwise(edges)], tools) == segments


@given(
    st.lists(
        st.sampled_from(
            [
                "<tool_call>",
                "</tool_call>",
                "<|message|>",
                "<|end|>",
                " to=functions.f",
                '{"name": ',
                '"f"',
                "}",
                "{",
                " ",
                '"',
                "x",
                "\n",
            ]
        )
    ),
    st.sampled_from([HERMES, MISTRAL, LLAMA3, PIPED, HARMONY, None]),
)
def test_nothing_that_a_model_says_makes_it_fail(parts: list[str], tools: ToolFormat | None) -> None:
    read(parts, tools)


@given(st.text())
def test_plain_text_comes_out_as_it_went_in(text: str) -> None:
    assert read([text], None) == ([Text(text)] if text else []) or "<think>" in text


def test_what_would_be_a_call_is_text_where_none_is_looked_for() -> None:
    reader = reader_of(HARMONY, calls=False)
    assert reader.feed("<|channel|>commentary to=functions.f json<|message|>{}") == [Text("{}")]


def test_arguments_leave_before_the_call_is_complete() -> None:
    reader = SegmentReader(HERMES)
    assert reader.feed('<tool_call>{"name": "f", "arguments": {"city": "Pa') == [
        Call(0, "f"),
        Arguments(0, '{"city": "Pa'),
    ]
    assert reader.feed('ris"}') == [Arguments(0, 'ris"}')]
    assert reader.feed("}</tool_call>") == []


@pytest.mark.parametrize(
    ("template", "tools"),
    [
        ("{{ messages }}", HERMES),
        ("{% if tools %}<tool_call>{% endif %}", HERMES),
        ("{% if tools %}[TOOL_CALLS]{% endif %}", MISTRAL),
        ('{% if tools %}{"name": f, "parameters": p}{% endif %}', LLAMA3),
        ("{% if tools %}<|tool_call|>{% endif %}", PIPED),
        ("<|start|>{{ role }}<|channel|>final<|message|>", HARMONY),
    ],
)
def test_the_template_tells_the_format(template: str, tools: ToolFormat) -> None:
    assert format_of(template) is tools
