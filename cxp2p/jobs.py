"""What is asked of a node, and what its answer is made of: the records inside of an Ask and of a Piece."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Final, TypeAlias

from annotated_types import Ge, Le, Len, MaxLen
from pydantic import Strict

from cxp2p.kinds import Blob, Count, Flag, Name, Natural, Text, TokenId, Word, record


class Service(Word):
    """A kind of work. Units in and out: tokens, tokens; tokens, vectors; characters, audio ms; pages, pages."""

    CHAT = "chat"
    EMBED = "embed"
    SPEECH = "speech"
    SCRAPE = "scrape"


class Role(Word):
    """Who says a message."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@record
class ToolCall:
    """A tool call in an earlier turn. `arguments` is JSON as the model wrote it."""

    id: Name
    name: Name
    arguments: Text


@record
class Message:
    """One turn of a conversation. `tool_call_id`: of a tool's answer, which call it answers."""

    role: Role
    content: Text
    name: Name | None = None
    tool_calls: Annotated[tuple[ToolCall, ...], Len(0, 128)] = ()
    tool_call_id: Name | None = None


@record
class Tool:
    """A function that the model may call. `parameters` is a JSON Schema as JSON text; empty: any object."""

    name: Annotated[str, Strict(), Len(1, 64)]
    description: Text = ""
    parameters: Text = ""


class ToolMode(Word):
    """Whether the model calls tools: as it likes, never, at least one, or the one that is named."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"
    NAMED = "named"


class AnswerForm(Word):
    """What an answer must be: free text, any JSON object, or JSON of a schema."""

    TEXT = "text"
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"


@record
class Sampling:
    """How the next token is drawn. `top_k` 0: from all. `seed` None: the order's seed is used."""

    temperature: Annotated[float, Strict(), Ge(0), Le(2)] = 0.7
    top_p: Annotated[float, Strict(), Ge(0), Le(1)] = 1.0
    top_k: Count = 0
    min_p: Annotated[float, Strict(), Ge(0), Le(1)] = 0.0
    repeat_penalty: Annotated[float, Strict(), Ge(0.01), Le(10)] = 1.0
    frequency_penalty: Annotated[float, Strict(), Ge(-2), Le(2)] = 0.0
    presence_penalty: Annotated[float, Strict(), Ge(-2), Le(2)] = 0.0
    logit_bias: Annotated[tuple[tuple[TokenId, Annotated[float, Strict(), Ge(-100), Le(100)]], ...], Len(0, 1024)] = ()
    seed: Annotated[int, Strict(), Ge(-(2**63)), Le(2**63 - 1)] | None = None


@record
class ChatJob:
    """A chat completion. `max_tokens` None: as many as the context and the order allow.

    `tool_name`: the tool that ToolMode.NAMED means. `schema`: of AnswerForm.JSON_SCHEMA, as JSON text. `logprobs`: how
    many alternatives to tell for each token; None: none, and not the token's own either. `cache_salt`: what was
    computed for a prompt may be used again only for a job of the same salt. `thinking`: whether a model that can think
    before it answers should; None: as its template has it.
    """

    model: Name
    messages: Annotated[tuple[Message, ...], Len(1, 1024)]
    max_tokens: Annotated[int, Strict(), Ge(1), Le(2**31 - 1)] | None = None
    stop: Annotated[tuple[Annotated[str, Strict(), Len(1, 1024)], ...], Len(0, 4)] = ()
    sampling: Sampling = Sampling()
    tools: Annotated[tuple[Tool, ...], Len(0, 128)] = ()
    tool_mode: ToolMode = ToolMode.AUTO
    tool_name: Name | None = None
    parallel_calls: Flag = True
    form: AnswerForm = AnswerForm.TEXT
    schema: Text = ""
    logprobs: Annotated[int, Strict(), Ge(0), Le(20)] | None = None
    cache_salt: Annotated[bytes, Strict(), MaxLen(32)] = b""
    thinking: Flag | None = None


Tokens = Annotated[tuple[TokenId, ...], Len(1, 131_072)]


