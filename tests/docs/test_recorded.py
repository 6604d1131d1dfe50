"""The comparison of recorded outputs finds what it is for."""

from __future__ import annotations

import pytest

from tests.docs.recorded import form, mismatch

PRINTED = " head  1.5 ms\n ───────\n row a 12\n row b 1.2e-07\n\nTook 3.4 s.\n"


@pytest.mark.parametrize(
    "recorded",
    [
        PRINTED,
        "head 99 ms\n──\nrow a 1\nrow b 3\nTook 1 s.",
        "...\nrow b 3\nTook 1 s.",
        "head 1 ms\n...\nTook 1 s.",
        "...\nrow a 1\n...",
        "...",
    ],
)
def test_figures_widths_and_omitted_lines_do_not_count(recorded: str) -> None:
    assert mismatch(recorded, PRINTED) is None


@pytest.mark.parametrize(
    "recorded",
    [
        "row b 3\nTook 1 s.",  # begins later
        "head 1 ms\n──\nrow a 1\nrow b 3",  # ends earlier
        "head 1 ms\nrow a 1\nrow b 3\nTook 1 s.",  # leaves a line out
        "...\nrow b 3\nrow a 1\n...",  # another order
        "...\nrow c 3\n...",
        "",
    ],
)
def test_other_lines_are_a_mismatch(recorded: str) -> None:
    assert mismatch(recorded, PRINTED) is not None


def test_words_are_kept() -> None:
    assert form("  verify   done now   0.9 s ──── x2") == "verify done now # s ─ x#"
