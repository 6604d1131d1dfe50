"""What reads each kind of input: command lines, and functions of the package below them.

A reader gets the folder with the input and a folder to write to. It may raise a DinatDeployError,
or exit as the command line does.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from dinat_deploy.pipeline.requests import ModelRequest

if TYPE_CHECKING:
    from dinat_deploy.data.dataset import Dataset

Mutation = Callable[[Random, bytes], tuple[bytes, str]]
Read = Callable[[Path, Path], object]

# How a file is changed, by its ending: a module beside this one, and a function in it.
MUTATIONS: dict[str, tuple[str, str]] = {
    ".json": ("values", "mutate_json"),
    ".jsonl": ("byte_changes", "mutate_text"),
    ".safetensors": ("tensor_changes", "mutate_safetensors"),
    ".pth": ("tensor_changes", "mutate_pth"),
    ".pkl": ("tensor_changes", "mutate_pkl"),
    ".npz": ("archive_changes", "mutate_npz"),
    ".onnx": ("onnx_changes", "mutate_onnx"),
    ".so": ("libraries", "mutate_library"),
    ".txt": ("byte_changes", "mutate_text"),
    ".cache": ("byte_changes", "mutate_text"),
    **dict.fromkeys(
        (".png", ".jpg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"),
        ("picture_changes", "mutate_picture"),
    ),
}
_ANY = ("byte_changes", "mutate_bytes")


@dataclass(frozen=True)
class Reader:
    """One way to read a kind of input.

    Attributes:
        weight: how often it is taken, in proportion.
        writes: whether it writes into the input's bundle, as commands on bundles do.
        starts: whether it may start a program.
    """

    name: str
    read: Read
    weight: int = 1
    writes: bool = False
    starts: bool = False


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        weight: share of the cases, in proportion.
        files: patterns of the files in a seed that are changed.
        reseal: whether digests of changed files are written into the manifest (mostly).
    """

    weight: int
    files: tuple[str, ...]
    readers: tuple[Reader, ...]
    reseal: bool = field(default=False)


def command(*arguments: object) -> None:
    """A command line, through the entry point of the installed program."""
    from dinat_deploy.cli import cli
    from dinat_deploy.cli.console import run

    sys.argv = ["dinat-deploy", *map(str, arguments)]
    run(cli)


def _picture(out: Path) -> Path:
    """A picture that is right."""
    from PIL import Image

    path = out / "right.png"
    Image.new("RGB", (40, 30), (200, 40, 90)).save(path)
    return path


def _on_bundle(*arguments: object, writes: bool = False, weight: int = 1) -> Reader:
    name = str(arguments[0])

    def read(place: Path, out: Path) -> None:
        command(name, place / "bundle", *arguments[1:])

    return Reader(" ".join(map(str, arguments)), read, weight, writes=writes)


def _infer(target: str, *more: str, bundle: bool = False) -> Read:
    def read(place: Path, out: Path) -> None:
        owner = ["--bundle", place / "bundle"] if bundle else []
        command("infer", "--model", place / target, *owner, *more, _picture(out))

    return read


def _draw(place: Path, out: Path) -> None:
    command("infer", "--bundle", place / "bundle", _picture(out), "--output", out / "drawn.png")


def _plan_build(place: Path, out: Path) -> None:
    from dinat_deploy.pipeline.build_plan import plan_build

    plan_build(place / "bundle", out / "engine", backend="tensorrt-rtx", plugin=False).to_dict()


def _calibrate(place: Path, out: Path) -> None:
    command("calibrate", place / "bundle", "--data", _folder(out), "--no-verify")


def _folder(out: Path) -> Path:
    _picture(out).rename(_made(out / "data") / "0.png")
    return out / "data"


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _ranges(place: Path, out: Path) -> None:
    from dinat_deploy.bundle import open_bundle
    from dinat_deploy.calibration.record import ESTIMATORS
    from dinat_deploy.calibration.tensorrt_cache import write_cache
    from dinat_deploy.pipeline.quantizing import ranges_of

    bundle = open_bundle(place / "bundle")
    for estimator in ESTIMATORS:
        write_cache(out / "cache", ranges_of(bundle, estimator), version="10.3.0")  # type: ignore[arg-type]


