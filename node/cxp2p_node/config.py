"""What an operator may set. One TOML file; any field can be overridden as CXP2P_NODE_<SECTION>__<FIELD>."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cxp2p.peer import PeerSettings

# µcredits per million tokens: a small model on a home machine, well under what hosted models of its size cost.
PRICE_IN = 20_000
PRICE_OUT = 60_000


class ModelSettings(BaseModel):
    """One model that this node serves."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="The model's name in the catalogue, e.g. smollm2:135m.")
    engine: Literal["llama", "echo"] = Field("llama", description="llama: llama.cpp. echo: no model, for trying out.")
    path: Path | None = Field(None, description="A GGUF file of your own, instead of the catalogue's.")
    slots: int | None = Field(None, ge=1, le=256, description="Jobs at once; chosen from the machine if not set.")
    queue_max: int = Field(32, ge=0, le=10_000, description="Jobs that may wait; more are refused with a time.")
    context_units: int | None = Field(None, ge=256, description="Tokens of context for each job.")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads; all cores if not set.")
    gpu_layers: int = Field(0, ge=-1, description="Layers on the GPU; -1 for all. Needs a GPU build of llama.cpp.")
    keep: bool = Field(False, description="Keep the model in memory, whatever else is asked for.")
    idle_s: float | None = Field(None, ge=1, description="Unload the model when nobody asked for it for so long.")
    price_in: int = Field(PRICE_IN, ge=0, description="µcredits per million input tokens.")
    price_out: int = Field(PRICE_OUT, ge=0, description="µcredits per million output tokens.")


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


class NodeSettings(BaseModel):
    """Everything a node can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_path: Path | None = Field(None, description="Where the key is kept; the system's data folder if not set.")
    models_path: Path | None = Field(None, description="Where model files are kept; shared by all nodes of a user.")
    pull: bool = Field(True, description="Fetch models of the catalogue that are not on this machine yet.")
    peer: PeerSettings = Field(default_factory=PeerSettings, description="Who this peer is and how it meets others.")
    memory: MemorySettings = Field(default_factory=MemorySettings, description="What models may take of the memory.")
    work: WorkSettings = Field(default_factory=WorkSettings, description="For whom this node works.")
    models: tuple[ModelSettings, ...] = Field(
        (ModelSettings(name="smollm2:135m"),), min_length=1, max_length=60, description="The models that are served."
    )
