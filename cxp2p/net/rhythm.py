"""How often a peer speaks and asks when nothing happens: the clockwork of a network, the same at all its peers."""

from __future__ import annotations

from dataclasses import dataclass

from cxp2p import protocols


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """What a network does again and again. What changes is told at once all the same, whatever the rhythm.

    `beat_s`: a node says to whoever watches it that it is there, and the directory is tidied. `exchange_s`: a peer asks
    others for offers, `peers_asked` of them. `lookup_s_max`: the DHT is asked who serves the models in use, sooner
    while that changes. `turn_s`: nodes take turns at being watched. `claim_s`: nodes claim what nobody countersigned.
    `tidy_s`: they drop the papers that they need not keep.

    A slower rhythm is for networks in virtual time: in a day of 50 nodes and 5 gateways there are 21.6 million beats.
    Who beats more slowly than the others expect is taken for dead.
    """

    beat_s: float = protocols.WATCH_BEAT_S
    exchange_s: float = protocols.EXCHANGE_INTERVAL_S
    peers_asked: int = 3
    lookup_s_max: float = 10.0
    turn_s: float = 10.0
    claim_s: float = 10.0
    tidy_s: float = 60.0

    def __post_init__(self) -> None:
        for name, seconds in (
            ("beat_s", self.beat_s),
            ("exchange_s", self.exchange_s),
            ("lookup_s_max", self.lookup_s_max),
            ("turn_s", self.turn_s),
            ("claim_s", self.claim_s),
            ("tidy_s", self.tidy_s),
        ):
            if not 0 < seconds <= BEAT_S_MAX:
                raise ValueError(f"{name} is {seconds:g}, expected more than 0 and at most {BEAT_S_MAX:g} seconds")
        if self.peers_asked < 1:
            raise ValueError(f"peers_asked is {self.peers_asked}, expected at least 1")

    @property
    def silence_s(self) -> float:
        """How long a node may say nothing until it is taken for gone."""
        return self.beat_s * protocols.WATCH_BEATS_MISSED_MAX

    @property
    def alive_s(self) -> float:
        """How long a node may be used after it was heard: until what it should say next is late for sure."""
        return self.silence_s + 0.5


BEAT_S_MAX = protocols.OFFER_LIFE_MS_MAX / 1000 - protocols.OFFER_PUT_INTERVAL_S  # what is told is still valid then
