"""What a directory of transformers says beside its weights, read from plain data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dinat_deploy.errors import CheckpointError, ConfigError
from dinat_deploy.models import huggingface, huggingface_upernet
from dinat_deploy.models.checkpoints import Checkpoint, read_checkpoint, read_hugging_face
from dinat_deploy.models.decoders import Task, UPerNet
from dinat_deploy.models.huggingface_preprocessing import Found, parse_preprocessor
from dinat_deploy.models.model_card import save_model
from dinat_deploy.models.preprocessing import Preprocessing
from dinat_deploy.models.weights import seeded_model
from dinat_deploy.pipeline.requests import ModelRequest
from dinat_deploy.pipeline.sources import resolve
from tests.conftest import TINY
from tests.models import upstream, upstream_segmenters

KWARGS = {
    "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "kernel_size": 3,
    "dilations": [[2], [1], [1], [1]], "mlp_ratio": 2.0, "num_classes": 5,
}  # fmt: skip
STAGES = ["stage1", "stage2", "stage3", "stage4"]
NAMES = {"0": "cat", "1": "dog", "2": "sky", "3": "road", "4": "wall"}


def backbone_config(**changes: object) -> dict[str, Any]:
    return upstream.hugging_face_config(
        KWARGS, architectures=["DinatBackbone"], out_features=STAGES, **changes
    )


def upernet_config(**changes: object) -> dict[str, Any]:
    return {
        "model_type": "upernet",
        "architectures": ["UperNetForSemanticSegmentation"],
        "backbone_config": backbone_config(),
        "hidden_size": 6,
        "auxiliary_channels": 4,
        "id2label": NAMES,
    } | changes


def upernet_weights() -> upstream.Weights:
    """The names of ``UperNetForSemanticSegmentation``, made from mmsegmentation's."""
    shapes = upstream.original_shapes(
        8, (1, 1, 1, 1), (1, 2, 4, 8), kernel=3, ratio=2.0, classes=None, norms=True
    )
    weights = {
        f"backbone.{name}": tensor
        for name, tensor in upstream.to_hugging_face(upstream.drawn(shapes), "").items()
    }
    heads = upstream_segmenters.upernet_shapes([8, 16, 32, 64], 5, channels=6, auxiliary=4)
    for name, tensor in upstream.drawn(heads, 1).items():
        theirs = name.replace(".bn.", ".batch_norm.").replace("conv_seg", "classifier")
        weights[theirs] = tensor.abs() if name.endswith("running_var") else tensor
    return weights


def upernet_directory(place: Path, **changes: object) -> Path:
    return upstream.write_hugging_face(place, upernet_config(**changes), upernet_weights())


def with_processor(directory: Path, data: object, name: str = "preprocessor_config.json") -> Path:
    (directory / name).write_text(json.dumps(data))
    return directory


