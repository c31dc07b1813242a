"""The house rules that a program can check. Each is a function from one module to the faults in it.

A new module of the library must be placed in `layers.MAY_IMPORT`. A file or name that must be excepted stands here with
its reason, never in the module itself.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias

from layers import MAY_IMPORT, PURE

ROOT = Path(__file__).parent.parent
SHIPPED = {"cxp2p": "cxp2p", "node/cxp2p_node": "cxp2p_node", "gateway/cxp2p_gateway": "cxp2p_gateway"}
BESIDE = ("demo", "benchmarks", "simulations", "tests")

FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)
LINES_MAX: Final = 400
FUNCTION_LINES_MAX: Final = 60
SENTENCE_WORDS: Final = 4

# Longer than LINES_MAX when this rule was made: they may shrink, not grow. Take a line out when its file fits.
LONG: Final[Mapping[str, int]] = {}
LONG_FUNCTIONS: Final[Mapping[str, int]] = {"tests/gateway/doors.py": 66}

IMPURE_IMPORTS: Final = frozenset(
    {"anyio", "asyncio", "datetime", "logging", "os", "pathlib", "random", "secrets", "socket", "subprocess", "sys"}
    | {"tempfile", "threading", "time", "trio", "uuid", "warnings"}
)
PURE_TYPES: Final = frozenset({"random.Random"})  # a pure function is given one
IMPURE_CALLS: Final = frozenset({"open", "input", "print", "breakpoint"})

# What makes two runs of one seed differ; and who may know of it, because nothing simulated depends on them.
CLOCKS_AND_CHANCE: Final = frozenset({"time", "datetime", "random", "secrets", "uuid", "os", "asyncio", "threading"})
TELLS_TIME: Final = frozenset({"simulations.__main__", "simulations.report"})

# A dependency, and the only modules that may know it. The prefix of a module's name is enough.
KNOWN_TO: Final[Mapping[str, tuple[str, ...]]] = {
    "libp2p": ("cxp2p.net.libp2p", "cxp2p.identity"),
    "multiaddr": ("cxp2p.net.libp2p",),
    "multicodec": ("cxp2p.net.libp2p",),
    "google.protobuf": ("cxp2p.net.libp2p", "cxp2p.identity"),
    "cbor2": ("cxp2p.wire",),
    "llama_cpp": ("cxp2p_node.engines.llama_", "cxp2p_node.engines.embed_"),  # in workers only: it can abort
    "anycorn": ("cxp2p_gateway.listener",),
    "selectolax": ("cxp2p_node.scrape.tree",),
    "jsonschema_rs": ("cxp2p_gateway.schemas.checking",),
    "prometheus_client": ("cxp2p_gateway.metrics",),
    "anyio": ("cxp2p_gateway.listener", "cxp2p_gateway.connection"),
    "asyncio": (),
}

# Names of OpenAI's JSON that nothing else is called by.
OPENAI_WORDS: Final = frozenset({"chat.completion", "chat.completion.chunk", "finish_reason", "choices", "max_tokens"})
OPENAI_MODULES: Final = "cxp2p_gateway.openai"

# Where everything may be caught: the top of a node's stream handler (in both networks) and of the gateway's handlers.
# libp2p raises whatever its parsers meet: there each `except Exception` says why in the comment beneath it.
CATCHES_ALL: Final = frozenset(
    {
        "cxp2p.net.memory:MemoryNetwork._handle",
        "cxp2p.net.libp2p:Libp2pNetwork._handle",
        "cxp2p_gateway.middleware:Faults.__call__",
        "cxp2p_gateway.listener:HttpServer.serve",
    }
)
CATCHES_WITH_REASON: Final = ("cxp2p.net.libp2p_",)

MACHINE: Final = re.compile(
    r"(?<![\w.$])/(?:root|work|Users/\w|home/\w|opt/(?:pypi|wheels)|tmp/(?!cxp2p))"
    r"|pypi[.]org|pythonhosted[.]org|registry[.]npmjs|proxy[.]golang|deb[.]debian[.]org|archive[.]ubuntu"
    r"|--(?:extra-)?index-url|--find-links",
)


@dataclass(frozen=True, slots=True)
class Module:
    """One Python file of the tree. `name` is how it is imported."""

    path: str
    name: str
    source: str
    tree: ast.Module

    @property
    def shipped(self) -> bool:
        return self.name.partition(".")[0] in SHIPPED.values()


Rule: TypeAlias = Callable[[Module], Iterator[str]]


def module_of(path: str, source: str) -> Module:
    """The module in `source`, as if it stood at `path`, relative to the tree's root."""
    parts = Path(path).with_suffix("").parts
    name = ".".join(parts[1:] if parts[0] in ("node", "gateway") else parts)
    return Module(path, name.removesuffix(".__init__"), source, ast.parse(source))


