"""What a report says in tables, as texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from dinat_deploy.evaluation.records import METRICS
from dinat_deploy.measurement.tables import Table, significant
from dinat_deploy.reporting.records import BundleRecord, ReportData, Run
from dinat_deploy.reporting.verdicts import (
    fastest,
    judge,
    megabytes,
    per_image,
    percent,
    points,
    primary,
)

_MEMORY = {
    "weights": "weights MB",
    "activations": "activations MB",
    "inputs_outputs": "inputs and outputs MB",
    "process": "process gained MB",
}
# Columns that say how figures came about, and not what they are.
_CONDITIONS = {"batch", "images", "data", "run by", "device", "from", "source", "mode"}
Column = tuple[str, bool, list[str]]


def verdicts(data: ReportData) -> Table:
    """One row for each artefact: accuracy, parity, speed and size, each with its mark."""
    rows = [[each.artefact.name, *(v.marked for v in each.all)] for each in judge(data)]
    heads = ["artefact", "accuracy", "parity with PyTorch", "speed", "size"]
    return Table(heads, [False] * len(heads), rows)


def bundles(data: ReportData) -> Table:
    """One column for each bundle, one row for each fact that one of them has."""
    found = data.bundles
    facts: list[tuple[str, Callable[[BundleRecord], str]]] = [
        ("directory", lambda b: b.path),
        ("model", lambda b: b.model),
        ("task", lambda b: b.task),
        ("weights", lambda b: b.weights + (" (random: accuracy means nothing)" * b.seeded)),
        ("image", lambda b: f"{b.image_size[0]} x {b.image_size[1]} pixels"),
        ("kernel size", lambda b: f"{b.kernel_size} x {b.kernel_size}"),
        ("parameters", lambda b: count(b.parameters)),
        ("multiply-accumulates", lambda b: count(b.macs)),
        ("published (not measured)", published),
        ("best measured", _best_score),
        ("fastest", _fastest),
        ("smallest", _smallest),
        ("calibrated on", lambda b: b.calibration or ""),
    ]
    rows = [[head, *(text(bundle) for bundle in found)] for head, text in facts]
    return Table(
        ["", *(bundle.name for bundle in found)],
        [False] * (1 + len(found)),
        [row for row in rows if any(row[1:])],
    )


def count(value: int | None) -> str:
    """Like ``20.0 M``."""
    if value is None:
        return ""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{significant(value / size)} {unit}"
    return str(value)


def published(bundle: BundleRecord) -> str:
    """The published score of the architecture, labelled so; empty if there is none."""
    found = bundle.published
    if found is None:
        return ""
    text = f"{found.percent:.1f} % {found.measure}"
    if found.image_size != bundle.image_size:
        text += f" (at {found.image_size[0]} x {found.image_size[1]} pixels)"
    return f"{text}, {found.model}"


def _best_score(bundle: BundleRecord) -> str:
    scored = [(a, a.accuracy[-1]) for a in bundle.artefacts if a.accuracy]
    known = [(primary(s) or 0.0, a, s) for a, s in scored if s.metric != "agreement"]
    if not known:
        return ""
    value, artefact, score = max(known, key=lambda each: each[0])
    return f"{percent(value)} {METRICS.get(score.metric, score.metric)}, {artefact.name}"


def _fastest(bundle: BundleRecord) -> str:
    runs = [run for artefact in bundle.artefacts for run in artefact.runs]
    if not runs:
        return ""
    run = min(runs, key=per_image)
    return f"{significant(per_image(run))} ms an image, {run.name}"


def _smallest(bundle: BundleRecord) -> str:
    known = [(a.bytes, a) for a in bundle.artefacts if a.bytes is not None and a.damage is None]
    if not known:
        return ""
    size, artefact = min(known, key=lambda each: each[0])
    return f"{megabytes(size)}, {artefact.name}"


def accuracy(data: ReportData) -> Table | None:
    """One row for each score of an artefact, and for each published one; None without scores."""
    scored = [(a, s) for a in data.artefacts for s in a.accuracy]
    if not scored:
        return None
    first = [a.name for a, _ in scored]
    columns: list[Column] = [("artefact", False, first)]
    _add(columns, "top-1", (percent(s.top1) for _, s in scored))
    _add(columns, "top-5", (percent(s.top5) for _, s in scored))
    _add(columns, "mIoU", (percent(s.miou) for _, s in scored))
    _add(columns, "pixels", (percent(s.pixel_accuracy) for _, s in scored))
    losses = [
        f"{points(s.lost.value)} ({points(s.lost.low)} to {points(s.lost.high)})" if s.lost else ""
        for _, s in scored
    ]
    _add(columns, "loss in points, 95 % interval", losses)
    allowed = ("" if s.max_drop is None else f"{s.max_drop:g}" for _, s in scored)
    _add(columns, "points allowed", allowed)
    _add(columns, "agreement", (percent(s.agreement) if s.reference else "" for _, s in scored))
    decibels = ("" if s.sqnr_db is None or not s.reference else f"{s.sqnr_db:.1f}"
                for _, s in scored)  # fmt: skip
    _add(columns, "SQNR dB", decibels)
    _add(columns, "images", (str(s.images) for _, s in scored))
    _add(columns, "data", (s.data for _, s in scored), numeric=False)
    ran = (s.runtime + (" (simulated)" if s.simulated else "") for _, s in scored)
    _add(columns, "run by", ran, numeric=False)
    _add(columns, "from", (s.origin for _, s in scored), numeric=False)
    return _table(columns)


def latency(data: ReportData) -> Table | None:
    """One row for each run; None without any."""
    runs = data.runs
    if not runs:
        return None
    results = [run.result for run in runs]
    columns: list[Column] = [("artefact", False, [run.name for run in runs])]
    names = sorted({p for r in results for p in r.latency.percentiles}, key=float)
    _add(columns, "median ms", (significant(r.latency.median) for r in results))
    for name in names:
        figures = (r.latency.percentiles.get(name) for r in results)
        _add(columns, f"p{name} ms", ("" if v is None else significant(v) for v in figures))
    _add(columns, "variation", (f"{r.latency.coefficient_of_variation:.1%}" for r in results))
    _add(columns, "runs", (str(r.latency.count) for r in results))
    _add(columns, "batch", (str(r.batch) for r in results))
    _add(columns, "images/s", (significant(r.throughput) for r in results))
    _add(columns, "x the speed of fp32", (_speed(run) for run in runs))
    _add(columns, "floor ms", (significant(r.floor.total) if r.floor else "" for r in results))
    _add(columns, "x floor", (_times_floor(run) for run in runs))
    _add(columns, "run by", (r.runtime for r in results), numeric=False)
    _add(columns, "device", (r.device for r in results), numeric=False)
    _add(columns, "from", (data.sessions[run.session].origin for run in runs), numeric=False)
    return _table(columns)


def _speed(run: Run) -> str:
    speed = run.speed
    if speed is None:
        return ""
    if speed.low is None or speed.high is None:
        return f"{speed.value:.2f}"
    return f"{speed.value:.2f} ({speed.low:.2f} to {speed.high:.2f})"


def _times_floor(run: Run) -> str:
    floor = run.result.floor
    if floor is None or floor.total <= 0:
        return ""
    return significant(per_image(run) * run.result.batch / floor.total)


def sizes(data: ReportData) -> Table:
    """One row for each artefact: its files, and the memory that it takes where it ran."""
    found = data.artefacts
    runs = [fastest(artefact) for artefact in found]
    columns: list[Column] = [("artefact", False, [artefact.name for artefact in found])]
    _add(columns, "precision", (artefact.precision for artefact in found), numeric=False)
    _add(columns, "on disk MB", (_mega(artefact.bytes) for artefact in found))
    for key, head in _MEMORY.items():
        _add(columns, head, (_mega(run.result.memory.get(key)) if run else "" for run in runs))
    return _table(columns)


def _mega(value: int | None) -> str:
    return "" if value is None else significant(value / 1e6)


def power(data: ReportData) -> Table | None:
    """One row for each run whose power was measured; None if there is none."""
    runs = [run for run in data.runs if run.result.power is not None]
    if not runs:
        return None
    columns: list[Column] = [("artefact", False, [run.name for run in runs])]
    uses = [(run.result.power, run.result.batch) for run in runs]
    _add(columns, "W", (_optional(u.watts) if u else "" for u, _ in uses))
    resting = [data.sessions[run.session].power for run in runs]
    _add(columns, "W at rest", (_optional(p.idle.watts) if p and p.idle else "" for p in resting))
    _add(columns, "mJ an image", (millijoules(u.joules if u else None, n) for u, n in uses))
    above = (millijoules(u.joules_above_idle if u else None, n) for u, n in uses)
    _add(columns, "mJ above rest", above)
    _add(columns, "source", (p.source if p else "" for p in resting), numeric=False)
    _add(columns, "mode", ((p.mode or "") if p else "" for p in resting), numeric=False)
    held = (", ".join(p.throttled) if p else "" for p in resting)
    _add(columns, "held down by", held, numeric=False)
    return _table(columns)


def millijoules(joules: float | None, images: int) -> str:
    return "" if joules is None else significant(1e3 * joules / images)


def missing(data: ReportData) -> Table:
    """What is not in the report, of which artefacts, why, and what makes it.

    Artefacts that lack the same for the same reason share a row, which has the commands, a line
    each, for the first of them.
    """
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for artefact in data.artefacts:
        for each in artefact.missing:
            entry = (artefact.name, each.command or "")
            groups.setdefault((each.what, each.why), []).append(entry)
    rows: dict[tuple[str, str], tuple[list[str], list[str]]] = {}
    for (what, why), entries in groups.items():
        names = ", ".join(name for name, _ in entries)
        whats, commands = rows.setdefault((names, why), ([], []))
        whats.append(what)
        commands.append(entries[0][1])
    return Table(
        ["what", "of", "why", "what makes it (of the first)"],
        [False] * 4,
        [
            [", ".join(whats), names, why, "\n".join(filter(None, commands))]
            for (names, why), (whats, commands) in rows.items()
        ],
    )


def units(bundle: BundleRecord) -> Table | None:
    """Sensitivity: one row for each unit; None without any."""
    rows = [
        [
            unit.name,
            found.precision,
            f"{unit.share:.2%}",
            "not finite" if unit.sqnr_db is None else f"{unit.sqnr_db:.1f}",
            "" if unit.drop is None else f"{unit.drop:.2f}",
            "yes" if unit.excluded else "",
        ]
        for found in bundle.sensitivity
        for unit in found.units
    ]
    if not rows:
        return None
    heads = ["unit", "precision", "MACs", "SQNR dB alone", "points lost", "left out"]
    return Table(heads, [False, False, True, True, True, False], rows)


def _optional(value: float | None) -> str:
    return "" if value is None else significant(value)


def _add(
    columns: list[Column],
    head: str,
    cells: Iterable[str],
    *,
    numeric: bool = True,
) -> None:
    """Append a column unless all of it is empty."""
    column = list(cells)
    if any(column):
        columns.append((head, numeric, column))


def _table(columns: Sequence[Column]) -> Table:
    return Table(
        [head for head, _, _ in columns],
        [numeric for _, numeric, _ in columns],
        [list(row) for row in zip(*(cells for _, _, cells in columns), strict=True)],
    )


def without_shared(table: Table) -> tuple[Table, str]:
    """A table without the columns of texts in which all rows agree, and a sentence with these.

    Returns:
        The sentence is empty if there are none.
    """
    if not table.rows:
        return table, ""
    shared = [
        place
        for place, head in enumerate(table.heads)
        if place and head in _CONDITIONS and len({row[place] for row in table.rows}) == 1
    ]
    kept = [place for place in range(len(table.heads)) if place not in shared]
    told = [f"{table.heads[place]}: {table.rows[0][place]}" for place in shared]
    return (
        Table(
            [table.heads[place] for place in kept],
            [table.numeric[place] for place in kept],
            [[row[place] for place in kept] for row in table.rows],
        ),
        f"Of all, {'; '.join(told)}." if told else "",
    )
