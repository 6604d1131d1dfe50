"""From a request to a model: architecture, weights, preprocessing and labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dinat_deploy.errors import CheckpointError, ConfigError
from dinat_deploy.models import hub
from dinat_deploy.models.building import Model, for_inference
from dinat_deploy.models.checkpoints import Checkpoint, read_checkpoint, read_hugging_face
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.datasets import ClassTable, class_table
from dinat_deploy.models.decoders import DecoderTask, MaskRCNN, UPerNet
from dinat_deploy.models.families import FAMILIES, Family, family_of
from dinat_deploy.models.fitting import fit
from dinat_deploy.models.labels import default_labels
from dinat_deploy.models.model_card import ModelCard, read_card
from dinat_deploy.models.preprocessing import Preprocessing
from dinat_deploy.models.presets import DECODERS, choose_decoder, dataset_for, preset, settings
from dinat_deploy.models.weights import model_from_state, seeded_model
from dinat_deploy.models.zoo import Variant, get_variant, named_dilations
from dinat_deploy.pipeline.requests import ModelRequest, request_name

_DEFAULT_CROP_FRACTION = 0.875


@dataclass
class ModelSource:
    """A model ready for export and all that is known about it."""

    name: str
    module: Model
    preprocessing: Preprocessing
    classes: ClassTable | None
    weights_source: Literal["seeded", "checkpoint", "pretrained"]
    weights_origin: str
    seed: int | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def labels(self) -> list[str] | None:
        return self.classes.labels if self.classes else None

    @property
    def config(self) -> ModelConfig:
        return self.module.config


def resolve(request: ModelRequest) -> ModelSource:
    """Build the model that a request describes.

    Raises:
        UnknownModelError, ConfigError, CheckpointError: see there.
    """
    variant = get_variant(request.model) if request.model else None
    checkpoint = _checkpoint(request, variant)
    card = None if request.config is None else read_card(request.config)
    config = _config(request, variant, checkpoint, card)
    config.check_image_size(config.image_size)
    name = variant.name if variant else request_name(request)
    preprocessing = _preprocessing(request, variant, checkpoint, card, config)
    classes = _classes(request, checkpoint, card, config)
    if checkpoint is None:
        module = for_inference(seeded_model(config, request.seed))
        origin = f"made-up weights, seed {request.seed}"
        return ModelSource(name, module, preprocessing, classes, "seeded", origin, request.seed)
    fitted = fit(checkpoint, config, resize_rpb=request.resize_rpb)
    notes = [*checkpoint.notes, *fitted.notes]
    left = checkpoint.ignored if config.decoder else [*checkpoint.ignored, *checkpoint.heads]
    if left:
        shown = ", ".join(left[:3]) + (" ..." if len(left) > 3 else "")
        notes.append(f"left out {len(left)} tensors of other parts ({shown})")
    return ModelSource(
        name,
        for_inference(model_from_state(config, fitted.state)),
        preprocessing,
        classes,
        "pretrained" if request.pretrained else "checkpoint",
        (variant.hub or "") if request.pretrained and variant else checkpoint.path.name,
        notes=notes,
    )


def _checkpoint(request: ModelRequest, variant: Variant | None) -> Checkpoint | None:
    given = {
        "--pretrained": request.pretrained,
        "--checkpoint": request.checkpoint is not None,
        "--hf": request.hf is not None,
        "--model": request.hf is not None and variant is not None,
    }
    several = [option for option, used in given.items() if used]
    if len(several) > 1:
        why = " Its config.json says which model it is." if "--model" in several else ""
        raise ConfigError(f"{several[0]} and {several[1]} exclude each other.{why}", "Drop one.")
    # A directory that says itself what it is stays that under the default.
    task = None if request.task == "classification" else request.task
    if request.pretrained:
        if variant is None:
            raise ConfigError(
                "--pretrained needs to know which model.", "Name it, like --model dinat_tiny."
            )
        return read_checkpoint(hub.download(variant))
    if request.hf is not None:
        return read_hugging_face(request.hf, task=task, image_size=request.image_size)
    if request.checkpoint is None:
        return None
    return read_checkpoint(
        request.checkpoint, prefer_ema=request.ema, task=task, image_size=request.image_size
    )


def _config(
    request: ModelRequest,
    variant: Variant | None,
    checkpoint: Checkpoint | None,
    card: ModelCard | None,
) -> ModelConfig:
    if card is not None:
        config = card.config
    elif variant is not None:
        config = variant.config
    elif checkpoint is not None and checkpoint.config is not None:
        config = checkpoint.config
    elif checkpoint is not None:
        raise CheckpointError(
            f"{checkpoint.path} does not say which model it is: "
            "dilations leave no trace in weights.",
            "Name the variant with --model, or give --config.",
        )
    else:
        raise ConfigError(
            "Which model?", "Name one (--model dinat_tiny), or pass --checkpoint, --hf or --config."
        )
    changes: dict[str, Any] = {}
    for key in ("kernel_size", "depths", "num_heads", "num_classes", "image_size"):
        value = getattr(request, key)
        if value is not None:
            changes[key] = value
    if request.dilations is not None:
        wanted = request.dilations
        changes["dilations"] = (
            named_dilations(wanted, variant) if isinstance(wanted, str) else wanted
        )
    if request.task == "backbone":
        # First, so that changed depths change the levels that are returned.
        config = config.replace(decoder=None, **changes).backbone
        _check_decoder(request, config)
        return config
    if request.task != "classification" and config.decoder is None:
        changes = _headed(request, request.task, variant, checkpoint) | changes
    config = config.replace(**changes) if changes else config
    if request.task not in ("classification", config.task):
        config = _with_task(config, request.task)
    _check_decoder(request, config)
    if request.full_size:
        if not isinstance(config.decoder, UPerNet):
            raise ConfigError("--full-size is about the logits of UPerNet.", "Add --task semantic.")
        config = config.replace(decoder=config.decoder.model_copy(update={"full_size": True}))
    return config


def _headed(
    request: ModelRequest,
    task: DecoderTask,
    variant: Variant | None,
    checkpoint: Checkpoint | None,
) -> dict[str, Any]:
    """What makes a configuration that of a segmenter or detector: its decoder, as the checkpoint
    has it or else as published, and the published settings of the variant."""
    decoder = choose_decoder(request.decoder, task)
    dataset = dataset_for(decoder, task, request.dataset)
    changes = preset(variant, decoder, task, dataset)
    if request.depths is not None:
        changes.pop("dilations", None)  # of layers that the model does not have
    if checkpoint is not None:
        family = FAMILIES[changes["decoder"].type]
        found = family.settings_of(checkpoint.heads, task)
        if found is None:
            raise _another_head(checkpoint, family, task)
        changes["decoder"] = found
        classes = family.num_classes_of(checkpoint.heads)
        changes |= {} if classes is None else {"num_classes": classes}
    return changes


def _another_head(checkpoint: Checkpoint, wanted: Family, task: DecoderTask) -> CheckpointError:
    """That a file has not the head that is wanted, and which it has."""
    other = family_of(checkpoint.heads)
    if other is None:
        return CheckpointError(
            f"{checkpoint.path} holds no {wanted.title}.",
            "Pass the checkpoint of such a model, or none for random weights; or export with "
            "--task backbone or classification.",
        )
    if other is wanted:
        return CheckpointError(
            f"{checkpoint.path} holds no complete {wanted.title}.",
            "Get the file again from its source, or export with --task backbone.",
        )
    try:
        name = choose_decoder("mask2former" if other.decoder == "mask2former" else None, task)
        fits = FAMILIES[settings(name, task).type] is other
    except ConfigError:
        fits = False
    return CheckpointError(
        f"{checkpoint.path} holds a {other.title}, and no {wanted.title}.",
        f"Use --decoder {name}, or pass another checkpoint."
        if fits
        else f"Use --task {other.task} or backbone, or pass another checkpoint.",
    )


def _check_decoder(request: ModelRequest, config: ModelConfig) -> None:
    """That the model has the decoder that is asked for.

    Raises:
        ConfigError: it has another one or none, or there is a data set and none.
    """
    if config.decoder is None:
        for option, value in (("--decoder", request.decoder), ("--dataset", request.dataset)):
            if value is not None:
                raise ConfigError(
                    f"{option} {value} is about segmenters and detectors, and this is a model for "
                    f"{config.task}.",
                    "Drop it, or add --task semantic, instance or panoptic.",
                )
        return
    kind: str = config.decoder.type
    if isinstance(config.decoder, MaskRCNN) and config.decoder.stages > 1:
        kind = "cascade_mask_rcnn"
    if request.decoder not in (None, kind):
        where = request.hf or request.checkpoint or request.config
        raise ConfigError(
            f"--decoder says {request.decoder}, and what {where} holds is a {kind}.",
            f"Drop --decoder, or say --decoder {kind}." if kind in DECODERS else "Drop --decoder.",
        )


def _with_task(config: ModelConfig, task: str) -> ModelConfig:
    """The same model, its answers put together for another task, if it can do that."""
    decoder = config.decoder
    if decoder is None or "task" not in type(decoder).model_fields:
        raise ConfigError(
            f"The model is for {config.task}, not {task}.", f"Use --task {config.task}."
        )
    return config.replace(decoder=decoder.model_copy(update={"task": task}))


def _preprocessing(
    request: ModelRequest,
    variant: Variant | None,
    checkpoint: Checkpoint | None,
    card: ModelCard | None,
    config: ModelConfig,
) -> Preprocessing:
    fraction = variant.crop_fraction if variant else _DEFAULT_CROP_FRACTION
    known = card.preprocessing if card else None
    if known is None and checkpoint is not None and not request.pretrained:
        known = checkpoint.preprocessing
    # Published accuracies were measured with the crop of the variant, not with the direct resize
    # that the files on the hub describe.
    if known is None and config.decoder is not None:
        # UPerNet as mmsegmentation tests it: the short side as long as the crops in training were.
        # The others see the whole picture.
        known = Preprocessing(
            resize_mode="cover" if isinstance(config.decoder, UPerNet) else "contain",
            resize=config.image_size,
            crop=config.image_size,
            interpolation="bilinear",
        )
    chosen = known or Preprocessing.for_evaluation(config.image_size, fraction)
    if len(chosen.mean) != config.in_channels or len(chosen.std) != config.in_channels:
        raise ConfigError(
            f"The preprocessing has {len(chosen.mean)} means and {len(chosen.std)} deviations, "
            f"the model {config.in_channels} input channels.",
            "Give both in a model card with --config.",
        )
    return chosen.with_crop(config.image_size)


def _classes(
    request: ModelRequest,
    checkpoint: Checkpoint | None,
    card: ModelCard | None,
    config: ModelConfig,
) -> ClassTable | None:
    """Names, colours and countability of the classes, as far as they are known."""
    if config.is_backbone or not config.num_classes:
        return None
    table = _published_classes(request, config)
    if request.dataset and table is not None and len(table.labels) != config.num_classes:
        raise ConfigError(
            f"{request.dataset} has {len(table.labels)} classes for {config.task}, the model "
            f"{config.num_classes}.",
            "Drop --dataset, or name the one that the model was trained on.",
        )
    labels = _labels(request, config)
    for known in (card.labels if card else None, checkpoint.labels if checkpoint else None):
        if labels is None and known and len(known) == config.num_classes:
            labels = known
    if table is not None and labels in (None, table.labels):
        return table if len(table.labels) == config.num_classes else None
    labels = labels or (default_labels(config.num_classes) if config.is_classifier else None)
    things = (checkpoint.things if checkpoint else None) or []
    return None if labels is None else ClassTable(labels, [], things)


def _published_classes(request: ModelRequest, config: ModelConfig) -> ClassTable | None:
    """Those of the data set that is asked for, or that a published model is for."""
    if config.decoder is None:
        return None
    name, task = request.dataset, config.decoder.task
    if name is None and request.model is not None:
        name = dataset_for(choose_decoder(request.decoder, task), task, None)
    if name is None:
        return None
    # A model for things and stuff is one for things as well.
    tables = [class_table(name, task), class_table(name, "panoptic")]
    fitting = [table for table in tables if len(table.labels) == config.num_classes]
    return fitting[0] if fitting else tables[0]


def _labels(request: ModelRequest, config: ModelConfig) -> list[str] | None:
    """The names in the file of ``--labels``, if there is one."""
    if request.labels is None:
        return None
    try:
        text = Path(request.labels).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{request.labels} is not readable: {error}.") from None
    labels = [line.strip() for line in text.splitlines() if line.strip()]
    if len(labels) != config.num_classes:
        raise ConfigError(
            f"{request.labels} has {len(labels)} labels, the model {config.num_classes} classes.",
            "Write one class name per line.",
        )
    return labels
