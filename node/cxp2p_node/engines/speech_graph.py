"""Cuts the network of a Piper voice (VITS, in ONNX) in three, so that sound is made while a sentence is on its way.

1. `timing`: from phonemes, how long each of them is, and what each moment should sound like;
2. `frames`: from that and noise, frames of 256 samples;
3. `samples`: from frames, samples. Each depends on a few frames around it only, so they can be made part by part.

The noise comes from outside afterwards, so that a voice says a text in the same way each time. Only bytes are looked at
here, as ONNX has them (onnx.proto3). Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cxp2p_node.models import protobuf
from cxp2p_node.models.protobuf import Field, ProtobufError

# Field numbers of onnx.proto3.
MODEL_IR, MODEL_GRAPH, MODEL_OPERATORS = 1, 7, 8
GRAPH_NODE, GRAPH_NAME, GRAPH_TENSOR, GRAPH_INPUT, GRAPH_OUTPUT = 1, 2, 5, 11, 12
NODE_INPUT, NODE_OUTPUT, NODE_KIND, NODE_ATTRIBUTE = 1, 2, 4, 5
ATTRIBUTE_NAME, ATTRIBUTE_NUMBERS = 1, 8
GRAPHS_WITHIN = (6, 11)  # of an attribute
TENSOR_SIZES, TENSOR_NAME = 1, 8
VALUE_NAME, VALUE_TYPE, TYPE_TENSOR, TENSOR_KIND, FLOAT = 1, 2, 1, 1, 1

NOISE: Final = "RandomNormalLike"
FIRST_WEIGHT: Final = "dec.conv_pre.weight"  # of the first layer that makes samples of frames
CONVOLUTIONS: Final = frozenset({"Conv", "ConvTranspose"})
FLAT: Final = CONVOLUTIONS | {"LeakyRelu", "Add", "Div", "Tanh", "Constant"}
NODES_MAX = 1 << 16  # a voice has 3,000


class GraphError(Exception):
    """The network cannot be cut. The text says why; a voice can be used whole all the same."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operation: what goes in and comes out, by name, and how the file has it."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    field: Field


@dataclass(frozen=True, slots=True)
class Graph:
    """What is in a file. `tensors` are the weights, `makers` the nodes by what they make."""

    head: bytes
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Field]
    inputs: Mapping[str, Field]
    output: str
    makers: Mapping[str, Node]


@dataclass(frozen=True, slots=True)
class Piece:
    """A network of its own: `inputs` and `outputs` by name, and its ONNX file in parts."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parts: tuple[memoryview | bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """A voice in three pieces. The noise of lengths goes into the first one, that of frames into the second.

    `moments` is an output of the first one: the noise of frames has its shape. `flat`: frames have one dimension more
    in the last piece, because CPUs have quicker convolutions for that.
    """

    timing: Piece
    frames: Piece
    samples: Piece
    length_noise: str
    frame_noise: str
    moments: str
    flat: bool


def cut(data: memoryview) -> Pieces:
    """The pieces of a voice's ONNX file. Raises GraphError."""
    try:
        return _cut(_read(data))
    except ProtobufError as error:
        raise GraphError(f"it is no ONNX file: {error}") from error


def _cut(graph: Graph) -> Pieces:
    first = _only([node for node in graph.nodes if FIRST_WEIGHT in node.inputs], f"a layer with {FIRST_WEIGHT}")
    edge = first.inputs[0]
    drawn = [node for node in _before(graph, [edge]) if node.kind == NOISE]
    # The noise of lengths has its part in how many frames there are, so that of frames comes after it.
    later = _only([node for node in drawn if _has_noise(graph, node.inputs)], "noise that depends on other noise")
    earlier = _only([node for node in drawn if node is not later], "other noise")
    known = {later.outputs[0], earlier.outputs[0]}
    timing = _before(graph, later.inputs, known)
    frames = _others(_before(graph, [edge], known), timing)
    samples = _before(graph, [graph.output], {edge})
    flat = _flattened(graph, samples)
    return Pieces(
        timing=_piece(graph, timing, _unique([later.inputs[0], *_shared(timing, frames)])),
        frames=_piece(graph, frames, [edge]),
        samples=flat or _piece(graph, samples, [graph.output]),
        length_noise=earlier.outputs[0],
        frame_noise=later.outputs[0],
        moments=later.inputs[0],
        flat=flat is not None,
    )