@cache
def modules() -> tuple[Module, ...]:
    """Every Python file of the tree."""
    paths = [path for folder in (*SHIPPED, *BESIDE) for path in sorted((ROOT / folder).rglob("*.py"))]
    return tuple(module_of(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths)


def imports(module: Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported when the module runs; `from a import b` gives `a.b`."""
    for node in _running(module.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING`."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        yield node
        yield from _running(node)


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    is_package = module.path.endswith("__init__.py")
    kept = module.name.split(".")[: len(module.name.split(".")) - node.level + is_package]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _under(name: str, *tops: str) -> bool:
    return any(name == top or name.startswith(f"{top}.") for top in tops)


def imports_point_down(module: Module) -> Iterator[str]:
    """errors, records <- protocols <- wire <- session <- net <- programs; pure rules import the vocabulary only."""
    if not _under(module.name, "cxp2p"):
        return
    part = module.name.split(".")[1] if "." in module.name else ""
    if part not in MAY_IMPORT:
        yield f"{module.path}: {module.name} has no place yet: say in MAY_IMPORT what it may import"
        return
    for line, name in imports(module):
        if _under(name, "cxp2p_node", "cxp2p_gateway", *BESIDE):
            yield f"{module.path}:{line}: the library never imports the programs, here {name}"
        elif _under(name, "cxp2p"):
            target = name.split(".")[1] if "." in name else ""
            target = target if target in MAY_IMPORT else ""
            if target != part and target not in MAY_IMPORT[part]:
                yield f"{module.path}:{line}: {module.name} may not import {name}"


def programs_meet_on_the_wire(module: Module) -> Iterator[str]:
    """The node and the gateway never import each other, and neither the demo, the tests or the benchmarks."""
    own = module.name.partition(".")[0]
    if own not in ("cxp2p_node", "cxp2p_gateway"):
        return
    others = {"cxp2p_node", "cxp2p_gateway", *BESIDE} - {own}
    for line, name in imports(module):
        if _under(name, *others):
            yield f"{module.path}:{line}: the programs never import each other, they meet on the wire; here {name}"


def only_app_constructs(module: Module) -> Iterator[str]:
    """In a program only `app` and `commands` open a peer; all else is handed a Network."""
    if module.name.partition(".")[0] not in ("cxp2p_node", "cxp2p_gateway"):
        return
    if module.name.split(".")[1:2] in (["app"], ["commands"]):
        return
    for line, name in imports(module):
        if _under(name, "cxp2p.peer.open_peer", "cxp2p.net.libp2p", "cxp2p.net.memory"):
            yield f"{module.path}:{line}: only app constructs, here {name}; take a Network as an argument"


def dependencies_are_known_in_one_place(module: Module) -> Iterator[str]:
    """libp2p, cbor2, llama_cpp, anycorn, anyio are imported where they are adapted, asyncio nowhere."""
    if not module.shipped:
        return
    for line, name in imports(module):
        for dependency, places in KNOWN_TO.items():
            if _under(name, dependency) and not module.name.startswith(places):
                known = " and ".join(places) or "nothing"
                yield f"{module.path}:{line}: {dependency} may be known to {known} only"


def openai_json_has_one_place(module: Module) -> Iterator[str]:
    """The words of OpenAI's JSON are literals in the gateway's OpenAI modules only."""
    if _under(module.name, "cxp2p_gateway") and not module.name.startswith(OPENAI_MODULES):
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Constant) and node.value in OPENAI_WORDS:
                yield f"{module.path}:{node.lineno}: {node.value!r} is OpenAI's JSON: {OPENAI_MODULES} alone knows it"


def pure_modules_stay_pure(module: Module) -> Iterator[str]:
    """A pure module has no async, clock, random, os or logger: it takes `now` and `rng`."""
    if module.name not in PURE:
        return
    for line, name in imports(module):
        if name.partition(".")[0] in IMPURE_IMPORTS and name not in PURE_TYPES:
            yield f"{module.path}:{line}: a pure module may not import {name}: take what it gives as an argument"
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)):
            yield f"{module.path}:{node.lineno}: a pure module has no async"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            yield f"{module.path}:{node.lineno}: a pure module does not call {node.func.id}()"


def simulations_are_drawn_from_a_seed(module: Module) -> Iterator[str]:
    """A simulation has no clock or chance but its world's, and walks through no set: the same seed, the same bytes."""
    if not _under(module.name, "simulations") or module.name in TELLS_TIME:
        return
    for line, name in imports(module):
        if name.partition(".")[0] in CLOCKS_AND_CHANCE and name not in PURE_TYPES:
            yield f"{module.path}:{line}: a simulation may not import {name}: its world has the time and the chance"
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.For, ast.comprehension)) and _is_set(node.iter):
            line = node.iter.lineno
            yield f"{module.path}:{line}: the order of a set changes from run to run: sort it, or use a dict"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "hash":
            yield f"{module.path}:{node.lineno}: hash() changes from run to run: use a digest"