def test_heads_get_the_names_of_mmsegmentation(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(upernet_directory(tmp_path / "hf"))
    expected = upstream_segmenters.upernet_shapes([8, 16, 32, 64], 5, channels=6, auxiliary=4)
    assert {name: list(t.shape) for name, t in checkpoint.heads.items()} == expected
    assert checkpoint.ignored == []
    assert checkpoint.labels == list(NAMES.values())
    assert checkpoint.config is not None
    assert checkpoint.config.decoder == UPerNet(channels=6, auxiliary_channels=4)
    assert checkpoint.config.out_levels == ()
    assert checkpoint.config.dilations == ((2,), (1,), (1,), (1,))


def test_the_number_of_classes_is_that_of_the_weights(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(upernet_directory(tmp_path / "hf", id2label={}))
    assert checkpoint.config is not None
    assert checkpoint.config.num_classes == 5
    assert checkpoint.labels is None


@pytest.mark.parametrize(
    "setting",
    [
        {"use_auxiliary_head": False},
        {"auxiliary_num_convs": 0},
        {"auxiliary_concat_input": True},
    ],
)
def test_auxiliary_heads_that_ours_is_not_are_left_out(setting: dict[str, object]) -> None:
    config = huggingface_upernet.parse_config(upernet_config(**setting))
    assert isinstance(config.decoder, UPerNet)
    assert config.decoder.auxiliary_channels is None
    _, heads = huggingface_upernet.to_checkpoint(upernet_weights(), config)
    assert heads
    assert all(name.startswith("decode_head.") for name in heads)


def test_pool_scales_that_are_no_list_are_named() -> None:
    with pytest.raises(ConfigError, match="pool_scales"):
        huggingface_upernet.parse_config(upernet_config(pool_scales=3))


def test_backbones_inside_others_lack_what_is_usual() -> None:
    inner = {"model_type": "dinat", "out_features": STAGES}
    config = huggingface_upernet.parse_config(upernet_config(backbone_config=inner))
    assert (config.embed_dim, config.depths, config.kernel_size) == (64, (3, 4, 6, 5), 7)
    assert config.dilations[0] == (1, 8, 1)
    nat = huggingface_upernet.parse_config(
        upernet_config(backbone_config=inner | {"model_type": "nat"})
    )
    assert nat.dilations[0] == (1, 1, 1)


def test_levels_are_read_from_names_and_from_numbers() -> None:
    depths = {"depths": [1, 1, 1]}
    assert huggingface.levels_of({**depths, "out_features": ["stem", "stage2"]}) == (1,)
    assert huggingface.levels_of({**depths, "out_indices": [1, 3]}) == (0, 2)
    assert huggingface.levels_of({**depths, "out_indices": [0, -1]}) == (2,)
    assert huggingface.levels_of(depths) == (2,)


def test_the_output_of_the_tokenizer_is_left_out_with_a_note(tmp_path: Path) -> None:
    shapes = upstream.original_shapes(
        8, (1, 1, 1, 1), (1, 2, 4, 8), kernel=3, ratio=2.0, classes=None, norms=True
    )
    weights = upstream.to_hugging_face(upstream.drawn(shapes), "")
    weights["hidden_states_norms.stem.weight"] = torch.ones(8)
    config = backbone_config() | {"out_features": ["stem", *STAGES]}
    checkpoint = read_checkpoint(upstream.write_hugging_face(tmp_path, config, weights))
    assert checkpoint.config is not None
    assert checkpoint.config.out_levels == (0, 1, 2, 3)
    assert "stem" in checkpoint.notes[0]
    assert checkpoint.ignored == ["hidden_states_norms.stem.weight"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"backbone_config": {"model_type": "swin"}},
            "a UperNetForSemanticSegmentation on the backbone swin; dinat or nat is needed",
        ),
        ({"backbone_config": None, "backbone": "resnet50"}, "on the backbone resnet50; dinat"),
        (
            {
                "model_type": "mask2former", "architectures": ["Mask2FormerForUniversalSegmentation"],
                "backbone_config": {"model_type": "swin"},
            },
            "a Mask2FormerForUniversalSegmentation on the backbone swin; dinat or nat is needed",
        ),
        (
            {"backbone_config": backbone_config() | {"out_features": ["stage2", "stage4"]}},
            "the features stage2, stage4 of the backbone; ours reads all, stage1, stage2, stage3",
        ),
        ({"backbone_config": backbone_config(qkv_bias=False)}, "asks for qkv_bias False; only True"),
        ({"model_type": "detr"}, "is of model type 'detr'; expected dinat or nat, or upernet, mask2"),
    ],
    ids=["swin", "by name", "mask2former", "some levels", "bias", "detr"],
)  # fmt: skip
def test_models_that_ours_are_not_are_refused_with_both_sides(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_hugging_face(upernet_directory(tmp_path / "hf", **changes))


def test_hf_insists_on_a_directory_of_transformers(tmp_path: Path) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(CheckpointError, match=message):
            read_hugging_face(path)

    refused(tmp_path / "none", "none is not there")
    (tmp_path / "file.pth").write_bytes(b"")
    refused(tmp_path / "file.pth", "file.pth is a file.*files of weights go to --checkpoint")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "There is no .*config.json")
    preprocessing = Preprocessing(resize=(64, 64), crop=(64, 64))
    save_model(tmp_path / "own", seeded_model(TINY, 0), TINY, preprocessing, None)
    refused(tmp_path / "own", "was saved by dinat_deploy, not by transformers. Use --checkpoint")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    upstream.write_hugging_face(tmp_path, upernet_config(), {"vit.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="have no backbone for a UperNet.*vit.weight"):
        read_checkpoint(tmp_path)
    upstream.write_hugging_face(tmp_path, backbone_config(), {"vit.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"are of no Dinat or Nat.*vit.weight"):
        read_checkpoint(tmp_path)


def fitted(data: dict[str, Any], task: Task = "panoptic", size: Any = None) -> Found:
    return parse_preprocessor(data, task, size)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        ({"size": {"shortest_edge": 800, "longest_edge": 1333}, "size_divisor": 32}, (800, 1344)),
        ({"size": 800, "max_size": 1333}, (800, 1344)),
        ({"size": {"shortest_edge": 1024, "longest_edge": 2048}}, (1024, 2048)),
        # The longest edge is a mere limit: usual pictures end before it.
        ({"size": {"shortest_edge": 640, "longest_edge": 2560}}, (640, 960)),
        ({"size": {"shortest_edge": 512}}, (512, 768)),
        ({"size": {"max_height": 600, "max_width": 800}}, (608, 800)),
        (
            {
                "size": {"shortest_edge": 640, "longest_edge": 640}, "do_pad": True,
                "pad_size": {"height": 640, "width": 640},
            },
            (640, 640),
        ),
    ],
)  # fmt: skip
def test_pictures_that_keep_their_ratio_are_fitted_into_one_input(
    data: dict[str, Any], size: tuple[int, int]
) -> None:
    found = fitted(data)
    assert (found.preprocessing.resize_mode, found.preprocessing.crop) == ("contain", size)
    assert f"{size[0]}x{size[1]} pixels" in found.notes[0]
    assert "--image-size" in found.notes[0]


def test_the_size_that_is_asked_for_wins() -> None:
    found = fitted({"size": {"shortest_edge": 800, "longest_edge": 1333}}, size=(512, 640))
    assert found.preprocessing.crop == (512, 640)
    assert "into 512x640 pixels" in found.notes[0]
    assert "--image-size" not in found.notes[0]
    stretched = fitted({"size": {"height": 512, "width": 512}}, size=(256, 320))
    assert stretched.preprocessing == Preprocessing(
        resize_mode="stretch", resize=(256, 320), crop=(256, 320)
    )


def test_processors_that_do_not_resize_are_noted() -> None:
    found = fitted({"do_resize": False, "size": {"height": 512, "width": 512}}, "semantic")
    assert found.notes == [
        "pictures are resized to 512x512 pixels, where transformers takes them as they are"
    ]


def test_processors_of_pictures_and_texts_hold_one_of_pictures(tmp_path: Path) -> None:
    inner = {"size": {"height": 96, "width": 128}, "image_mean": [0.1, 0.2, 0.3], "resample": 2}
    for name in ("processor_config.json", "preprocessor_config.json"):
        directory = upernet_directory(tmp_path / name)
        with_processor(directory, {"image_processor": inner, "processor_class": "Any"}, name)
        found = read_checkpoint(directory)
        assert found.preprocessing == Preprocessing(
            resize_mode="stretch", resize=(96, 128), crop=(96, 128), interpolation="bilinear",
            mean=(0.1, 0.2, 0.3),
        )  # fmt: skip
        assert found.config is not None
        assert found.config.image_size == (96, 128)


def test_without_a_processor_the_usual_one_is_taken_and_named(tmp_path: Path) -> None:
    found = read_checkpoint(upernet_directory(tmp_path / "hf"))
    assert found.preprocessing is not None
    assert found.preprocessing.crop == (512, 512)
    assert found.notes == [
        "the directory has no preprocessor_config.json; taken is what is usual for upernet"
    ]
    assert read_checkpoint(tmp_path / "hf", image_size=(64, 64)).preprocessing is not None


def things(directory: Path, processor: object) -> Checkpoint:
    return read_checkpoint(with_processor(directory, processor))


def test_countable_classes_are_read_from_the_processor_or_its_table(tmp_path: Path) -> None:
    directory = upernet_directory(tmp_path / "hf")
    metadata = NAMES | {"thing_ids": [1, 0], "class_names": list(NAMES.values())}
    assert things(directory, {"metadata": metadata, "size": 64}).things == [0, 1]
    table = {key: {"name": name, "isthing": int(int(key) < 3)} for key, name in NAMES.items()}
    (directory / "ours.json").write_text(json.dumps(table))
    named = {"class_info_file": "ours.json", "size": 64}
    assert things(directory, named).things == [0, 1, 2]
    assert things(directory, named | {"class_info_file": "../ours.json"}).things is None
    assert things(directory, {"size": 64}).things is None
    (directory / "ours.json").write_text('{"0": "cat"}')
    with pytest.raises(CheckpointError, match="is no table of classes"):
        things(directory, named)


def test_names_and_countable_classes_reach_the_model(tmp_path: Path) -> None:
    directory = upernet_directory(tmp_path / "hf")
    with_processor(directory, {"metadata": {"thing_ids": [1]}, "size": 64})
    source = resolve(ModelRequest(checkpoint=directory))
    assert source.classes is not None
    assert (source.classes.labels, source.classes.things) == (list(NAMES.values()), [1])
