"""What an evaluation finds."""

from __future__ import annotations

from dataclasses import dataclass

# By which an artefact is judged, and what they are called.
METRICS = {"top1": "top-1", "miou": "mIoU", "agreement": "agreement"}


@dataclass(frozen=True)
class Scores:
    """How a model did on some images. Shares are 0 to 1; None where the data or the task have none.

    Attributes:
        images: how many.
        top1, top5: share of them whose class is the best, or among the best five.
        miou: mean over the classes of intersection over union, counted over all images together.
        pixel_accuracy: share of the pixels whose class is the best.
        agreement: share of the images (pixels for segmentation) with the same best class as the
            reference model.
        sqnr_db: energy of the reference model's outputs over that of the difference, in dB.
    """

    images: int
    top1: float | None = None
    top5: float | None = None
    miou: float | None = None
    pixel_accuracy: float | None = None
    agreement: float | None = None
    sqnr_db: float | None = None

    @property
    def primary(self) -> tuple[str, float]:
        """Name and value (0 to 1) of the metric by which models are judged: of the task where
        there are labels, agreement otherwise."""
        for name in ("miou", "top1", "agreement"):
            value = getattr(self, name)
            if value is not None:
                return name, value
        raise ValueError("there is neither a label nor a reference")