def _histograms(place: Path, out: Path) -> None:
    from dinat_deploy.calibration.record import Settings
    from dinat_deploy.calibration.state import load_histograms, save_histograms

    found = load_histograms(place / "bundle" / "calibration.npz")
    bins = {histogram.counts.size for histogram in found.histograms.values()} or {256}
    found.calibration(Settings(bins=min(bins), levels=128))
    save_histograms(out / "again.npz", found)


def _reference(place: Path, out: Path) -> None:
    from dinat_deploy.bundle import open_bundle

    open_bundle(place / "bundle").reference()


_ENGINE = "bundle/engines/tensorrt-rtx"


def _checks(place: Path, out: Path) -> None:
    """What is checked before an engine is loaded, as on a machine that could run it."""
    from dinat_deploy.engine.builder import Gpu
    from dinat_deploy.engine.checks import Here, check_engine, host_code
    from dinat_deploy.pipeline.locating import locate

    found = locate(str(place / _ENGINE), None)
    gpu = Gpu(name="NVIDIA RTX A4000", capability="86", driver="13.0")
    here = Here("tensorrt-rtx", "1.7.1.116", gpu)
    if found.engine is not None:
        with found.engine.open_plan() as plan:
            host_code(found.engine, plan)
            check_engine(found.engine, here, plan=plan, shapes={"image": (1, 3, 64, 64)})


def _record(place: Path, out: Path) -> None:
    command("deploy", place / "bundle", "--backend", "tensorrt-rtx", "--no-run", "--dry-run")


def _steps(place: Path, out: Path) -> None:
    from dinat_deploy.pipeline.deploy_record import read_record, write_record

    record = read_record(place / "bundle")
    for step in record.steps.values():
        step.intact(place / "bundle")
    write_record(out, record)


def _report(place: Path, out: Path) -> None:
    command("bench", "--from", place / "bench.json", "--markdown", out / "a.md",
            "--html", out / "a.html", "--json", out / "a.json")  # fmt: skip


def _measured(place: Path, out: Path) -> None:
    command("estimate", "--model", "dinat_mini", "--device", "agx-orin", "--measured",
            place / "bench.json")  # fmt: skip


def _resolve(request: ModelRequest) -> None:
    """What ``export`` reads, without the export."""
    from dinat_deploy.pipeline.sources import resolve

    resolve(request)


def _config(place: Path, out: Path) -> None:
    _resolve(ModelRequest(config=place / "config.json"))


def _estimate(place: Path, out: Path) -> None:
    command("estimate", "--config", place / "config.json", "--device", "agx-orin", "--json")


def _field(place: Path, out: Path) -> None:
    command("receptive-field", "--config", place / "config.json", "--json")


def _field_picture(place: Path, out: Path) -> None:
    command("receptive-field", "--config", place / "config.json", "--picture", out / "a.png")


def _checkpoint_in(place: Path) -> Path:
    found = [
        path for path in sorted(place.iterdir()) if path.name.startswith(("weights", "legacy"))
    ]
    return found[0] if found else place / "weights.pth"


def _checkpoint(place: Path, out: Path) -> None:
    _resolve(ModelRequest(config=place / "config.json", checkpoint=_checkpoint_in(place)))


def _checkpoint_for(task: str) -> Read:
    def read(place: Path, out: Path) -> None:
        encoder = place / "encoder.json"
        _resolve(ModelRequest(config=encoder, checkpoint=_checkpoint_in(place), task=task))  # type: ignore[arg-type]

    return read


def _unaveraged(place: Path, out: Path) -> None:
    config = place / "config.json"
    _resolve(ModelRequest(config=config, checkpoint=_checkpoint_in(place), ema=False,
                          resize_rpb=True, kernel_size=5))  # fmt: skip


def _directory(place: Path, out: Path) -> None:
    _resolve(ModelRequest(checkpoint=place / "model"))


def _hugging_face(task: str = "classification") -> Read:
    def read(place: Path, out: Path) -> None:
        _resolve(ModelRequest(hf=place / "model", task=task))  # type: ignore[arg-type]

    return read


def _structure(place: Path, out: Path) -> None:
    from dinat_deploy.engine.onnx_file import read_onnx

    found = read_onnx(place / "bundle" / "model.onnx")
    _ = found.precision, found.without_body, [str(tensor) for tensor in found.inputs]


