"""Pictures with a mask each: ``images/`` and ``masks/`` with files of the same names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dinat_deploy.data.arrays import check_mask
from dinat_deploy.data.dataset import Sample, Task
from dinat_deploy.data.pictures import fit_mask, open_mask, open_picture, pictures_below
from dinat_deploy.errors import DataError
from dinat_deploy.models.preprocessing import Preprocessing

IMAGES, MASKS = "images", "masks"
_SHOWN = 3


@dataclass(frozen=True)
class SegmentationFolder:
    """A dataset whose labels are masks: PNG files of one channel, a pixel's value is its class.

    Attributes:
        pairs: of picture and mask.
    """

    name: str
    pairs: list[tuple[Path, Path]]
    names: list[str]
    classes: list[str] | None
    preprocessing: Preprocessing
    task: Task | None = "segmentation"
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.pairs)

    def name_of(self, index: int) -> str:
        return self.names[index]

    def load(self, index: int) -> Sample:
        picture_path, mask_path = self.pairs[index]
        picture, mask = open_picture(picture_path), open_mask(mask_path)
        if mask.shape != (picture.height, picture.width):
            raise DataError(
                f"The mask {mask_path} is {mask.shape[1]} x {mask.shape[0]} pixels and its picture "
                f"{picture_path} {picture.width} x {picture.height}.",
                "Both must have the same size.",
            )
        check_mask(mask, self.classes, str(mask_path))
        fitted = fit_mask(mask, self.preprocessing)
        return Sample(self.names[index], self.preprocessing(picture), fitted)


def is_segmentation_folder(path: Path) -> bool:
    """Whether a folder has the two folders in it."""
    return (path / IMAGES).is_dir() and (path / MASKS).is_dir()


def segmentation_folder(
    path: Path, preprocessing: Preprocessing, labels: Sequence[str] | None
) -> SegmentationFolder:
    """Find the pictures and their masks.

    Raises:
        DataError: there are none, a picture has no mask or the other way round, or two files have
            the same name before the dot.
    """
    pictures, masks = _by_stem(path / IMAGES), _by_stem(path / MASKS)
    if not pictures:
        raise DataError(f"{path / IMAGES} holds no pictures.", "Put them there.")
    for have, lack, kind in ((pictures, masks, MASKS), (masks, pictures, IMAGES)):
        alone = sorted(have.keys() - lack.keys())
        if alone:
            listed = ", ".join(str(have[stem]) for stem in alone[:_SHOWN])
            more = f" and {len(alone) - _SHOWN} more" if len(alone) > _SHOWN else ""
            raise DataError(
                f"Nothing in {path / kind} belongs to {listed}{more}.",
                "A picture and its mask have the same name before the dot.",
            )
    stems = sorted(pictures)
    return SegmentationFolder(
        str(path),
        [(pictures[stem], masks[stem]) for stem in stems],
        [pictures[stem].relative_to(path / IMAGES).as_posix() for stem in stems],
        None if labels is None else list(labels),
        preprocessing,
    )


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in pictures_below(folder):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise DataError(
                f"{found[stem]} and {path} have the same name before the dot, so that it is not "
                "clear which one is meant.",
                "Rename or remove one.",
            )
        found[stem] = path
    return found