# Which nodes.


def _before(graph: Graph, names: Iterable[str], known: Collection[str] = ()) -> list[Node]:
    """The nodes that make `names`, and what these need, in the file's order. What is `known` need not be made."""
    wanted, found = list(names), set[str]()
    while wanted:
        name = wanted.pop()
        maker = graph.makers.get(name)
        if maker is not None and name not in known and maker.outputs[0] not in found:
            found.add(maker.outputs[0])
            wanted.extend(maker.inputs)
    return [node for node in graph.nodes if node.outputs[0] in found]


def _has_noise(graph: Graph, names: Iterable[str]) -> bool:
    return any(node.kind == NOISE for node in _before(graph, names))


def _others(nodes: Iterable[Node], than: Iterable[Node]) -> list[Node]:
    """What is not in `than`; constants can be in both."""
    made = {node.outputs[0] for node in than if node.kind != "Constant"}
    return [node for node in nodes if node.outputs[0] not in made]


def _shared(earlier: Iterable[Node], later: Sequence[Node]) -> list[str]:
    """What the earlier nodes make and the later ones need."""
    needed = {name for node in later for name in node.inputs} - {name for node in later for name in node.outputs}
    return [name for node in earlier for name in node.outputs if name in needed]


def _only(nodes: Sequence[Node], what: str) -> Node:
    if len(nodes) != 1:
        raise GraphError(f"it has {len(nodes)} times {what}, expected is once")
    return nodes[0]


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


# From a file to its graph.


def _read(data: memoryview) -> Graph:
    model = list(protobuf.fields(data))
    head = b"".join(each.whole for each in model if each.number in (MODEL_IR, MODEL_OPERATORS))
    nodes: list[Node] = []
    named: dict[int, dict[str, Field]] = {GRAPH_TENSOR: {}, GRAPH_INPUT: {}, GRAPH_OUTPUT: {}}
    for each in protobuf.fields(_one(model, MODEL_GRAPH)):
        if each.number == GRAPH_NODE:
            nodes.append(_node(each))
            if len(nodes) > NODES_MAX:
                raise GraphError(f"it has more than {NODES_MAX} nodes")
        elif each.number in named:
            number = TENSOR_NAME if each.number == GRAPH_TENSOR else VALUE_NAME
            named[each.number][_text(each.content, number)] = each
    outputs = list(named[GRAPH_OUTPUT])
    if len(outputs) != 1:
        raise GraphError(f"it has {len(outputs)} outputs, expected is one")
    makers = {name: node for node in nodes for name in node.outputs}
    return Graph(head, tuple(nodes), named[GRAPH_TENSOR], named[GRAPH_INPUT], outputs[0], makers)


def _node(field: Field) -> Node:
    inputs, outputs, kind = [], [], ""
    for each in protobuf.fields(field.content):
        if each.number == NODE_INPUT:
            inputs.append(protobuf.text(each.content))
        elif each.number == NODE_OUTPUT:
            outputs.append(protobuf.text(each.content))
        elif each.number == NODE_KIND:
            kind = protobuf.text(each.content)
        elif each.number == NODE_ATTRIBUTE and any(
            part.number in GRAPHS_WITHIN for part in protobuf.fields(each.content)
        ):
            raise GraphError("it has a graph within a graph")
    if not outputs:
        raise GraphError("it has a node that makes nothing")
    return Node(kind, tuple(inputs), tuple(outputs), field)


def _one(message: Iterable[Field], number: int) -> memoryview:
    found = [each.content for each in message if each.number == number]
    if len(found) != 1:
        raise GraphError(f"it has the field {number} {len(found)} times, expected is once")
    return found[0]


def _text(message: memoryview, number: int) -> str:
    return protobuf.text(_one(protobuf.fields(message), number))


# From nodes to a file.


