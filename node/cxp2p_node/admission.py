"""Whether a node takes one more job. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cxp2p.records import Load, Refusal, RefusalCode

RETRY_MS_MIN = 250
RETRY_MS_MAX = 60_000
LOADING_MS_MAX = 60_000  # a job does not wait longer for its model: askers leave after two minutes of silence
JOB_MS_GUESS = 2_000  # until this desk has measured itself
EWMA_WEIGHT = 0.2
COUNT_MAX = 2**31 - 1


@dataclass(slots=True)
class Desk:
    """The queue in front of one engine: `slots` jobs run, `queue_max` more wait."""

    slots: int
    queue_max: int
    running: int = 0
    queued: int = 0
    job_ms: float = 0.0
    first_piece_ms: float = 0.0
    units_per_s: float = 0.0

    def load(self, loading_ms: int = 0) -> Load:
        """How busy it is. `loading_ms`: as the engine says."""
        return Load(
            running=self.running,
            queued=self.queued,
            first_piece_ms=round(min(self.first_piece_ms, COUNT_MAX)),
            units_per_s=round(min(self.units_per_s, COUNT_MAX)),
            loading_ms=loading_ms,
        )


def decide(desk: Desk, *, ready: bool, draining: bool, loading_ms: int = 0) -> Refusal | None:
    """None: the job may enter. A refusal says when to come back: when a place should be free, or the model loaded."""
    if draining:
        return Refusal(code=RefusalCode.DRAINING, reason="this node is going away", retry_after_ms=0)
    if loading_ms > LOADING_MS_MAX:
        reason = f"the model is not in memory, and will not be for about {loading_ms // 1000} s"
        return Refusal(code=RefusalCode.BUSY, reason=reason, retry_after_ms=min(loading_ms, RETRY_MS_MAX))
    if not ready and desk.queued >= desk.queue_max:
        return Refusal(code=RefusalCode.BUSY, reason="the engine is not ready", retry_after_ms=RETRY_MS_MIN)
    if desk.running + desk.queued >= desk.slots + desk.queue_max:
        reason = f"{desk.running} jobs run and {desk.queued} wait here"
        return Refusal(code=RefusalCode.BUSY, reason=reason, retry_after_ms=retry_after_ms(desk))
    return None


def retry_after_ms(desk: Desk) -> int:
    """How long until one of the slots should be free, from the length of recent jobs."""
    wait = (desk.job_ms or JOB_MS_GUESS) / max(1, desk.slots)
    return round(min(max(wait, RETRY_MS_MIN), RETRY_MS_MAX))


def measure(desk: Desk, job_ms: float, first_piece_ms: float, out_units: int) -> None:
    """Takes a finished job into the desk's moving averages."""
    desk.job_ms = _blend(desk.job_ms, job_ms)
    if out_units:
        desk.first_piece_ms = _blend(desk.first_piece_ms, first_piece_ms)
    if out_units > 1 and job_ms > first_piece_ms:
        desk.units_per_s = _blend(desk.units_per_s, 1000 * (out_units - 1) / (job_ms - first_piece_ms))


def _blend(old: float, new: float) -> float:
    return new if not old else old + EWMA_WEIGHT * (new - old)
