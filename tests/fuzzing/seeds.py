"""The valid inputs that are mutated: a folder for each, below a folder for each kind."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors.torch
import torch
from PIL import Image

from dinat_deploy.bundle import Bundle, TensorSpec, open_bundle
from dinat_deploy.calibration.histogram import Histogram
from dinat_deploy.calibration.record import CalibrationData, Settings
from dinat_deploy.calibration.state import Recorded, save_histograms
from dinat_deploy.calibration.tensorrt_cache import write_cache
from dinat_deploy.engine.builder import BuilderOptions, PluginLayer
from dinat_deploy.engine.manifest import (
    EngineManifest,
    LayerInfo,
    PlanInfo,
    PluginInfo,
    Runtime,
    onnx_source,
)
from dinat_deploy.engine.profiles import parse_profile
from dinat_deploy.files import sha256
from dinat_deploy.measurement.records import ArtefactResult, BenchOptions, BenchReport
from dinat_deploy.measurement.report import to_json
from dinat_deploy.measurement.statistics import summarize
from dinat_deploy.models.config import ModelConfig
from dinat_deploy.models.decoders import Mask2Former, MaskRCNN, UPerNet
from dinat_deploy.models.model_card import save_model
from dinat_deploy.models.preprocessing import open_image
from dinat_deploy.models.weights import seeded_model
from dinat_deploy.pipeline.deploy_record import DeployRecord, StepRecord
from tests.fuzzing.cases import reseal
from tests.fuzzing.libraries import library
from tests.fuzzing.picture_changes import pictures
from tests.fuzzing.tensor_changes import old_format

# As small as a model with all parts can be.
TINY = ModelConfig(
    embed_dim=16,
    depths=(2, 1),
    num_heads=(2, 4),
    kernel_size=3,
    dilations=((1, 4), (2,)),
    mlp_ratio=2.0,
    layer_scale=1e-5,
    num_classes=10,
    image_size=(64, 64),
)
FOUR = TINY.replace(depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), num_classes=5)
CONFIGS: dict[str, ModelConfig] = {
    "classifier": TINY,
    "backbone": TINY.backbone,
    "swin_shaped": TINY.replace(architecture="dinat_s"),
    "isotropic": ModelConfig(
        architecture="isotropic", embed_dim=16, depths=(2,), num_heads=(2,), kernel_size=4,
        num_classes=3, image_size=(64, 64), global_attention=True,
    ),
    "upernet": FOUR.replace(decoder=UPerNet(channels=8, auxiliary_channels=6)),
    "mask2former": FOUR.replace(
        decoder=Mask2Former(hidden_dim=32, mask_dim=16, num_heads=4, encoder_layers=1,
                            encoder_ffn=24, decoder_layers=2, decoder_ffn=40, num_queries=6)
    ),
    "mask_rcnn": FOUR.replace(decoder=MaskRCNN(channels=8, box_dim=12, mask_convs=1)),
}  # fmt: skip
WEIGHTS = ("classifier", "swin_shaped", "upernet", "mask2former", "mask_rcnn")
HUGGING_FACE: dict[str, dict[str, Any]] = {
    "classifier": {"architectures": ["DinatForImageClassification"]},
    "backbone": {"architectures": ["DinatBackbone"], "out_features": ["stage1", "stage2"]},
}
_PROCESSOR = {
    "do_normalize": True, "do_rescale": True, "do_resize": True, "do_center_crop": True,
    "size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}, "resample": 3,
    "rescale_factor": 1 / 255, "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225], "image_processor_type": "ViTImageProcessor",
}  # fmt: skip


def make_seeds(place: Path, bundle: Path, more: Mapping[str, Path] | None = None) -> None:
    """Write all seeds.

    Args:
        place: made; ``KIND/SEED/`` with the files of one valid input in each.
        bundle: of :data:`TINY`, with variants or without; ``more`` are others, by name.
    """
    for kind, make in _MAKERS.items():
        (place / kind).mkdir(parents=True)
        make(place / kind, bundle)
    for name, other in (more or {}).items():
        shutil.copytree(other, place / "manifest" / name / "bundle")


def _bundle(folder: Path, bundle: Path) -> Path:
    """A copy of the bundle, without engines and what is left of other work."""
    target = folder / "bundle"
    ignored = shutil.ignore_patterns("engines", "calibration*", "deploy.json", "lost+found")
    shutil.copytree(bundle, target, ignore=ignored)
    return target


def _manifest(place: Path, bundle: Path) -> None:
    _bundle(place / "classifier", bundle)


def _reference(place: Path, bundle: Path) -> None:
    _bundle(place / "classifier", bundle)


def _calibration(place: Path, bundle: Path) -> None:
    target = _bundle(place / "classifier", bundle)
    _calibrate(open_bundle(target))


def _calibrate(bundle: Bundle) -> None:
    model = onnx.load(bundle.model_path, load_external_data=False)
    names = ["image", *(output for node in model.graph.node for output in node.output)]
    values = np.random.default_rng(0).normal(0, 1, (200,)).astype(np.float32)
    histograms = {}
    for name in names:
        histograms[name] = Histogram(256)
        histograms[name].add(values)
    data = CalibrationData(source="made up", images=2, sha256="0" * 64)
    recorded = Recorded(bundle.digest(), data, "ONNX Runtime 1.32.0", histograms)
    record = recorded.calibration(Settings(bins=256, levels=128))
    (bundle.path / "calibration.json").write_text(record.model_dump_json(indent=2))
    few = {name: histograms[name] for name in names[:4]}
    save_histograms(bundle.path / "calibration.npz", Recorded(*_head(recorded), few))


def _head(recorded: Recorded) -> tuple[str, CalibrationData, str]:
    return recorded.model_sha256, recorded.data, recorded.runtime


def _engine(place: Path, bundle: Path) -> None:
    target = _bundle(place / "engine", bundle)
    engine = target / "engines" / "tensorrt-rtx"
    engine.mkdir(parents=True)
    plan = b"ftrt" + bytes(range(250)) * 4 + library()[:200]
    (engine / "model.plan").write_bytes(plan)
    source = open_bundle(target)
    shape: list[int | str] = ["batch", 3, 64, 64]
    manifest = EngineManifest(
        model=source.manifest.name,
        runtime=Runtime(flavor="tensorrt-rtx", version="1.7.1.116"),
        architectures=["86", "89"],
        host_code=["an embedded plugin"],
        precision="float32",
        inputs=[TensorSpec(name="image", dtype="float", shape=shape)],
        outputs=[TensorSpec(name="logits", dtype="float", shape=["batch", 10])],
        profiles=[parse_profile("image=1x3x64x64:2x3x64x64:4x3x64x64")],
        options=BuilderOptions(optimization_level=2),
        onnx=onnx_source(source.model_path, ()),
        plugin=PluginInfo(
            operators=["NeighborhoodAttention2D"], namespace="dinat", version="1",
            library="libdinat_tensorrt.so", library_version="0.1.0", sha256="0" * 64,
            embedded=True,
        ),
        layers=LayerInfo(
            types={"plugin_v3": 1}, plugin=[PluginLayer(node="a", dtype="float16")], body=[]
        ),
        plan=PlanInfo(file="model.plan", sha256=sha256(engine / "model.plan"), bytes=len(plan)),
    )  # fmt: skip
    (engine / "engine.json").write_text(manifest.to_json())


def _deploy_record(place: Path, bundle: Path) -> None:
    target = _bundle(place / "record", bundle)
    files = {name: sha256(target / name) for name in ("model.onnx", "model.json")}
    step = StepRecord(key="0" * 64, seconds=1.5, result="exported", files=files)
    record = DeployRecord(steps={"export": step, "build:tensorrt-rtx": step, "precision:x": step})
    (target / "deploy.json").write_text(record.model_dump_json(indent=2))


def _bench_report(place: Path, bundle: Path) -> None:
    samples = np.random.default_rng(0).normal(3.0, 0.1, 20).tolist()
    found = summarize(samples, [90.0, 99.0])
    results = [
        ArtefactResult(
            name=name, runtime="ONNX Runtime", device="CPU", kind="cpu", precision="float32",
            batch=1, shapes={"image": [1, 3, 64, 64]}, latency=found, compute=found,
            host_to_device=None, device_to_host=None, enqueue=None, samples=samples,
            blocks=[10, 10], throughput=300.0, seconds=0.06, memory={"weights": 1000},
            notes=["a note"],
        )
        for name in ("ours", "theirs")
    ]  # fmt: skip
    report = BenchReport(
        created_by="dinat-deploy", started="2026-11-24T10:00:00+00:00", command="bench",
        environment={"processor": "a processor"}, options=BenchOptions(), results=results,
    )  # fmt: skip
    (place / "two").mkdir()
    (place / "two" / "bench.json").write_text(to_json(report))


def _config(place: Path, bundle: Path) -> None:
    for name, config in CONFIGS.items():
        (place / name).mkdir()
        (place / name / "config.json").write_text(config.model_dump_json())
    (place / "card").mkdir()
    card = {"format": "dinat-deploy", "config": TINY.model_dump(mode="json"), "labels": ["a"] * 10,
            "preprocessing": {"resize": [64, 64], "crop": [64, 64]}}  # fmt: skip
    (place / "card" / "config.json").write_text(json.dumps(card))


def _weights(config: ModelConfig) -> dict[str, torch.Tensor]:
    return {name: t.contiguous() for name, t in seeded_model(config, 0).state_dict().items()}


def _checkpoint(place: Path, bundle: Path) -> None:
    for name in WEIGHTS:
        config, weights = CONFIGS[name], _weights(CONFIGS[name])
        forms: dict[str, Callable[[Path], object]] = {
            "weights.safetensors": lambda path, own=weights: safetensors.torch.save_file(own, path),
            "weights.pth": lambda path, own=weights: torch.save(
                {"state_dict": own, "meta": {"CLASSES": ("a", "b")}, "epoch": 3}, path
            ),
            "legacy.pth": lambda path, own=weights: path.write_bytes(
                old_format({"model": own, "epoch": 1})
            ),
            "weights.pkl": lambda path, own=weights: path.write_bytes(
                pickle.dumps({"model": {key: t.numpy() for key, t in own.items()},
                              "__author__": "x"}, protocol=2)
            ),
        }  # fmt: skip
        for file, write in forms.items():
            folder = place / f"{name}_{file.replace('.', '_')}"
            folder.mkdir()
            (folder / "config.json").write_text(config.model_dump_json())
            encoder = config.replace(decoder=None)  # the file says what the head is
            (folder / "encoder.json").write_text(encoder.model_dump_json())
            write(folder / file)


def _model_directory(place: Path, bundle: Path) -> None:
    weights = _weights(TINY)
    model = seeded_model(TINY, 0)
    save_model(place / "card" / "model", model, TINY, labels=["a"] * 10)
    sharded = place / "shards" / "model"
    sharded.mkdir(parents=True)
    shutil.copy(place / "card" / "model" / "config.json", sharded)
    names = sorted(weights)
    table = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        safetensors.torch.save_file({name: weights[name] for name in part}, sharded / file)
        table |= dict.fromkeys(part, file)
    index = json.dumps({"metadata": {"total_size": 1}, "weight_map": table})
    (sharded / "model.safetensors.index.json").write_text(index)


def _hugging_face(place: Path, bundle: Path) -> None:
    for name, changes in HUGGING_FACE.items():
        config, folder = CONFIGS[name], place / name / "model"
        folder.mkdir(parents=True)
        data: dict[str, Any] = {
            "model_type": "dinat", "embed_dim": config.embed_dim, "depths": list(config.depths),
            "num_heads": list(config.num_heads), "kernel_size": config.kernel_size,
            "dilations": [list(level) for level in config.dilations],
            "mlp_ratio": config.mlp_ratio, "layer_scale_init_value": config.layer_scale,
            "id2label": {str(number): f"class {number}" for number in range(10)}, **changes,
        }  # fmt: skip
        (folder / "config.json").write_text(json.dumps(data))
        (folder / "preprocessor_config.json").write_text(json.dumps(_PROCESSOR))
        named = _transformers_names(_weights(config))
        safetensors.torch.save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
    segmenter = place / "upernet" / "model"
    segmenter.mkdir(parents=True)
    backbone = json.loads((place / "backbone" / "model" / "config.json").read_text())
    data = {
        "model_type": "upernet", "architectures": ["UperNetForSemanticSegmentation"],
        "backbone_config": {**backbone, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8],
                            "dilations": [[1]] * 4, "out_features": None, "id2label": None,
                            "out_indices": [1, 2, 3, 4]},
        "hidden_size": 8, "pool_scales": [1, 2, 3, 6], "auxiliary_channels": 6,
        "id2label": {str(number): f"class {number}" for number in range(5)},
    }  # fmt: skip
    (segmenter / "config.json").write_text(json.dumps(data))
    processor = {**_PROCESSOR, "do_center_crop": False, "size": {"height": 64, "width": 64}}
    (segmenter / "preprocessor_config.json").write_text(json.dumps(processor))
    named = _transformers_names(_weights(CONFIGS["upernet"]))
    safetensors.torch.save_file(named, segmenter / "model.safetensors")

    queries = place / "mask2former" / "model"
    queries.mkdir(parents=True)
    data["model_type"] = "mask2former"
    data["architectures"] = ["Mask2FormerForUniversalSegmentation"]
    decoder = CONFIGS["mask2former"].decoder
    assert isinstance(decoder, Mask2Former)
    stages = ["stage1", "stage2", "stage3", "stage4"]
    data["backbone_config"] |= {"out_features": stages, "out_indices": None}
    data |= {
        "feature_size": 32, "mask_feature_size": 16, "hidden_dim": 32, "num_attention_heads": 4,
        "encoder_layers": 1, "decoder_layers": 3, "encoder_feedforward_dim": 24,
        "dim_feedforward": 40, "num_queries": 6,
    }  # fmt: skip
    (queries / "config.json").write_text(json.dumps(data))
    named = _transformers_names(_weights(CONFIGS["mask2former"]))
    safetensors.torch.save_file(named, queries / "model.safetensors")


def _transformers_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our names as transformers has them, for a classifier, a backbone or UPerNet."""
    segmenter = any(name.startswith("backbone.") for name in weights)
    prefix = "backbone." if segmenter else "dinat." if "head.weight" in weights else ""
    if "class_predictor.weight" in weights:
        prefix = "model.pixel_level_module.encoder."
    found: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        inner = name.removeprefix("backbone.")
        if name.startswith(tuple(_QUERY_NAMES)):
            part = next(part for part in _QUERY_NAMES if name.startswith(part))
            found[_QUERY_NAMES[part] + name.removeprefix(part)] = tensor
            continue
        if name.startswith(("decode_head.", "auxiliary_head.")):
            found[name.replace(".bn.", ".batch_norm.").replace("conv_seg", "classifier")] = tensor
            continue
        if inner.startswith("head."):
            found[inner.replace("head.", "classifier.")] = tensor
            continue
        parts = inner.split(".")
        if parts[0] == "levels" and parts[2] == "blocks":
            layer = f"{prefix}encoder.levels.{parts[1]}.layers.{parts[3]}."
            rest = ".".join(parts[4:])
            if rest == "gamma1":
                other = weights[name.replace("gamma1", "gamma2")]
                found[layer + "layer_scale_parameters"] = torch.stack([tensor, other])
            elif rest.startswith("attn.qkv."):
                for role, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    found[f"{layer}attention.self.{role}.{parts[-1]}"] = piece.contiguous()
            elif rest != "gamma2":
                for ours, theirs in _LAYER_NAMES.items():
                    rest = rest.replace(ours, theirs)
                found[layer + rest] = tensor
        else:
            for ours, theirs in _OTHER_NAMES.items():
                if inner.startswith(ours):
                    inner = inner.replace(ours, theirs, 1)
                    break
            found[prefix + inner] = tensor
    return {name: tensor.clone() for name, tensor in found.items()}