@record
class EmbedJob:
    """A vector for each input, in their order; an input is a text, or tokens of this model without its marks.

    `truncate`: an input that is too long for the model is cut; otherwise it is a failure. The answer's bytes are the
    vectors one after another, of length 1, each number a float32, little-endian.
    """

    model: Name
    inputs: Annotated[tuple[Text | Tokens, ...], Len(1, 2048)]
    truncate: Flag = True


@record
class SpeechJob:
    """A text read aloud; `model` is the voice.

    The answer's bytes are samples of one channel, 22,050 a second, 16 bits signed, little-endian.
    """

    model: Name
    text: Annotated[str, Strict(), Len(1, 10_000)]
    speed: Annotated[float, Strict(), Ge(0.25), Le(4)] = 1.0


class PageForm(Word):
    """What becomes of a web page."""

    MARKDOWN = "markdown"
    TEXT = "text"
    HTML = "html"


class Render(Word):
    """Whether a page's scripts are run: never, or where it is empty without them."""

    NEVER = "never"
    AUTO = "auto"


@record
class ScrapeJob:
    """Web pages to fetch and read. The answer's bytes are frames, each a `ScrapedPage`, in any order.

    `main_only`: without navigation, footers and the like. `age_s_max`: a copy that is no older will do. `wait_ms`: how
    long a page's scripts may take.
    """

    model: Name
    urls: Annotated[tuple[Annotated[str, Strict(), Len(1, 2048)], ...], Len(1, 50)]
    form: PageForm = PageForm.MARKDOWN
    main_only: Flag = True
    links: Flag = False
    timeout_s: Annotated[int, Strict(), Ge(1), Le(60)] = 30
    age_s_max: Annotated[int, Strict(), Ge(0), Le(30 * 86_400)] = 0
    render: Render = Render.NEVER
    wait_ms: Annotated[int, Strict(), Ge(0), Le(30_000)] = 0


class PageFault(Word):
    """Why there is no content of a page."""

    INVALID_URL = "invalid_url"
    URL_BLOCKED = "url_blocked"
    ROBOTS_DISALLOWED = "robots_disallowed"
    DNS_ERROR = "dns_error"
    CONNECT_ERROR = "connect_error"
    TLS_ERROR = "tls_error"
    TIMEOUT = "timeout"
    HTTP_ERROR = "http_error"
    TOO_LARGE = "too_large"
    UNSUPPORTED_CONTENT_TYPE = "unsupported_content_type"
    EXTRACTION_EMPTY = "extraction_empty"


PageWords = Annotated[str, Strict(), MaxLen(2048)]


@record
class ScrapedPage:
    """What came of url `number` of a ScrapeJob. `published`: as ISO 8601. `status`: of HTTP, 0 if there was none."""

    number: Count
    content: Text = ""
    fault: PageFault | None = None
    reason: PageWords = ""
    title: PageWords = ""
    description: PageWords = ""
    author: PageWords = ""
    published: PageWords = ""
    language: PageWords = ""
    final_url: PageWords = ""
    content_type: PageWords = ""
    status: Count = 0
    fetched_at_ms: Natural = 0
    cached: Flag = False
    rendered: Flag = False


Job: TypeAlias = ChatJob | EmbedJob | SpeechJob | ScrapeJob
JobType: TypeAlias = type[ChatJob] | type[EmbedJob] | type[SpeechJob] | type[ScrapeJob]

JOB_OF: Final[Mapping[Service, JobType]] = MappingProxyType(
    {Service.CHAT: ChatJob, Service.EMBED: EmbedJob, Service.SPEECH: SpeechJob, Service.SCRAPE: ScrapeJob}
)
_SERVICE_OF: Final = {kind: service for service, kind in JOB_OF.items()}


def service_of(job: Job) -> Service:
    """Which service does such a job."""
    return _SERVICE_OF[type(job)]


@record
class CallPart:
    """A part of tool call `number` of an answer: its name with the first part, then its arguments as JSON text."""

    number: Count
    name: Name | None = None
    arguments: Text = ""


@record
class Alternative:
    """A token that could have been drawn. `data` are its bytes, which need not be whole characters."""

    data: Blob
    logprob: float


@record
class Logprob:
    """How likely a drawn token was, and the likeliest others."""

    data: Blob
    logprob: float
    top: Annotated[tuple[Alternative, ...], Len(0, 20)] = ()
