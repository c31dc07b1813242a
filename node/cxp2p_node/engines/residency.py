"""Which models are in memory: what is loaded next, and what makes room for it. Pure: `now` is monotonic seconds.

A model that jobs wait for is loaded. If it does not fit beside the others, those make room that were used longest ago,
never one with a running job. Models that do not fit together take turns: each stays for a time that is worth its
loading, and does all jobs that come meanwhile; then it takes no more, and when the last one has ended it makes room.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from cxp2p.errors import SettingsError

STAY_LOADS: Final = 4.0  # a model stays so many times as long as its loading took: a fifth of the time is lost at most
STAY_S_MIN: Final = 2.0
STAY_S_MAX: Final = 60.0  # the jobs of the others wait meanwhile
RETRY_S_FIRST: Final = 2.0
RETRY_S_MAX: Final = 600.0  # a file that is broken stays broken, until somebody does something about it
WISH_S: Final = 90.0  # a job that was sent away because of a long loading should come back within this time
LOADS_MAX: Final = 2  # at once: a long one does not keep a short one waiting
LOOK_AGAIN_S: Final = 5.0  # when other programs have the memory
DRAIN_S_GUESS: Final = 5.0  # until the jobs that run have ended
LOAD_S_LEAST: Final = 1.0  # until the worker process is there, and has made its first token
BYTES_PER_S_GUESS: Final = 500e6  # of a disk, until a loading was measured
MIB: Final = 1 << 20


class State(Enum):
    """Where a model is between disk and memory."""

    ABSENT = auto()
    LOADING = auto()
    LOADED = auto()
    LEAVING = auto()
    FAILED = auto()  # the last loading failed: it is tried again after a while


IN_MEMORY: Final = frozenset({State.LOADING, State.LOADED, State.LEAVING})


@dataclass(slots=True, eq=False)
class Resident:
    """One model. `load_s` is what its last loading took, or a guess; `bytes_needed` is what it takes once loaded.

    `since` is when it came into its state, `used_at` when its last job ended. `takers` are the jobs that run;
    `waiting` says of each job that waits since when. `wished_at`: when a job was last sent away because of the loading.
    `due`: it is to be loaded at the start, also if nobody asks for it.
    """

    name: str
    bytes_needed: int
    load_s: float
    keep: bool = False
    due: bool = False
    idle_s: float = math.inf
    state: State = State.ABSENT
    since: float = 0.0
    used_at: float = 0.0
    takers: int = 0
    waiting: list[float] = field(default_factory=list)
    wished_at: float = -math.inf
    failures: int = 0

    def enter(self, state: State, now: float) -> None:
        """Comes into another state."""
        self.state, self.since = state, now
        self.due = self.due and state is State.LOADING
        if state is State.LOADED:
            self.used_at, self.failures, self.wished_at = now, 0, -math.inf
        elif state is State.FAILED:
            self.failures += 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now. `closed` are in memory but get no more jobs.

    At `wake_at` it is time to plan again, and what `ready_in_s` says changes.
    """

    load: tuple[Resident, ...]
    unload: tuple[Resident, ...]
    closed: frozenset[str]
    wake_at: float


def guess_load_s(file_bytes: int) -> float:
    """How long a loading may take that was not measured yet."""
    return LOAD_S_LEAST + file_bytes / BYTES_PER_S_GUESS


def stay_s(model: Resident) -> float:
    """How long a model stays at least, once it is loaded."""
    return min(max(STAY_LOADS * model.load_s, STAY_S_MIN), STAY_S_MAX)


def stays_until(model: Resident) -> float:
    """Until when a model that is loaded, or being loaded, makes no room for others."""
    begun = model.since + model.load_s if model.state is State.LOADING else model.since
    return begun + stay_s(model)


def retry_at(model: Resident) -> float:
    """When a model that failed is tried again."""
    return model.since + min(RETRY_S_FIRST * 2.0 ** min(model.failures - 1, 16), RETRY_S_MAX)


def first_loads(models: Sequence[Resident], bytes_max: int) -> list[Resident]:
    """What is loaded at the start: those that are kept, and of the others, in order, those that fit beside them.

    Raises SettingsError if a model could never be loaded, with the numbers and what to change.
    """
    kept = [model for model in models if model.keep]
    left = bytes_max - sum(model.bytes_needed for model in kept)
    for model in models:
        if model.bytes_needed > bytes_max:
            raise SettingsError(f"models: {model.name} needs {_too_much(model.bytes_needed, bytes_max)}")
    if left < 0:
        names = ", ".join(model.name for model in kept)
        raise SettingsError(f"models: {names} are to be kept and need {_too_much(bytes_max - left, bytes_max)}")
    for model in models:
        if not model.keep and model.bytes_needed > left:
            raise SettingsError(
                f"models: beside those that are kept {model.name} needs {_too_much(model.bytes_needed, left)}"
            )
    first = list(kept)
    for model in models:
        if not model.keep and model.bytes_needed <= left:
            first.append(model)
            left -= model.bytes_needed
    return first


def _too_much(needed: int, allowed: int) -> str:
    return (
        f"{-(-needed // MIB)} MiB of memory, and {allowed // MIB} MiB are allowed: lower `slots` or `context_units`, "
        "choose a smaller model, or raise memory.models_mib_max"
    )