_QUERY_NAMES = {
    "pixel_decoder.": "model.pixel_level_module.decoder.",
    "transformer_module.": "model.transformer_module.",
    "class_predictor.": "class_predictor.",
}
_LAYER_NAMES = {
    "norm1.": "layernorm_before.", "norm2.": "layernorm_after.", "attn.rpb": "attention.self.rpb",
    "attn.proj.": "attention.output.dense.", "mlp.fc1.": "intermediate.dense.",
    "mlp.fc2.": "output.dense.",
}  # fmt: skip
_OTHER_NAMES = {
    "patch_embed.proj.": "embeddings.patch_embeddings.projection.",
    "patch_embed.norm.": "embeddings.norm.", "levels.": "encoder.levels.", "norm.": "layernorm.",
    **{f"norm{n}.": f"hidden_states_norms.stage{n + 1}." for n in range(4)},
}  # fmt: skip


def _onnx(place: Path, bundle: Path) -> None:
    _bundle(place / "bundle", bundle)
    target = _bundle(place / "external", bundle)
    model = onnx.load(target / "model.onnx")
    onnx.save_model(model, target / "model.onnx", save_as_external_data=True,
                    location="model.onnx.data", size_threshold=64)  # fmt: skip
    reseal(target)


def _picture(place: Path, bundle: Path) -> None:
    for name, content in pictures().items():
        folder = place / name.replace(".", "_")
        _bundle(folder, bundle)
        (folder / "data" / "images").mkdir(parents=True)
        (folder / "data" / "masks").mkdir()
        (folder / "data" / "images" / name).write_bytes(content)
        mask = Image.new("L", open_image(folder / "data" / "images" / name).size, 3)
        mask.save(folder / "data" / "masks" / f"{Path(name).stem}.png")
        (folder / name).write_bytes(content)


