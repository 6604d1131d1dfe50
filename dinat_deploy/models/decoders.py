"""Settings of the heads that turn a backbone into a segmenter or detector, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from dinat_deploy.models.limits import LARGEST_COUNT, LARGEST_WIDTH, Count, CountOrNone, Width

Task = Literal["classification", "backbone", "semantic", "instance", "panoptic"]
DecoderTask = Literal["semantic", "instance", "panoptic"]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class UPerNet(_Settings):
    """Settings of UPerNet's decode head; the defaults are those of the published segmenters.

    Attributes:
        channels: of every map in the head.
        pool_scales: grids of cells, on a side, over which the last features are averaged.
        dropout: of whole channels before the classifier while training.
        auxiliary_channels: of the head that only training uses, or None for a model without.
        auxiliary_level: level that it reads, from 0.
        auxiliary_convs: convolutions in it.
        folded: batch normalization is part of the convolutions, as in everything exported.
        full_size: the model resizes its logits to the size of the image.
    """

    type: Literal["upernet"] = "upernet"
    channels: Width = 512
    pool_scales: tuple[Annotated[int, Field(le=LARGEST_COUNT)], ...] = Field(
        default=(1, 2, 3, 6), min_length=1, max_length=100
    )
    dropout: float = Field(default=0.1, ge=0, lt=1)
    auxiliary_channels: Width | None = 256
    auxiliary_level: CountOrNone = 2
    auxiliary_convs: Count = 1
    folded: bool = False
    full_size: bool = False

    @model_validator(mode="after")
    def _check(self) -> UPerNet:
        if min(self.pool_scales) < 1:
            raise ValueError(f"pool_scales {self.pool_scales} must be positive")
        if self.folded and self.auxiliary_channels is not None:
            raise ValueError("a folded head is for inference and has no auxiliary_channels")
        return self

    @property
    def task(self) -> DecoderTask:
        return "semantic"

    @property
    def output_names(self) -> tuple[str, ...]:
        """Logits ``[B, num_classes, h, w]``."""
        return ("logits",)


# Levels that a pixel decoder's deformable attention reads, the three coarsest, and points at which
# it reads each; the same in all published models.
ATTENDED_LEVELS, POINTS = 3, 4


class _Queries(_Settings):
    """What Mask2Former and OneFormer share: each query answers with a class and a mask.

    Attributes:
        task: what the answers are put together to.
        num_queries: answers to each image.
        hidden_dim: channels of queries and of the pixel decoder's maps.
        mask_dim: channels of the map that masks are products with.
        num_heads: of all attention in the head.
        encoder_layers: deformable attention layers of the pixel decoder.
        encoder_ffn: hidden width in them.
        decoder_layers: masked attention layers, the first prediction from the learned queries not
            counted.
        decoder_ffn: hidden width in them.
        object_mask_threshold: a query counts from this probability of its best class on.
        overlap_threshold: a query counts if this share of its mask is nobody else's.
    """

    task: DecoderTask = "panoptic"
    num_queries: Width = 100
    hidden_dim: int = Field(default=256, ge=8, le=LARGEST_WIDTH)
    mask_dim: Width = 256
    num_heads: Width = 8
    encoder_layers: Count = 6
    encoder_ffn: Width = 1024
    decoder_layers: Count = 9
    decoder_ffn: Width = 2048
    object_mask_threshold: float = Field(default=0.8, ge=0, le=1)
    overlap_threshold: float = Field(default=0.8, ge=0, le=1)

    @model_validator(mode="after")
    def _check_width(self) -> _Queries:
        for divisor, what in ((32, "groups of its normalizations"), (self.num_heads, "num_heads")):
            if self.hidden_dim % divisor:
                raise ValueError(
                    f"hidden_dim {self.hidden_dim} is no multiple of {divisor}, the {what}"
                )
        return self

    @property
    def output_names(self) -> tuple[str, ...]:
        """Logits ``[B, num_queries, num_classes + 1]``, the last one of "nothing", and of masks
        ``[B, num_queries, H/4, W/4]``."""
        return ("class_logits", "mask_logits")


class Mask2Former(_Queries):
    """Settings of Mask2Former (Cheng et al., arXiv 2112.01527)."""

    type: Literal["mask2former"] = "mask2former"


class OneFormer(_Queries):
    """Settings of OneFormer (Jain et al., arXiv 2211.06220); its queries start from the task.

    Attributes:
        task_tokens: for each task the sentence that names it, as numbers of the text tokenizer; all
            of one length. The model answers the one that is ``task``.
        query_layers: layers of the transformer that turns the task into queries.
        task_norm: the text's features are normalised.
    """

    type: Literal["oneformer"] = "oneformer"
    num_queries: int = Field(default=150, ge=2, le=LARGEST_WIDTH)
    task_tokens: dict[DecoderTask, tuple[int, ...]] = Field(default_factory=dict)
    query_layers: Count = 2
    task_norm: bool = True

    @model_validator(mode="after")
    def _check(self) -> OneFormer:
        if self.mask_dim != self.hidden_dim:
            # The map that masks are products with is also read by the first queries.
            raise ValueError(
                f"mask_dim {self.mask_dim} and hidden_dim {self.hidden_dim} must be equal"
            )
        lengths = sorted({len(tokens) for tokens in self.task_tokens.values()})
        if len(lengths) > 1 or 0 in lengths:
            raise ValueError(
                f"task_tokens has sentences of {' and '.join(map(str, lengths))} numbers; all must "
                "be of one length"
            )
        return self


class MaskRCNN(_Settings):
    """Settings of Mask R-CNN (He et al., arXiv 1703.06870) and, with more than one stage, Cascade
    Mask R-CNN (Cai and Vasconcelos, arXiv 1906.09756), as mmdetection has them.

    Attributes:
        channels: of every map of the feature pyramid and of the heads' convolutions.
        stages: of box heads, each of which corrects the boxes of the one before: 1 or 3.
        box_convs: 3x3 convolutions with batch normalization in a box head, before the linear
            layers; published cascades have 4, and Mask R-CNN none.
        box_linears: hidden linear layers in a box head.
        box_dim: their width.
        class_agnostic: one box for all classes, not one for each. (The parameters published of
            cascades are those with one for each.)
        mask_convs: 3x3 convolutions in a mask head.
        anchor_scale: side of the anchors in strides of their level.
        anchor_ratios: height to width of the anchors.
        proposals_per_level, proposals: that are kept of each level before non-maximum suppression,
            and after it of all.
        proposal_iou: two proposals that overlap more are one.
        score_threshold, detection_iou, detections: the same of the final boxes; as many
            ``detections`` as there can be are always returned, the superfluous ones with score 0.
        folded: batch normalization is part of the convolutions, as in everything exported.
    """

    type: Literal["mask_rcnn"] = "mask_rcnn"
    channels: Width = 256
    stages: Literal[1, 3] = 1
    box_convs: CountOrNone = 0
    box_linears: Count = 2
    box_dim: Width = 1024
    class_agnostic: bool = False
    mask_convs: Count = 4
    anchor_scale: Positive = 8.0
    anchor_ratios: tuple[Positive, ...] = Field(
        default=(0.5, 1.0, 2.0), min_length=1, max_length=100
    )
    proposals_per_level: Width = 1000
    proposals: Width = 1000
    proposal_iou: float = Field(default=0.7, gt=0, le=1)
    score_threshold: float = Field(default=0.05, ge=0, lt=1)
    detection_iou: float = Field(default=0.5, gt=0, le=1)
    detections: Width = 100
    folded: bool = False

    @classmethod
    def cascade(cls) -> MaskRCNN:
        """As published: four convolutions and one linear layer in each of three box heads."""
        return cls(stages=3, box_convs=4, box_linears=1)

    @property
    def task(self) -> DecoderTask:
        return "instance"

    @property
    def output_names(self) -> tuple[str, ...]:
        """For the n ``detections`` of one image, best first: corners ``[n, 4]`` (left, top, right,
        bottom in pixels of the input), scores ``[n]`` (0 to 1), classes ``[n]`` (int64), and masks
        ``[n, 28, 28]`` (probabilities, of the box)."""
        return ("boxes", "scores", "labels", "masks")


def _type_of(data: Any) -> str:
    """A decoder that does not say what it is, as in older files, is UPerNet's."""
    if isinstance(data, Mapping):
        return str(data.get("type", "upernet"))
    return str(getattr(data, "type", "upernet"))


Decoder = Annotated[
    Annotated[UPerNet, Tag("upernet")]
    | Annotated[Mask2Former, Tag("mask2former")]
    | Annotated[OneFormer, Tag("oneformer")]
    | Annotated[MaskRCNN, Tag("mask_rcnn")],
    Discriminator(
        _type_of,
        custom_error_type="decoder_type",
        custom_error_message="type must be upernet, mask2former, oneformer or mask_rcnn",
    ),
]