def _strip(place: Path, out: Path) -> None:
    from dinat_deploy.engine.onnx_file import read_onnx
    from dinat_deploy.engine.strip_body import strip_body

    model = place / "bundle" / "model.onnx"
    strip_body(model, out, read_onnx(model).external)


def _work(place: Path, out: Path) -> None:
    from dinat_deploy.measurement.onnx_work import macs_by_node

    macs_by_node(place / "bundle" / "model.onnx", {"image": (1, 3, 64, 64)})


def _look(place: Path, out: Path) -> None:
    pictures = [path for path in sorted(place.iterdir()) if not path.name.startswith("outside")]
    pictures = [path for path in pictures if path.name not in ("bundle", "data")]
    command("infer", "--bundle", place / "bundle", *(pictures[:1] or [place / "missing.png"]))


def _data(place: Path) -> Path:
    for name in ("data", "data.npz", "data.txt"):
        if (place / name).exists() or (place / name).is_symlink():
            return place / name
    return place


def _dataset(place: Path, out: Path) -> None:
    """All samples of a dataset, as ``calibrate`` and ``evaluate`` read them."""
    from dinat_deploy.data.opening import open_dataset
    from dinat_deploy.models.preprocessing import Preprocessing

    labels = [f"class {number}" for number in range(10)]
    opened = open_dataset(_data(place), Preprocessing(resize=(64, 64), crop=(64, 64)),
                          labels=None if (place / "cat").exists() else labels, limit=8)  # fmt: skip
    _samples(opened)


def _samples(dataset: Dataset) -> None:
    from dinat_deploy.errors import DataError

    refused = 0
    for index in range(len(dataset)):
        dataset.name_of(index)
        try:
            dataset.load(index)
        except DataError:
            refused += 1
    if refused:
        raise DataError(f"{refused} samples were refused.")


def _evaluate(place: Path, out: Path) -> None:
    bundle = place / "bundle"
    command("evaluate", bundle, "--data", _data(place), "--workers", 1, "--on-bad", "skip")


def _labels(place: Path, out: Path) -> None:
    import json

    from tests.fuzzing.seeds import TINY

    (out / "config.json").write_text(json.dumps(TINY.model_dump(mode="json")))
    _resolve(ModelRequest(config=out / "config.json", labels=place / "labels.txt"))


def _text(place: Path, out: Path) -> None:
    """Whichever text this is."""
    if (place / "labels.txt").is_file():
        return _labels(place, out)
    if (place / "patterns.txt").exists():
        from dinat_deploy.pipeline.quantizing import read_all_patterns

        read_all_patterns([f"@{place / 'patterns.txt'}"])
    elif (place / "calibration.cache").exists():
        from dinat_deploy.calibration.tensorrt_cache import read_cache, write_cache

        found = read_cache(place / "calibration.cache")
        write_cache(out / "again.cache", found.ranges, version="10.3.0")
    elif (place / "timing.cache").exists():
        _timing(place, out)
    elif (place / "trusted_plans.jsonl").exists():
        _trusted(place)
    return None


def _timing(place: Path, out: Path) -> None:
    from dinat_deploy.engine import timing_cache

    def merge(first: bytes, second: bytes) -> bytes:
        if not first.startswith(bytes(range(16))):
            raise ValueError("it is no cache")
        return first + second

    (out / "timing.cache").write_bytes(timing_cache.load(place / "timing.cache"))
    timing_cache.store(out / "timing.cache", b"new", merge)


def _trusted(place: Path) -> None:
    from dinat_deploy.engine import trust

    os.environ["XDG_DATA_HOME"], before = str(place / "home"), os.environ["XDG_DATA_HOME"]
    try:
        trust.record_path().parent.mkdir(parents=True)
        (place / "trusted_plans.jsonl").rename(trust.record_path())
        trust.is_known("0" * 64)
    finally:
        os.environ["XDG_DATA_HOME"] = before


def _plugin_info(place: Path, out: Path) -> None:
    command("plugin", "info", place / "libdinat_tensorrt.so", "--json")