def wanted_since(model: Resident, now: float) -> float | None:
    """Since when a model should be loaded that is not; None if nobody wants it, or if it is not yet its time."""
    if model.state not in (State.ABSENT, State.FAILED):
        return None
    reasons = list(model.waiting)
    if now < model.wished_at + WISH_S:
        reasons.append(model.wished_at)
    if model.keep or model.due:
        reasons.append(model.since)
    if model.state is State.FAILED:
        if now < retry_at(model):
            return None
        reasons.append(retry_at(model))  # it is offered again only after a loading that went well
    return min(reasons, default=None)


def plan(models: Sequence[Resident], bytes_max: int, now: float) -> Plan:
    """What to load and what to unload now, for those first who have waited longest."""
    load: list[Resident] = []
    unload = [model for model in models if _idle_too_long(model, now)]
    closed: set[str] = set()
    wake_at = min((at for model in models if (at := _wakes_at(model, now)) > now), default=math.inf)
    held = sum(model.bytes_needed for model in models if model.state in IN_MEMORY)
    going = {model for model in models if model.state is State.LEAVING} | set(unload)
    later = held - sum(model.bytes_needed for model in going)  # when all that is under way is done
    loading = sum(model.state is State.LOADING for model in models)
    for model in _wanted(models, now):
        if loading + len(load) >= LOADS_MAX:
            break
        victims = _victims(models, going, later + model.bytes_needed - bytes_max, now)
        if victims is None:
            wake_at = min(wake_at, now + LOOK_AGAIN_S)
            continue
        later += model.bytes_needed - sum(victim.bytes_needed for victim in victims)
        going |= set(victims)
        if not victims and held + model.bytes_needed <= bytes_max:
            load.append(model)
            held += model.bytes_needed
        elif victims and (staying := max(map(stays_until, victims))) > now:
            wake_at = min(wake_at, staying)
        elif any(victim.state is State.LOADING for victim in victims):
            continue  # it takes longer than was thought; its end makes another plan
        elif any(victim.takers for victim in victims):
            closed |= {victim.name for victim in victims if victim.takers}
        else:
            unload += victims
    return Plan(tuple(load), tuple(unload), frozenset(closed), wake_at)


def ready_in_s(
    model: Resident, models: Sequence[Resident], bytes_max: int, closed: frozenset[str], now: float
) -> float:
    """How long until a job that comes now could run, as far as can be told. 0: the model is in memory."""
    if model.state is State.LOADED:
        return _turn_s(model, models, now) if model.name in closed else 0.0
    if model.state is State.LOADING:
        return max(model.load_s - (now - model.since), 0.1)
    wait_s = max(0.0, retry_at(model) - now) if model.state is State.FAILED else 0.0
    going = {other for other in models if other.state is State.LEAVING}
    held = sum(other.bytes_needed for other in models if other.state in IN_MEMORY and other not in going)
    victims = _victims(models, going, held + model.bytes_needed - bytes_max, now)
    if victims is None:
        return max(wait_s, LOOK_AGAIN_S) + model.load_s
    if victims:
        wait_s = max(wait_s, max(map(stays_until, victims)) - now)
    if any(victim.takers for victim in victims):
        wait_s = max(wait_s, DRAIN_S_GUESS)
    return wait_s + model.load_s


def _turn_s(model: Resident, models: Iterable[Resident], now: float) -> float:
    """Until it is the turn of a model again that makes room for another."""
    others = [other.load_s + stay_s(other) for other in models if wanted_since(other, now) is not None]
    return DRAIN_S_GUESS + max(others, default=0.0) + model.load_s


def _wanted(models: Iterable[Resident], now: float) -> list[Resident]:
    since = {model: at for model in models if (at := wanted_since(model, now)) is not None}
    return sorted(since, key=lambda model: (not model.keep, since[model]))


def _victims(models: Iterable[Resident], going: set[Resident], short: int, now: float) -> list[Resident] | None:
    """The fewest of the least useful that free `short` bytes; None if all together do not. Idle ones come first."""
    if short <= 0:
        return []
    able = [
        model
        for model in models
        if model.state in (State.LOADING, State.LOADED) and not model.keep and model not in going
    ]
    able.sort(key=lambda model: (stays_until(model) > now, model.takers > 0, _useful_at(model)))
    chosen: list[Resident] = []
    for model in able:
        if short > 0:
            chosen.append(model)
            short -= model.bytes_needed
    if short > 0:
        return None
    for model in list(chosen):
        if short + model.bytes_needed <= 0:  # a larger one that came after it is enough
            chosen.remove(model)
            short += model.bytes_needed
    return chosen


def _useful_at(model: Resident) -> float:
    """For those that run jobs it is when they came: what is chosen must not change with every job."""
    return model.since if model.takers else model.used_at


def _idle_too_long(model: Resident, now: float) -> bool:
    idle = not model.takers and not model.waiting and not model.keep and model.state is State.LOADED
    return idle and now >= max(model.used_at + model.idle_s, stays_until(model))


def _wakes_at(model: Resident, now: float) -> float:
    """When time alone changes what is to be done about a model; a time that is past means nothing."""
    if model.state is State.FAILED:
        return retry_at(model)
    if model.state is State.LOADED and not model.keep:
        staying = stays_until(model)
        return staying if now < staying else model.used_at + model.idle_s
    if model.state is State.ABSENT and now < model.wished_at + WISH_S:
        return model.wished_at + WISH_S
    return -math.inf
