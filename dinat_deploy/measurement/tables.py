"""What the reports say of a measurement, as texts: tables, ratios, sentences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dinat_deploy.measurement.records import ArtefactResult, BenchOptions, BenchReport

ATTENTION = "neighborhood attention"
_MIB = 1 << 20
_BYTE_NAMES = {
    "weights": "weights",
    "activations": "activations",
    "inputs_outputs": "inputs and outputs",
    "process": "process",
}


@dataclass(frozen=True)
class Table:
    """Texts of a table; ``numeric`` says of each column whether it is to be aligned right."""

    heads: list[str]
    numeric: list[bool]
    rows: list[list[str]]


def summary(report: BenchReport) -> Table:
    """One row for each artefact; columns for which no artefact has a figure are left out."""
    base = report.results[0]
    several, streams = len(report.results) > 1, report.options.streams
    columns: list[tuple[str, bool, list[str]]] = []

    def add(head: str, cells: Iterable[str], *, numeric: bool = True) -> None:
        column = list(cells)
        if any(column):
            columns.append((head, numeric, column))

    results = report.results
    add("artefact", (r.name for r in results), numeric=False)
    if len({r.runtime for r in results}) > 1:
        add("runtime", (r.runtime for r in results), numeric=False)
    if len({r.device for r in results}) > 1 or base.kind == "gpu":
        add("device", (r.device for r in results), numeric=False)
    if any(r.precision not in (None, "float32") for r in results):
        add("precision", (r.precision or "" for r in results), numeric=False)
    if any(r.batch != 1 for r in results):
        add("batch", (str(r.batch) for r in results))
    add("median ms", (significant(r.latency.median) for r in results))
    highest = max((p for r in results for p in r.latency.percentiles), key=float, default=None)
    if highest is not None:
        cells = (r.latency.percentiles.get(highest) for r in results)
        add(f"p{highest} ms", ("" if v is None else significant(v) for v in cells))
    add("images/s", (significant(r.throughput) for r in results))
    if several:
        add("time ratio", (time_ratio(r) for r in results))
    add("GMAC", (significant(r.work.macs / 1e9) if r.work else "" for r in results))
    if several:
        per_mac = (ratio_per_mac(r, base) for r in results)
        add("ratio per MAC", ("" if ratio is None else f"{ratio:.2f}" for ratio in per_mac))
    else:
        add("ms/GMAC", (_optional(per_gmac(r, streams)) for r in results))
    for head, energies in _power_columns(results):
        add(head, energies)
    add("floor ms", (significant(r.floor.total) if r.floor else "" for r in results))
    add("x floor", (_optional(times_floor(r, streams)) for r in results))
    add("attention", (f"{r.attention_share:.0%}" if _has_attention(r) else "" for r in results))
    return Table(
        [head for head, _, _ in columns],
        [numeric for _, numeric, _ in columns],
        [list(row) for row in zip(*(column for _, _, column in columns), strict=True)],
    )


def details(report: BenchReport) -> Table:
    """One column for each artefact, one row for each further figure that one of them has."""
    rows: list[list[str]] = []

    def add(head: str, cells: Iterable[str]) -> None:
        row = [head, *cells]
        if any(row[1:]):
            rows.append(row)

    results = report.results
    add("runtime", (r.runtime for r in results))
    add("device", (r.device for r in results))
    add("shapes", (_shapes(r) for r in results))
    add("precision", (r.precision or "" for r in results))
    add("runs", (str(r.latency.count) for r in results))
    add("measured s", (significant(r.seconds) for r in results))
    for name in ("min", "mean", "median", "max"):
        add(f"{name} ms", (significant(getattr(r.latency, name)) for r in results))
    for percentile in dict.fromkeys(p for r in results for p in r.latency.percentiles):
        figures = (r.latency.percentiles.get(percentile) for r in results)
        add(f"p{percentile} ms", ("" if v is None else significant(v) for v in figures))
    add("variation", (f"{r.latency.coefficient_of_variation:.1%}" for r in results))
    for head, field in (
        ("GPU compute ms", "compute"),
        ("copying inputs ms", "host_to_device"),
        ("copying outputs ms", "device_to_host"),
        ("enqueueing ms", "enqueue"),
    ):
        found = [getattr(r, field) if r.kind == "gpu" else None for r in results]
        add(f"{head}, median", ("" if f is None else significant(f.median) for f in found))
    for field, name in _BYTE_NAMES.items():
        sizes = [r.memory.get(field) for r in results]
        add(f"memory, {name} MiB", ("" if s is None else significant(s / _MIB) for s in sizes))
    works = [r.work for r in results]
    add("ms/GMAC", (_optional(per_gmac(r, report.options.streams)) for r in results))
    add("attention GMAC", (significant(w.attention_macs / 1e9) if w else "" for w in works))
    add("weights MiB", (significant(w.weight_bytes / _MIB) if w else "" for w in works))
    add("work counted from", (w.counted_from if w else "" for w in works))
    floors = [r.floor for r in results]
    add("floor, compute ms", (significant(f.compute) if f else "" for f in floors))
    add("floor, memory ms", (significant(f.memory) if f else "" for f in floors))
    add("peak TFLOP/s", (significant(f.peak_tflops) if f else "" for f in floors))
    add("bandwidth GB/s", (significant(f.bandwidth_gbs) if f else "" for f in floors))
    add("peak and bandwidth", (f"{f.device}, {f.source}" if f else "" for f in floors))
    uses = [r.power for r in results]
    add("energy of a run mJ", (_millijoules(u.joules) if u else "" for u in uses))
    add("above idle mJ", (_millijoules(u.joules_above_idle) if u else "" for u in uses))
    add("runs with power", (str(u.runs) if u else "" for u in uses))
    add("readings of power", (str(u.samples) if u else "" for u in uses))
    return Table(["", *(r.name for r in results)], [False] + [True] * len(results), rows)


def _power_columns(results: Sequence[ArtefactResult]) -> list[tuple[str, list[str]]]:
    """Mean power and the energy of one image, which compares whatever the batch."""
    rows = [(r.power, r.batch) for r in results]
    return [
        ("W", [_optional(u.watts) if u else "" for u, _ in rows]),
        ("mJ/image", [_millijoules(u.joules, batch) if u else "" for u, batch in rows]),
        (
            "above idle mJ/image",
            [_millijoules(u.joules_above_idle, batch) if u else "" for u, batch in rows],
        ),
    ]


def _millijoules(joules: float | None, parts: int = 1) -> str:
    return "" if joules is None else significant(1e3 * joules / parts)


def power(report: BenchReport) -> Table | None:
    """One row for each rail and for the whole, in W: at rest, then each artefact.

    Returns:
        None if no power was measured.
    """
    found = report.power
    if found is None or (found.idle is None and not any(r.power for r in report.results)):
        return None
    columns = [found.idle, *(r.power for r in report.results)]
    heads = ["W", "at rest", *(r.name for r in report.results)]
    rails = dict.fromkeys(name for column in columns if column for name in column.rails)
    rows = [
        [name, *(_optional(column.rails.get(name)) if column else "" for column in columns)]
        for name in rails
    ]
    if found.has_total:
        whole = [_optional(column.watts) if column else "" for column in columns]
        rows.append(["the whole", *whole])
    return Table(heads, [False] + [True] * len(columns), rows)


def conditions(report: BenchReport) -> Table | None:
    """One row for each temperature and clock, before and after; None if none is known."""
    found = report.power
    if found is None:
        return None
    rows = []
    for unit, before, after in (
        ("C", found.before.temperatures, found.after.temperatures),
        ("MHz", found.before.clocks, found.after.clocks),
    ):
        for name in dict.fromkeys([*before, *after]):
            cells = [
                "" if value is None else f"{value:.1f}" if unit == "C" else f"{value:.0f}"
                for value in (before.get(name), after.get(name))
            ]
            rows.append([name, *cells, unit])
    heads = ["temperature or clock", "before", "after", "unit"]
    return Table(heads, [False, True, True, False], rows) if rows else None


def power_described(report: BenchReport) -> list[str]:
    """How the power was measured, what the whole is, and what held the device back."""
    found = report.power
    if found is None:
        return []
    how = (
        "the difference of the source's counter of energy"
        if found.method == "counter"
        else "the integral of its readings by the trapezoidal rule"
    )
    sentences = [
        f"Power: from {found.source}, read at most every {found.interval_ms:g} ms (which took "
        f"{found.sampling_share:.1%} of the time), in runs of their own after the timed ones.",
    ]
    if found.has_total:
        sentences.append(f"The whole is {found.total}.")
        sentences.append(
            f"The energy of an image is {how} over the number of images; above idle, the power at "
            "rest with everything loaded is taken away first."
        )
    else:
        sentences.append(f"There is no total: {found.total}.")
    if found.mode:
        sentences.append(f"nvpmodel's mode was {found.mode}.")
    if not found.throttled:
        sentences.append("Nothing was seen that held the clocks down.")
    return sentences


def time_by_kind(results: Sequence[ArtefactResult]) -> dict[str, list[float]]:
    """Milliseconds of all layers of a type in each artefact, the type with most time first.

    Parts of the attention operator are a type of their own, whatever runs them.
    """
    found: dict[str, list[float]] = {}
    for index, result in enumerate(results):
        for layer in result.layers:
            kind = ATTENTION if layer.attention else layer.kind
            found.setdefault(kind, [0.0] * len(results))[index] += layer.milliseconds
    return dict(sorted(found.items(), key=lambda entry: -sum(entry[1])))


def kinds(results: Sequence[ArtefactResult]) -> Table:
    """One row for each type of layer, one column for each artefact: time and share."""
    totals = [sum(layer.milliseconds for layer in r.layers) for r in results]
    rows = [
        [
            kind,
            *(
                f"{significant(time)} ms, {time / total:.1%}" if time and total else ""
                for time, total in zip(times, totals, strict=True)
            ),
        ]
        for kind, times in time_by_kind(results).items()
    ]
    return Table(["layers", *(r.name for r in results)], [False] + [True] * len(results), rows)


def explanations(report: BenchReport) -> list[str]:
    """What the words in the summary mean; only those that occur."""
    sentences = []
    base = report.results[0]
    if len(report.results) > 1:
        sentences.append(
            f"Ratios are of the time of one image to {base.name}; below 1 is faster. In brackets: "
            "the confidence interval."
        )
    if any(r.work for r in report.results):
        sentences.append(
            "GMAC: a billion multiply-accumulates of convolutions, matrix products and attention."
        )
    # On a CPU the bandwidth differs from model to model: it is measured at the size of the weights.
    limits: dict[tuple[str, float, str], list[float]] = {}
    for floor in (r.floor for r in report.results):
        if floor:
            key = (floor.device, floor.peak_tflops, floor.source)
            limits.setdefault(key, []).append(floor.bandwidth_gbs)
    sources = [
        f"{device}: {significant(peak)} TFLOP/s, {_range(bandwidths)} GB/s, {source}"
        for (device, peak, source), bandwidths in limits.items()
    ]
    if sources:
        sentences.append(
            "Floor: the larger of the times for the multiplications at the device's peak rate and "
            f"for weights, inputs and outputs through its memory once ({'; '.join(sources)})."
        )
    return sentences


def _range(values: Sequence[float]) -> str:
    ends = dict.fromkeys(significant(value) for value in (min(values), max(values)))
    return " to ".join(ends)


def described(options: BenchOptions) -> str:
    """The protocol in a sentence without its full stop."""
    text = (
        f"At least {options.duration:g} s and {options.iterations} runs of every artefact after "
        f"{options.warm_up:g} ms of warm-up, in turn in blocks of {options.block_ms:g} ms"
    )
    if options.streams > 1:
        text += f", {options.streams} streams"
    if options.transfers:
        text += ", with copies to and from the GPU"
    if options.one_alive:
        text += ", one artefact in memory at a time"
    if options.idle_time:
        text += f", {options.idle_time:g} ms of rest between blocks"
    return text


def remarks_of(report: BenchReport) -> list[str]:
    """Warnings and notes, of the machine first, then of each artefact under its name."""
    notes = report.power.notes if report.power else []
    return [*report.warnings, *notes] + [
        f"{result.name}: {remark}"
        for result in report.results
        for remark in (*result.warnings, *result.notes)
    ]


def time_ratio(result: ArtefactResult) -> str:
    """Ratio to the first artefact with its confidence interval; 1 for the first itself."""
    ratio = result.ratio
    if ratio is None:
        return "1.00"
    text = f"{ratio.value:.2f}"
    if ratio.low is not None and ratio.high is not None:
        text += f" ({ratio.low:.2f} to {ratio.high:.2f})"
    return text


def run_time(result: ArtefactResult, streams: int) -> float:
    """Milliseconds of one run: the median latency, or with several streams, whose latencies
    overlap, wall time over the number of runs."""
    return 1e3 * result.batch / result.throughput if streams > 1 else result.latency.median


def per_gmac(result: ArtefactResult, streams: int) -> float | None:
    """Milliseconds for 10^9 multiply-accumulates."""
    return run_time(result, streams) / (result.work.macs / 1e9) if result.work else None


def ratio_per_mac(result: ArtefactResult, base: ArtefactResult) -> float | None:
    """How much longer a multiply-accumulate takes than in the first artefact."""
    if result.work is None or base.work is None:
        return None
    if result.ratio is None:
        return 1.0
    work = (result.work.macs / result.batch) / (base.work.macs / base.batch)
    return result.ratio.value / work


def times_floor(result: ArtefactResult, streams: int) -> float | None:
    """Time of one run over its floor."""
    return run_time(result, streams) / result.floor.total if result.floor else None


def significant(value: float, digits: int = 3) -> str:
    """A number with three significant digits, without an exponent."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{decimals}f}"


def _optional(value: float | None) -> str:
    return "" if value is None else significant(value)


def _has_attention(result: ArtefactResult) -> bool:
    return any(layer.attention for layer in result.layers)


def _shapes(result: ArtefactResult) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, s))}" for name, s in result.shapes.items())


def counted(number: int, what: str) -> str:
    """``1 bundle``, ``2 bundles``"""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