def _is_set(node: ast.expr) -> bool:
    made = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("set", "frozenset")
    return made or isinstance(node, (ast.Set, ast.SetComp))


def files_are_short(module: Module) -> Iterator[str]:
    """A file that keeps growing is split by noun."""
    lines = module.source.count("\n")
    allowed = LONG.get(module.path, LINES_MAX)
    if lines > allowed:
        yield f"{module.path}: {lines} lines, the limit is {allowed}: split it by noun"
    if module.path in LONG and lines <= LINES_MAX:
        yield f"{module.path}: fits now: take it out of LONG"


def functions_are_short(module: Module) -> Iterator[str]:
    """A function fits on a screen."""
    for node in ast.walk(module.tree):
        if isinstance(node, FUNCTIONS) and node.end_lineno is not None:
            lines = node.end_lineno - node.lineno + 1
            allowed = LONG_FUNCTIONS.get(module.path, FUNCTION_LINES_MAX)
            if lines > allowed:
                yield f"{module.path}:{node.lineno}: {node.name} has {lines} lines, the limit is {allowed}"


def exceptions_are_named(module: Module) -> Iterator[str]:
    """`except Exception` stands at the top of a stream handler and of the gateway, or raises again, or says why."""
    if not module.shipped:
        return
    lines = module.source.splitlines()
    for place, handler in _handlers(module.tree, ""):
        if not _catches_all(handler) or isinstance(handler.body[-1], ast.Raise):
            continue
        if f"{module.name}:{place}" in CATCHES_ALL:
            continue
        if module.name.startswith(CATCHES_WITH_REASON) and lines[handler.lineno].lstrip().startswith("#"):
            continue
        yield f"{module.path}:{handler.lineno}: `except Exception` is for the top of a handler: name what you expect"


def _handlers(node: ast.AST, place: str) -> Iterator[tuple[str, ast.ExceptHandler]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ExceptHandler):
            yield place, child
        inner = place
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            inner = f"{place}.{child.name}".lstrip(".")
        yield from _handlers(child, inner)


def _catches_all(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(
        kind is None or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException")) for kind in kinds
    )


def nothing_prints(module: Module) -> Iterator[str]:
    """Programs speak through click.echo and their logger, the library through its return values."""
    if module.path.startswith("tests/"):
        return
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield f"{module.path}:{node.lineno}: print() is for nobody: log it, return it, or click.echo it"


def limits_have_units_and_reasons(module: Module) -> Iterator[str]:
    """In protocols.py each number names its unit (_BYTES, _MS, _S) or tells in a comment what it counts and why."""
    if module.name != "cxp2p.protocols":
        return
    lines = module.source.splitlines()
    for node in module.tree.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name = node.target.id
        if name.startswith("TAG_") or (isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)):
            continue
        unit = re.search(r"_(BYTES|MS|S)(_MAX|_MIN)?$", name)
        if not unit and "#" not in lines[node.lineno - 1]:
            yield f"{module.path}:{node.lineno}: {name} needs a unit in its name or a comment with its reason"


def public_names_have_docstrings(module: Module) -> Iterator[str]:
    """What others may call says what goes in, what comes out, and what it raises."""
    if not _under(module.name, "cxp2p"):
        return
    for node in module.tree.body:
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if ast.get_docstring(node) is None:
            yield f"{module.path}:{node.lineno}: {node.name} is public and has no docstring"


def tests_say_their_truth(module: Module) -> Iterator[str]:
    """Every test tells what is true when it passes: in a docstring, or by a name that is a sentence of four words."""
    if not Path(module.path).name.startswith("test_"):
        return
    for node in ast.walk(module.tree):
        if not isinstance(node, FUNCTIONS) or not node.name.startswith("test_") or ast.get_docstring(node):
            continue
        if len(node.name.split("_")) <= SENTENCE_WORDS:
            yield f"{module.path}:{node.lineno}: {node.name} does not say what is true: give it a docstring"


ALL_RULES: Final[tuple[Rule, ...]] = (
    imports_point_down,
    programs_meet_on_the_wire,
    only_app_constructs,
    dependencies_are_known_in_one_place,
    openai_json_has_one_place,
    pure_modules_stay_pure,
    simulations_are_drawn_from_a_seed,
    files_are_short,
    functions_are_short,
    exceptions_are_named,
    nothing_prints,
    limits_have_units_and_reasons,
    public_names_have_docstrings,
    tests_say_their_truth,
)


def names_a_machine(path: str, text: str) -> Iterator[str]:
    """No tracked file names a path of one machine, or a package registry's host or address."""
    for number, line in enumerate(text.splitlines(), 1):
        if found := MACHINE.search(line):
            yield f"{path}:{number}: {found.group()!r} is of one machine or a registry: take it out"