def _dataset(place: Path, bundle: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (4, 20, 24, 3)).astype(np.uint8)
    forms: dict[str, dict[str, Any]] = {
        "pixels": {"images": images, "labels": np.arange(4)},
        "normalized": {"images": np.zeros((2, 3, 64, 64), np.float32)},
        "masks": {"images": images, "labels": np.zeros((4, 20, 24), np.int64)},
    }
    for name, arrays in forms.items():
        (place / name).mkdir()
        np.savez(place / name / "data.npz", **arrays)
    pictures_in = place / "list"
    pictures_in.mkdir()
    for number in range(3):
        Image.fromarray(images[number]).save(pictures_in / f"{number}.png")
    lines = "# pictures\n0.png\t3\n1.png 4\n2.png\t0\n"
    (pictures_in / "data.txt").write_text(lines)
    folder = place / "folders"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        Image.fromarray(images[0]).save(folder / name / "0.png")
    (folder / "classes.txt").write_text("dog\ncat\n")


def _text(place: Path, bundle: Path) -> None:
    for kind, (name, content) in {
        "labels": ("labels.txt", "\n".join(f"class {number}" for number in range(10))),
        "patterns": ("patterns.txt", "# left out\nlevels.0.*  # all\nlevels.1.blocks.0.attn.qkv\n"),
        "trusted": ("trusted_plans.jsonl", f'{{"sha256": "{"0" * 64}", "how": "built"}}\n' * 3),
    }.items():
        (place / kind).mkdir()
        (place / kind / name).write_text(content)
    (place / "tensorrt_cache").mkdir()
    ranges = {"image": 2.5, "a:0": 1.0, "b c": 3.0}
    write_cache(place / "tensorrt_cache" / "calibration.cache", ranges, version="10.3.0")
    (place / "timing_cache").mkdir()
    (place / "timing_cache" / "timing.cache").write_bytes(bytes(range(256)) * 4)


def _library(place: Path, bundle: Path) -> None:
    for name, content in {"x86": library(), "arm": library("9.9", 183)}.items():
        (place / name).mkdir()
        (place / name / "libdinat_tensorrt.so").write_bytes(content)


_MAKERS: dict[str, Callable[[Path, Path], None]] = {
    "manifest": _manifest,
    "reference": _reference,
    "calibration": _calibration,
    "engine": _engine,
    "deploy": _deploy_record,
    "bench": _bench_report,
    "config": _config,
    "checkpoint": _checkpoint,
    "directory": _model_directory,
    "hf": _hugging_face,
    "onnx": _onnx,
    "picture": _picture,
    "dataset": _dataset,
    "text": _text,
    "library": _library,
}
