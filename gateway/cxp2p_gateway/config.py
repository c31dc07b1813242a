"""What an operator may set. One TOML file; any field can be overridden as CXP2P_GATEWAY_<SECTION>__<FIELD>."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field, IPvAnyNetwork, SecretStr, model_validator

from cxp2p.egress import PORTS
from cxp2p.peer import PeerSettings
from cxp2p.program import LogForm
from cxp2p_gateway.accounts import UserIdRule
from cxp2p_gateway.openai.embeddings import MATRYOSHKA, TokenInput
from cxp2p_gateway.origins import LOOPBACK
from cxp2p_gateway.people import Signup

CREDIT = 100_000_000_000  # µcredits of the first account: it is the operator's own
WORKERS_MAX = 64
POSTGRESQL = ("postgresql://", "postgres://")


class GatewayPeerSettings(PeerSettings):
    """A gateway asks and is never asked: nobody has to reach it, and it keeps no records for others."""

    listen: tuple[str, ...] = Field(
        ("/ip4/127.0.0.1/tcp/0",), description="Multiaddresses to listen on; port 0 takes a free one."
    )
    dht_server: bool = Field(False, description="Keep DHT records for others, as nodes do.")


class HttpSettings(BaseModel):
    """The OpenAI-style HTTP interface."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", min_length=1, description="Where to listen; 0.0.0.0 for all interfaces.")
    port: int = Field(8080, ge=0, le=65_535, description="0 takes a free port.")
    hold_s: float = Field(15.0, gt=0, le=600, description="How long an answer may wait for its first piece before 200.")
    keep_alive_s: float = Field(15.0, gt=0, le=600, description="A comment is sent in silent streams this often.")
    workers: int = Field(
        1, ge=1, le=WORKERS_MAX, description="Processes that serve this port; more than one need database.url."
    )
    deadline_s: float = Field(600.0, gt=0, le=86_400, description="The longest that one job may take.")
    grace_s: float = Field(30.0, ge=0, le=3600, description="On SIGTERM, how long running answers may take to finish.")
    connections_max: int = Field(1024, ge=1, le=100_000, description="Connections at once; each takes a descriptor.")
    connections_per_address_max: int = Field(
        256, ge=1, le=100_000, description="Of these from one IPv4 address, or 64 bits of IPv6; proxies see below."
    )
    requests_per_key_max: int = Field(512, ge=1, le=100_000, description="Requests at once with one key.")
    trusted_proxies: tuple[IPvAnyNetwork, ...] = Field(
        LOOPBACK,
        max_length=1024,
        description="Networks whose X-Forwarded-For is believed; requests at once are counted for whom it names.",
    )


class AccountSettings(BaseModel):
    """Who may come in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_id: UserIdRule = Field(
        UserIdRule.MATCH, description='X-User-Id: "match" takes requests without it, "require" does not.'
    )
    credit: int = Field(CREDIT, ge=0, le=2**62, description="µcredits that the account of the first start begins with.")
    signup: Signup = Field(
        Signup.CLOSED, description='"open": anybody makes an account on the dashboard; "closed": only the operator.'
    )
    accounts_max: int = Field(
        1_000_000, ge=1, le=10**9, description="Nobody signs up any more when there are so many accounts."
    )
    signup_credit: int = Field(
        1_000_000_000, ge=0, le=2**62, description="µcredits that an account begins with which somebody signed up for."
    )
    referral_credit: int = Field(
        100_000_000, ge=0, le=2**62, description="µcredits for who brought somebody, once for each."
    )
    referrals_max: int = Field(100, ge=0, le=1_000_000, description="For so many, at most, of each account.")
    session_days: int = Field(14, ge=1, le=365, description="How long a browser stays logged in.")


class DashboardSettings(BaseModel):
    """The pages for people, on the same port."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(True, description="Whether there are any.")
    public_url: AnyHttpUrl | None = Field(
        None,
        description="How browsers reach this gateway, e.g. https://cxmpute.example; what they ask for if not set. "
        "With https cookies are for https only.",
    )


