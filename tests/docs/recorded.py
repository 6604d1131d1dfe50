"""Whether a page's output is what a command prints, up to its figures."""

from __future__ import annotations

import re

ANY_LINES = "..."


def form(line: str) -> str:
    """A line without what differs from run to run and from machine to machine: figures, and the widths
    that they lead to; whether the operator's library is there, and which PyTorch."""
    line = re.sub(r" with the dinat operator|\+(cpu|cu\d+)\b", "", line)
    line = re.sub(r"^( *[\d.]+%  ).*", r"\1a class", line)  # what a model took a picture for
    line = re.sub(r"\d[\d.,]*(e[+-]?\d+)?", "#", line)
    return " ".join(re.sub("─+", "─", line).split())


def mismatch(recorded: str, printed: str) -> str | None:
    """What of a recorded output was not printed; None if all of it was.

    A line ``...`` in the record stands for any lines; the others must follow one another, and begin
    and end with the output's.
    """
    wanted = [line for line in map(form, recorded.splitlines()) if line]
    found = [line for line in map(form, printed.splitlines()) if line]
    parts: list[list[str]] = [[]]
    for line in wanted:
        if line == ANY_LINES:
            parts.append([])
        else:
            parts[-1].append(line)
    place = 0
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        starts = range(place, len(found) - len(part) + 1)
        if number == 0:
            starts = starts[:1]
        if last:
            starts = range(max(place, len(found) - len(part)), len(found) - len(part) + 1)
            if number == 0 and place + len(part) != len(found):
                starts = range(0)
        start = next((s for s in starts if _same(part, found[s : s + len(part)])), None)
        if start is None:
            return _about(part, found[place:])
        place = start + len(part)
    return None


def _same(part: list[str], found: list[str]) -> bool:
    return len(part) == len(found) and all(map(_fits, part, found))


def _fits(wanted: str, line: str) -> bool:
    """A record that ends in ``...`` is the beginning of a line; many sentences end so as well."""
    return line == wanted or (wanted.endswith(f" {ANY_LINES}") and line.startswith(wanted[:-3]))


def _about(part: list[str], found: list[str]) -> str:
    missing = [line for line in part if line not in found] or part
    return "\n".join(["not printed, or not in this order:", *missing, "printed:", *found])
