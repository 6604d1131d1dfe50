"""What a run says: ratios, geometric means, and whether the goals are met."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gpu.floors import COPY
from gpu.measure import Result

HEURISTIC = "dinat"
TACTIC_PREFIX = "dinat:"
FLOOR_SHARE_GOAL = 0.70
# Two timings closer than this are a tie: repeated measurements of one kernel differ by as much.
TIE = 0.02


def is_ours(name: str) -> bool:
    return name == HEURISTIC or name.startswith((TACTIC_PREFIX, HEURISTIC + ","))


def geometric_mean(values: Iterable[float]) -> float:
    """NaN for no values."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def microseconds(result: Result, name: str) -> float | None:
    timing = result.timings.get(name)
    return None if timing is None else timing.median


def floor_share(result: Result, name: str = HEURISTIC) -> float | None:
    """The copy floor's time as a share of a contestant's; above 1 the contestant is faster."""
    floor, time = microseconds(result, COPY), microseconds(result, name)
    return None if floor is None or time is None else floor / time


def best_tactic(result: Result) -> tuple[str, float] | None:
    """Name and microseconds of the fastest tactic."""
    times = [
        (timing.median, name)
        for name, timing in result.timings.items()
        if name.startswith(TACTIC_PREFIX)
    ]
    if not times:
        return None
    time, name = min(times)
    return name.removeprefix(TACTIC_PREFIX), time


def best_rival(result: Result) -> tuple[str, float] | None:
    """Name and microseconds of the fastest rival that does the whole job."""
    times = [
        (timing.median, name)
        for name, timing in result.timings.items()
        if name in result.complete and not is_ours(name)
    ]
    if not times:
        return None
    time, name = min(times)
    return name, time


@dataclass(frozen=True)
class Verdict:
    """One goal. ``met`` is None where nothing was measured that decides it."""

    goal: str
    met: bool | None
    detail: str

    @property
    def line(self) -> str:
        word = {True: "MET", False: "MISSED", None: "NOT DECIDED"}[self.met]
        return f"{word}: {self.goal}. {self.detail}"


def _judge(goal: str, good: Sequence[bool], detail: str, expected: int) -> Verdict:
    """Missed as soon as one row misses; met only if every expected row was measured."""
    count = f"{sum(good)} of {len(good)} rows measured ({expected} planned)."
    if not good:
        return Verdict(goal, None, f"No row of {expected} was measured.")
    if not all(good):
        return Verdict(goal, False, f"{count} {detail}")
    return Verdict(goal, True if len(good) >= expected else None, f"{count} {detail}")


def floor_verdict(results: Sequence[Result], expected: int) -> Verdict:
    """At least 70 % of the copy floor on every row that the goal names."""
    shares = {
        result.row.name: share
        for result in results
        if result.row.is_goal and (share := floor_share(result)) is not None
    }
    goal = (
        f"at least {FLOOR_SHARE_GOAL:.0%} of the copy floor, float16, k 7: 512 and above at "
        "batch 1, 224 at batch 64"
    )
    detail = ""
    if shares:
        worst = min(shares, key=lambda name: shares[name])
        mean = geometric_mean(shares.values())
        detail = f"Geometric mean {mean:.0%}, worst {shares[worst]:.0%} ({worst})."
    return _judge(goal, [share >= FLOOR_SHARE_GOAL for share in shares.values()], detail, expected)


def rival_verdict(results: Sequence[Result], expected: int) -> Verdict:
    """Never slower than the best rival, ties within the noise allowed."""
    ratios = {}
    for result in results:
        ours, rival = microseconds(result, HEURISTIC), best_rival(result)
        if ours is not None and rival is not None:
            ratios[result.row.name, rival[0]] = rival[1] / ours
    detail = ""
    if ratios:
        worst = min(ratios, key=lambda key: ratios[key])
        mean = geometric_mean(ratios.values())
        detail = (
            f"Geometric mean {mean:.2f} times as fast, worst {ratios[worst]:.2f} "
            f"({worst[0]}, {worst[1]})."
        )
    good = [ratio >= 1 - TIE for ratio in ratios.values()]
    return _judge(
        f"never slower than the best rival (ties within {TIE:.0%})", good, detail, expected
    )


def choice_verdict(results: Sequence[Result], expected: int) -> Verdict:
    """The heuristic's choice against the fastest tactic."""
    losses = {}
    for result in results:
        ours, best = microseconds(result, HEURISTIC), best_tactic(result)
        if ours is not None and best is not None:
            losses[result.row.name, best[0]] = ours / best[1]
    detail = ""
    if losses:
        worst = max(losses, key=lambda key: losses[key])
        mean = geometric_mean(losses.values())
        detail = (
            f"Geometric mean {mean:.2f} times the fastest tactic's time, worst "
            f"{losses[worst]:.2f} ({worst[0]}, {worst[1]})."
        )
    good = [loss <= 1.1 for loss in losses.values()]
    return _judge("the heuristic within 10% of the fastest tactic", good, detail, expected)


def correctness_verdict(results: Sequence[Result], expected: int) -> Verdict:
    """Every one of our contestants agreed with float64 and ran, on every row."""
    faults = [
        f"{name} on {result.row.name}: {reason}"
        for result in results
        for name, reason in result.left_out.items()
        if is_ours(name)
    ]
    ran = sum(is_ours(name) for result in results for name in result.timings)
    goal = "every tactic runs and agrees with float64"
    detail = f"{ran} runs on {len(results)} of {expected} rows. " + "; ".join(faults[:5])
    if faults:
        return Verdict(goal, False, detail)
    return Verdict(goal, True if ran and len(results) >= expected else None, detail.strip())


def all_verdicts(results: Sequence[Result], planned: int, planned_goals: int) -> list[Verdict]:
    return [
        correctness_verdict(results, planned),
        floor_verdict(results, planned_goals),
        rival_verdict(results, planned),
        choice_verdict(results, planned),
    ]


def merged(rows: Sequence[Result], flex: Sequence[Result]) -> list[Result]:
    """Rows with what flex_attention took on them, scaled by our kernel's time in both runs.

    The sections run minutes apart; the kernel, timed in both, carries the clock across.
    """
    later = {result.row: result for result in flex}
    joined = []
    for result in rows:
        other = later.get(result.row)
        ours = microseconds(result, HEURISTIC)
        theirs = None if other is None else microseconds(other, HEURISTIC)
        if other is None or ours is None or not theirs:
            joined.append(result)
            continue
        scale = ours / theirs
        timings = dict(result.timings)
        for name, timing in other.timings.items():
            if name not in timings:
                timings[name] = type(timing)(
                    timing.median * scale, timing.spread * scale, timing.samples
                )
        joined.append(
            Result(
                result.row,
                result.rotation,
                result.footprint_bytes,
                timings,
                result.errors | other.errors,
                other.left_out | result.left_out,
                [*result.complete, *(n for n in other.complete if n not in result.complete)],
                result.notes | other.notes,
            )
        )
    return joined