class DatabaseSettings(BaseModel):
    """Where accounts, keys, credit and receipts are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: SecretStr | None = Field(
        None,
        description="A PostgreSQL that several gateways may share: postgresql://user:password@host/name. "
        "If not set: a SQLite file in data_path.",
    )

    @model_validator(mode="after")
    def _is_postgresql(self) -> DatabaseSettings:
        if self.url is not None and not self.url.get_secret_value().startswith(POSTGRESQL):
            raise ValueError("url: expected postgresql://user:password@host/name")
        return self


class JobSettings(BaseModel):
    """How much is done at once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    jobs_max: int = Field(256, ge=1, le=100_000, description="Jobs at once; more are told to come back.")
    share_prefix_cache_between_accounts: bool = Field(
        False,
        description="Reuse what a node computed for one account's prompts for another's: faster, but it can be timed.",
    )


class EmbeddingSettings(BaseModel):
    """What `POST /embeddings` takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    token_input: TokenInput = Field(
        TokenInput.REJECT,
        description='Token ids instead of text: "reject" them, take them for the model\'s own ("native"), or for '
        'OpenAI\'s ("cl100k", which LangChain sends whatever the model is).',
    )
    native: tuple[str, ...] = Field(
        (), max_length=1024, description="Models whose own token ids are taken, whatever token_input says."
    )
    cl100k_path: Path | None = Field(
        None, description='The file cl100k_base.tiktoken, which token_input = "cl100k" needs; see docs/guide.md.'
    )
    matryoshka: tuple[str, ...] = Field(
        MATRYOSHKA, description="Models whose vectors `dimensions` may shorten; a name covers all its tags."
    )

    @model_validator(mode="after")
    def _has_its_table(self) -> EmbeddingSettings:
        if (self.token_input is TokenInput.CL100K) != (self.cl100k_path is not None):
            raise ValueError('token_input = "cl100k" and cl100k_path: one needs the other')
        return self


class ScrapeSettings(BaseModel):
    """Which URLs `POST /scrape` takes. A node looks at each again, and at what its host resolves to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    allow: tuple[str, ...] = Field(
        (),
        max_length=256,
        description="Hosts and networks that are let through though they are not public, e.g. 127.0.0.1, *.lan.",
    )
    ports: tuple[Annotated[int, Field(ge=1, le=65_535)], ...] = Field(
        PORTS, min_length=1, max_length=256, description="Ports that pages may be on."
    )


class ReceiptSettings(BaseModel):
    """How long what was signed about a job is kept. Credit does not depend on it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    days: int = Field(90, ge=1, le=36_500, description="Receipts older than so many days are dropped.")
    kept_max: int = Field(
        1_000_000, ge=1, le=10**9, description="At most so many are kept, 2 KB each; the oldest are dropped first."
    )
    late_credit_max: int = Field(
        50_000_000,
        ge=0,
        description="µcredits a day that you pay one node at most for answers that broke off and that it claims later.",
    )


class MetricsSettings(BaseModel):
    """What is counted, for Prometheus: GET /metrics on a port of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", min_length=1, description="Where to listen. Whoever can reach it can read it.")
    port: int | None = Field(
        None, ge=0, le=65_535, description="Off if not set; 0 takes a free port. Worker 2 has the next one, and so on."
    )


class LogSettings(BaseModel):
    """What the gateway says on standard error."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: LogForm = Field(LogForm.TEXT, description='"text" for people, "json" for programs: an object a line.')


class GatewaySettings(BaseModel):
    """Everything a gateway can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data_path: Path | None = Field(None, description="Key and database; the system's data folder if not set.")
    peer: GatewayPeerSettings = Field(
        default_factory=GatewayPeerSettings, description="Who this peer is and how it meets others."
    )
    http: HttpSettings = Field(default_factory=HttpSettings, description="The OpenAI-style HTTP interface.")
    accounts: AccountSettings = Field(default_factory=AccountSettings, description="Who may come in.")
    dashboard: DashboardSettings = Field(
        default_factory=DashboardSettings, description="The pages for people, on the same port."
    )
    database: DatabaseSettings = Field(
        default_factory=DatabaseSettings, description="Where accounts, keys, credit and receipts are kept."
    )
    jobs: JobSettings = Field(default_factory=JobSettings, description="How much is done at once.")
    embeddings: EmbeddingSettings = Field(
        default_factory=EmbeddingSettings, description="What `POST /embeddings` takes."
    )
    scrape: ScrapeSettings = Field(default_factory=ScrapeSettings, description="Which URLs `POST /scrape` takes.")
    receipts: ReceiptSettings = Field(default_factory=ReceiptSettings, description="How long receipts are kept.")
    metrics: MetricsSettings = Field(default_factory=MetricsSettings, description="What is counted, for Prometheus.")
    log: LogSettings = Field(default_factory=LogSettings, description="What the gateway says on standard error.")
