"""What ``bench --power`` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from dinat_deploy.cli.console import print_table

if TYPE_CHECKING:
    from dinat_deploy.measurement.records import BenchReport


def show_power(report: BenchReport) -> None:
    """Watts at rest and of each artefact, and the energy of an image."""
    found = report.power
    if found is None:
        return
    columns: dict[str, list[str]] = {
        "Power": ["at rest", *(result.name for result in report.results)],
        **{f"{rail}, W >": [] for rail in _rails(report)},
        "whole, W >": [],
        "mJ/image >": [],
        "above idle >": [],
    }
    for use, batch in [(found.idle, 1), *((r.power, r.batch) for r in report.results)]:
        for rail in _rails(report):
            columns[f"{rail}, W >"].append(_watts(use.rails.get(rail)) if use else "")
        columns["whole, W >"].append(_watts(use.watts) if use else "")
        joules = getattr(use, "joules", None), getattr(use, "joules_above_idle", None)
        for title, value in zip(("mJ/image >", "above idle >"), joules, strict=True):
            columns[title].append("" if value is None else f"{1e3 * value / batch:.4g}")
    kept = {name: cells for name, cells in columns.items() if any(cells)}
    print_table("", list(kept), [list(row) for row in zip(*kept.values(), strict=True)])
    click.echo(f"Power from {found.source}: {found.total}.")
    if found.mode:
        click.echo(f"nvpmodel: {found.mode}.")
    for title, before, after, unit in (
        ("Temperatures", found.before.temperatures, found.after.temperatures, "C"),
        ("Clocks", found.before.clocks, found.after.clocks, "MHz"),
    ):
        changes = [f"{n} {before[n]:.0f} to {after[n]:.0f} {unit}" for n in before if n in after]
        if changes:
            click.echo(f"{title}: {', '.join(changes)}.")


def _rails(report: BenchReport) -> list[str]:
    uses = [report.power.idle if report.power else None, *(r.power for r in report.results)]
    return list(dict.fromkeys(rail for use in uses if use for rail in use.rails))


def _watts(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
