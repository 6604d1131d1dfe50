"""Which rows of two detectors' outputs are compared with which."""

from __future__ import annotations

import numpy as np
import pytest

from dinat_deploy.detection_parity import Aligned, align, compare_outputs
from dinat_deploy.models.decoders import Mask2Former, MaskRCNN
from dinat_deploy.parity import FloatArray, Tolerance, compare_all

TOLERANCE = Tolerance(1e-3, 0)
ROWS = [
    # left, top, right, bottom, score, class
    (0, 0, 10, 10, 0.9, 1),
    (50, 0, 60, 10, 0.8, 1),
    (0, 50, 10, 60, 0.7, 2),
    (50, 50, 60, 60, 0.6, 0),
]


def outputs(rows: list[tuple[float, ...]], room: int = 6) -> dict[str, FloatArray]:
    """Detections with masks that tell where they are, filled up to ``room``."""
    table = np.zeros((room, 6), np.float32)
    table[: len(rows)] = np.array(rows, np.float32).reshape(-1, 6)
    masks = np.broadcast_to(table[:, :1, None] + table[:, 1:2, None] / 7, (room, 2, 2))
    return {
        "boxes": table[:, :4],
        "scores": table[:, 4],
        "labels": table[:, 5],
        "masks": masks.astype(np.float32),
    }


def aligned(
    ours: list[tuple[float, ...]], theirs: list[tuple[float, ...]], room: int = 6
) -> Aligned:
    decoder = MaskRCNN(detections=room)
    return align(outputs(ours, room), outputs(theirs, room), decoder, TOLERANCE)


def passes(found: Aligned) -> bool:
    names = list(MaskRCNN().output_names)
    errors = compare_all(found.reference, found.candidate, names, TOLERANCE)
    return all(each.passed for each in errors.values())


def test_only_the_rows_of_detectors_may_change_places() -> None:
    """What export and verify call."""
    ours, theirs = outputs(ROWS), outputs(ROWS[::-1])
    for decoder, same in ((MaskRCNN(), True), (Mask2Former(), False), (None, False)):
        found = compare_outputs(ours, theirs, decoder, TOLERANCE)
        assert all(errors.passed for errors in found.values()) is same


def test_rows_may_change_places() -> None:
    found = aligned(ROWS, [ROWS[1], ROWS[0], ROWS[3], ROWS[2]])
    assert passes(found)
    assert (found.explained, found.unexplained) == (0, 0)
    assert len(found.reference["boxes"]) == 4


@pytest.mark.parametrize("column", range(6))
def test_rows_that_differ_fail(column: int) -> None:
    off = np.zeros(6)
    off[column] = 0.1 if column == 4 else 1
    found = aligned(ROWS, [tuple(np.array(row) + off) for row in ROWS])
    assert not passes(found)
    assert found.explained == 0


@pytest.mark.parametrize("side", ["missing", "superfluous"])
def test_a_row_without_a_partner_fails(side: str) -> None:
    pair = (ROWS, ROWS[:2]) if side == "missing" else (ROWS[:2], ROWS)
    found = aligned(*pair)
    assert found.unexplained == 2
    assert not passes(found)


def test_masks_are_compared_too() -> None:
    ours, theirs = outputs(ROWS), outputs(ROWS)
    theirs["masks"] = theirs["masks"] + np.float32(0.01)
    assert not passes(align(ours, theirs, MaskRCNN(), TOLERANCE))


def test_scores_at_the_threshold_may_count_in_one_run_only() -> None:
    faint = (90, 90, 99, 99, 0.0505, 1)
    assert passes(aligned([*ROWS, faint], ROWS))
    assert passes(aligned(ROWS, [*ROWS, faint]))
    assert not passes(aligned([*ROWS, (90, 90, 99, 99, 0.06, 1)], ROWS))


def test_the_last_of_a_full_list_may_be_another_if_their_scores_tie() -> None:
    one, other = (90, 90, 99, 99, 0.5005, 1), (70, 90, 79, 99, 0.5, 1)
    found = aligned([*ROWS, one], [*ROWS, other], room=5)
    assert passes(found)
    assert found.explained == 2
    assert not passes(aligned([*ROWS, (90, 90, 99, 99, 0.51, 1)], [*ROWS, other], room=5))


def test_one_of_two_overlapping_boxes_may_stay_if_their_scores_tie() -> None:
    one, other = (80, 0, 90, 10, 0.5, 1), (81, 0, 91, 10, 0.5, 1)
    found = aligned([*ROWS, one], [*ROWS, other])
    assert passes(found)
    assert found.explained == 2
    assert not passes(aligned([*ROWS, one], [*ROWS, (81, 0, 91, 10, 0.49, 1)]))
    assert not passes(aligned([*ROWS, one], [*ROWS, (81, 0, 91, 10, 0.5, 2)]))
    assert not passes(aligned([*ROWS, one], [*ROWS, (86, 0, 96, 10, 0.5, 1)]))


def test_a_tie_may_free_a_third_box() -> None:
    one, other = (80, 0, 90, 10, 0.5, 1), (77, 0, 87, 10, 0.5, 1)
    freed = (83, 0, 93, 10, 0.4, 1)  # overlaps the first too much, and not the second
    assert passes(aligned([*ROWS, one], [*ROWS, other, freed]))
    assert not passes(aligned(ROWS, [*ROWS, freed]))


def test_overlaps_that_are_just_too_much_may_leave_a_box_out() -> None:
    # 10 x 10 beside a box of the first row, with two thirds of the side in common: a half.
    beside = (10 / 3, 0, 10 + 10 / 3, 10, 0.5, 1)
    assert passes(aligned([*ROWS, beside], ROWS))
    assert not passes(aligned([*ROWS, (4, 0, 14, 10, 0.5, 1)], ROWS))
    # A better box is not kept down by a worse one.
    assert not passes(aligned([(*beside[:4], 0.95, 1), *ROWS], ROWS))


def test_no_detections_at_all_are_the_same() -> None:
    assert passes(aligned([], []))
    assert not passes(aligned([], ROWS))
