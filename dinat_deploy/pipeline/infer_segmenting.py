"""From a photo to the answer of a segmenter or detector, whatever its head is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy.typing as npt
from PIL import Image

from dinat_deploy.bundle import Manifest
from dinat_deploy.errors import ConfigError
from dinat_deploy.models.decoders import Mask2Former, MaskRCNN, OneFormer, UPerNet
from dinat_deploy.pipeline.artefacts import Artefact
from dinat_deploy.pipeline.infer_running import Runner
from dinat_deploy.pipeline.infer_semantic import Mode, SemanticModel
from dinat_deploy.postprocessing import queries
from dinat_deploy.postprocessing.axes import View
from dinat_deploy.postprocessing.detections import detections
from dinat_deploy.postprocessing.drawing import Answer

DEFAULT_MIN_SCORE = 0.5


class Segmenter:
    """Answers for photos of any size.

    Args:
        artefact: of a bundle whose model has a decoder.
        manifest: of the bundle.
        mode, stride: as of :class:`~dinat_deploy.pipeline.infer_semantic.SemanticModel`; for
            UPerNet alone.
        min_score: of instances, 0.5 unless told otherwise; of a query to become a segment, unless
            told otherwise what the decoder's settings say. For these alone.

    Raises:
        ConfigError: an option means nothing for this model, or has an impossible value.
    """

    def __init__(
        self,
        artefact: Artefact,
        manifest: Manifest,
        *,
        mode: Mode | None = None,
        stride: int | None = None,
        min_score: float | None = None,
    ) -> None:
        config = manifest.config
        decoder = config.decoder
        assert decoder is not None
        if min_score is not None and config.task == "semantic":
            raise ConfigError(
                "Classes of pixels have no scores that --min-score could be about.",
                "Leave it out; it is for --task panoptic and instance.",
            )
        if not isinstance(decoder, UPerNet) and (mode is not None or stride is not None):
            raise ConfigError(
                f"A model with a decoder of type {decoder.type} looks at the whole picture at "
                "once; there are no windows.",
                "Leave out --mode and --stride.",
            )
        self._manifest = manifest
        self._runner = Runner(artefact, manifest.preprocessing)
        self._min_score = min_score
        self._windows: SemanticModel | None = None
        if isinstance(decoder, UPerNet):
            self._windows = SemanticModel(
                self._runner,
                manifest.preprocessing,
                config.output_names[0],
                config.num_classes,
                mode,
                stride,
            )
            self._answer: Callable[[Image.Image], Answer] = self._windows.classes
        elif isinstance(decoder, MaskRCNN):
            self._answer = self._by_boxes
        else:
            self._answer = self._by_queries

    @property
    def notes(self) -> list[str]:
        """What was done with the photos so far."""
        notes = self._windows.notes if self._windows else []
        if self._manifest.config.task == "panoptic" and not self._manifest.things:
            return [*notes, "Nothing says which classes are stuff; all count as things."]
        return notes

    def answer(self, photo: Image.Image) -> tuple[Answer, float]:
        """What is in a photo, and the time of the model's runs in milliseconds.

        Raises:
            ImageError, ConfigError, EngineError: the photo's size cannot be dealt with.
        """
        before = self._runner.seconds
        found = self._answer(photo)
        return found, 1e3 * (self._runner.seconds - before)

    def _look(self, photo: Image.Image) -> tuple[list[npt.NDArray[Any]], View]:
        """The outputs of one look at the whole photo, in the decoder's order."""
        how, config = self._manifest.preprocessing, self._manifest.config
        pixels = how.pixels(photo)
        # Detections are not in batches, so that batches of them cannot be taken apart.
        boxes = isinstance(config.decoder, MaskRCNN)
        outputs = self._runner.run_one(pixels) if boxes else self._runner.run([pixels])
        names = config.output_names
        return [outputs[name] for name in names], View.of(how, (photo.height, photo.width))

    def _by_queries(self, photo: Image.Image) -> Answer:
        decoder = self._manifest.config.decoder
        assert isinstance(decoder, Mask2Former | OneFormer)
        (classes, masks), view = self._look(photo)
        things = self._manifest.things or None
        if decoder.task == "semantic":
            return queries.semantic(classes[0], masks[0], view)
        if decoder.task == "instance":
            least = DEFAULT_MIN_SCORE if self._min_score is None else self._min_score
            return queries.instances(classes[0], masks[0], view, things=things, min_score=least)
        least = decoder.object_mask_threshold if self._min_score is None else self._min_score
        return queries.panoptic(
            classes[0],
            masks[0],
            view,
            things=range(self._manifest.config.num_classes) if things is None else things,
            object_mask_threshold=least,
            overlap_threshold=decoder.overlap_threshold,
        )

    def _by_boxes(self, photo: Image.Image) -> Answer:
        (boxes, scores, labels, masks), view = self._look(photo)
        least = DEFAULT_MIN_SCORE if self._min_score is None else self._min_score
        return detections(boxes, scores, labels, masks, view, min_score=least)