_FULL_CHECKS = (
    Reader("infer", _infer("bundle"), 6),
    Reader("infer in PyTorch", lambda p, o: command("infer", "--model", f"torch:{p / 'bundle'}", _picture(o)), 2),
    _on_bundle("verify", "--random", 0, weight=2),
    _on_bundle("inspect", weight=1),
)  # fmt: skip
KINDS: dict[str, Kind] = {
    "manifest": Kind(14, ("bundle/model.json",), (
        *_FULL_CHECKS,
        Reader("infer, drawn", _draw, 2),
        Reader("build, planned", _plan_build, 2, starts=True),
        Reader("deploy, planned", _record, 2, starts=True),
        Reader("calibrate", _calibrate, 1, writes=True),
        _on_bundle("convert", "--precision", "fp16", "--no-verify", "--random", 1, writes=True),
    )),
    "reference": Kind(4, ("bundle/reference.npz",), (
        Reader("read", _reference, 4), _on_bundle("verify", "--random", 0),
    )),
    "calibration": Kind(6, ("bundle/calibration.json", "bundle/calibration.npz"), (
        Reader("ranges", _ranges, 8), Reader("histograms", _histograms, 8),
        _on_bundle("convert", "--precision", "int8", "--no-verify", writes=True),
    )),
    "engine": Kind(7, (f"{_ENGINE}/engine.json", f"{_ENGINE}/model.plan"), (
        Reader("checks", _checks, 4), Reader("infer", _infer(_ENGINE), 2),
        Reader("infer trusted", _infer(_ENGINE, "--trust"), 2),
        Reader("infer plan", _infer(f"{_ENGINE}/model.plan", "--trust"), 1),
        Reader("verify", lambda p, o: command("verify", p / _ENGINE, "--trust")),
        Reader("bench", lambda p, o: command("bench", p / _ENGINE, "--duration", 0)),
    )),
    "deploy": Kind(3, ("bundle/deploy.json",), (
        Reader("deploy, planned", _record, starts=True), Reader("steps", _steps, 2),
    )),
    "bench": Kind(4, ("bench.json",), (
        Reader("bench --from", _report), Reader("estimate --measured", _measured),
    )),
    "config": Kind(10, ("config.json",), (
        Reader("export", _config, 3), Reader("estimate", _estimate, 2),
        Reader("receptive-field", _field, 2), Reader("receptive-field, drawn", _field_picture),
    )),
    "checkpoint": Kind(16, ("weights.*", "legacy.*"), (
        Reader("export", _checkpoint, 4), Reader("export, not averaged", _unaveraged),
        *(Reader(f"export, {task}", _checkpoint_for(task))
          for task in ("semantic", "instance", "panoptic", "backbone")),
    )),
    "directory": Kind(4, ("model/*",), (Reader("export", _directory),)),
    "hf": Kind(7, ("model/*",), (
        Reader("export", _hugging_face(), 3), Reader("export, backbone", _hugging_face("backbone")),
        *(Reader(f"export, {task}", _hugging_face(task))
          for task in ("semantic", "panoptic", "instance")),
    )),
    "onnx": Kind(14, ("bundle/model.onnx", "bundle/model.onnx.data"), (
        *_FULL_CHECKS, Reader("structure", _structure, 2), Reader("body left out", _strip),
        Reader("work", _work, 2), Reader("build, planned", _plan_build, 1, starts=True),
        Reader("infer without a bundle's word", _infer("bundle/model.onnx", bundle=True), 2),
        _on_bundle("convert", "--precision", "fp16", "--no-verify", "--random", 1, writes=True),
    ), reseal=True),
    "picture": Kind(8, ("*.*", "data/images/*", "data/masks/*"), (
        Reader("infer", _look, 3), Reader("dataset", _dataset, 2),
    )),
    "dataset": Kind(6, ("data.npz", "data.txt", "classes.txt", "*.png", "cat/*"), (
        Reader("dataset", _dataset),
    )),
    "text": Kind(4, ("*.txt", "*.jsonl", "*.cache"), (Reader("text", _text),)),
    "library": Kind(3, ("*.so",), (Reader("plugin info", _plugin_info),)),
}  # fmt: skip


def files_of(kind: Kind, place: Path) -> Iterator[Path]:
    """The files of a seed that are changed, in order."""
    for pattern in kind.files:
        yield from (path for path in sorted(place.glob(pattern)) if path.is_file())


def mutation_of(path: Path) -> Mutation:
    """How a file is changed, by its ending."""
    module, name = MUTATIONS.get(path.suffix, _ANY)
    found: Mutation = getattr(import_module(f"tests.fuzzing.{module}"), name)
    return found