def _piece(
    graph: Graph, nodes: Sequence[Node], outputs: Iterable[str], tensors: Mapping[str, bytes] | None = None
) -> Piece:
    """A network of these nodes. What they need and none makes comes from outside; `tensors` stand for other weights."""
    made = {name for node in nodes for name in node.outputs}
    needed = [name for name in _unique(name for node in nodes for name in node.inputs) if name and name not in made]
    weights = [name for name in needed if name in graph.tensors]
    inputs = [name for name in needed if name not in graph.tensors]
    parts: list[memoryview | bytes] = [node.field.whole for node in nodes]
    parts.append(protobuf.field(GRAPH_NAME, b"piece"))
    parts += [(tensors or {}).get(name) or graph.tensors[name].whole for name in weights]
    parts += [graph.inputs[name].whole if name in graph.inputs else _value(GRAPH_INPUT, name) for name in inputs]
    parts += [_value(GRAPH_OUTPUT, name) for name in outputs]
    size = sum(len(part) for part in parts)
    head = graph.head + protobuf.key(MODEL_GRAPH, protobuf.COUNTED) + protobuf.encoded(size)
    return Piece(tuple(inputs), tuple(outputs), (head, *parts))


def _value(number: int, name: str) -> bytes:
    """An input or output: a tensor of floats, of any shape."""
    kind = protobuf.key(TENSOR_KIND, protobuf.VARINT) + protobuf.encoded(FLOAT)
    tensor = protobuf.field(VALUE_TYPE, protobuf.field(TYPE_TENSOR, kind))
    return protobuf.field(number, protobuf.field(VALUE_NAME, name.encode()) + tensor)


# One dimension more.


def _flattened(graph: Graph, nodes: Sequence[Node]) -> Piece | None:
    """The piece that makes samples, its convolutions over an image of one row instead of over a line.

    None if there is an operation in it of which nobody can say here that it stays the same.
    """
    before, last = nodes[:-1], nodes[-1] if nodes else None
    if last is None or last.kind != "Unsqueeze" or not last.inputs or any(node.kind not in FLAT for node in before):
        return None
    tensors: dict[str, bytes] = {}
    changed: list[Node] = []
    for node in before:
        sizes = [_sizes(graph.tensors[name]) for name in node.inputs if name in graph.tensors]
        if node.kind in CONVOLUTIONS:
            name = next(iter(node.inputs[1:]), "")
            if name not in graph.tensors or len(sizes[0]) != 3:
                return None
            tensors[name] = _resized(graph.tensors[name], (*sizes[0][:2], 1, sizes[0][2]))
            changed.append(_flat(node))
        elif any(sizes):
            return None  # only single numbers mean the same in any dimension
        else:
            changed.append(node)
    return _piece(graph, changed, [last.inputs[0]], tensors)


def _flat(node: Node) -> Node:
    """The node, with the numbers of its attributes for one dimension more."""
    parts = (
        _flat_attribute(each) if each.number == NODE_ATTRIBUTE else each.whole
        for each in protobuf.fields(node.field.content)
    )
    whole = memoryview(protobuf.field(GRAPH_NODE, b"".join(parts)))
    return Node(node.kind, node.inputs, node.outputs, next(protobuf.fields(whole)))


def _flat_attribute(attribute: Field) -> memoryview | bytes:
    parts = list(protobuf.fields(attribute.content))
    numbers = protobuf.numbers(each.content for each in parts if each.number == ATTRIBUTE_NUMBERS)
    match _text(attribute.content, ATTRIBUTE_NAME), numbers:
        case "kernel_shape" | "dilations" | "strides", [size]:
            numbers = [1, size]
        case "output_padding", [size]:
            numbers = [0, size]
        case "pads", [begin, end]:
            numbers = [0, begin, 0, end]
        case _:
            return attribute.whole
    rest = b"".join(each.whole for each in parts if each.number != ATTRIBUTE_NUMBERS)
    return protobuf.field(NODE_ATTRIBUTE, rest + protobuf.packed(ATTRIBUTE_NUMBERS, numbers))


def _resized(tensor: Field, sizes: Sequence[int]) -> bytes:
    """The same numbers, as a tensor of other sizes."""
    rest = b"".join(each.whole for each in protobuf.fields(tensor.content) if each.number != TENSOR_SIZES)
    return protobuf.field(GRAPH_TENSOR, protobuf.packed(TENSOR_SIZES, sizes) + rest)


def _sizes(tensor: Field) -> list[int]:
    return protobuf.numbers(each.content for each in protobuf.fields(tensor.content) if each.number == TENSOR_SIZES)
