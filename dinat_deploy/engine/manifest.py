"""``engine.json``: what an engine was made of.

An engine is a directory with the plan, ``model.plan``, and this manifest. The plan itself is what
TensorRT wrote, unaltered, so that trtexec and DeepStream read it too.
"""

from __future__ import annotations

import json
import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from pydantic import Field, ValidationError

from dinat_deploy import __version__
from dinat_deploy.bundle import TensorSpec, is_bundle
from dinat_deploy.engine.builder import (
    PLAN,
    BuilderOptions,
    EngineLayer,
    Gpu,
    PluginLayer,
    Record,
)
from dinat_deploy.engine.profiles import Profile
from dinat_deploy.errors import EngineError
from dinat_deploy.files import sha256, sha256_of
from dinat_deploy.models.config import describe
from dinat_deploy.session.tensorrt_api import Flavor

MANIFEST = "engine.json"
FORMAT_VERSION = 1


class Runtime(Record):
    """The TensorRT that built the plan, and that must run it.

    Attributes:
        platform: system and processor, like ``Linux x86_64``.
    """

    flavor: Flavor
    version: str
    platform: str | None = None


class OnnxSource(Record):
    """The ONNX file that the plan was built from.

    Attributes:
        file: its name.
        sha256: of the file.
        external_data: digests of the files beside it that hold weights.
        body_stripped: whether the builder was given a copy without the operator's body, which its
            parser would have taken in place of the plugin.
    """

    file: str
    sha256: str
    external_data: dict[str, str] = Field(default_factory=dict)
    body_stripped: bool = False


class PluginInfo(Record):
    """The plugin that the plan calls.

    Attributes:
        operators: names of the plugins that were used.
        library: name of the file; ``library_version`` what it says of itself.
        embedded: whether the plan holds the library, so that none must be loaded to run it.
    """

    operators: list[str]
    namespace: str
    version: str
    library: str
    library_version: str | None
    sha256: str
    embedded: bool


class PlanInfo(Record):
    """The plan file."""

    file: str
    sha256: str
    bytes: int


class LayerInfo(Record):
    """Layers of the parsed network, before the builder fused them.

    Attributes:
        types: how many there are of each type.
        plugin: the ONNX nodes that became plugin layers.
        body: the attention nodes that were replaced by their body in standard operators.
        engine: layers of the finished engine, after fusion; None if it could not be loaded where
            it was built.
        dla_unsupported: layers that the DLA does not support, and that the GPU runs instead.
    """

    types: dict[str, int]
    plugin: list[PluginLayer]
    body: list[str]
    engine: list[EngineLayer] | None = None
    dla_unsupported: list[str] = Field(default_factory=list)


class Taps(Record):
    """Layers of the PyTorch model whose outputs the engine lets out, for ``verify --layers``.

    Attributes:
        kind: whether they are further outputs, or tensors that a debug listener sees.
        tensors: path of the PyTorch module -> tensor of the engine.
    """

    kind: Literal["outputs", "debug"]
    tensors: dict[str, str]


class EngineManifest(Record):
    """Content of ``engine.json``.

    Attributes:
        precision: element types of the ONNX file's weights, by share; ``int8`` first if it is
            quantized. The plan computes in the types that the file says.
        architectures: compute capabilities that the plan runs on.
        gpu: the GPU that it was built on; None if ahead of time.
        host_code: why loading the plan runs code out of it (an embedded plugin, a lean runtime);
            empty if it does not.
        model: name of the bundle's model, if it came from a bundle.
    """

    format_version: Literal[1] = 1
    created_by: str = f"dinat-deploy {__version__}"
    model: str | None
    runtime: Runtime
    architectures: list[str]
    gpu: Gpu | None = None
    host_code: list[str] = Field(default_factory=list)
    precision: str
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    profiles: list[Profile]
    options: BuilderOptions
    onnx: OnnxSource
    plugin: PluginInfo | None
    layers: LayerInfo
    taps: Taps | None = None
    plan: PlanInfo

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Engine:
    """An engine on disk whose manifest has been read."""

    path: Path
    manifest: EngineManifest

    @property
    def plan_path(self) -> Path:
        return self.path / PLAN

    @property
    def model_path(self) -> Path | None:
        """The ONNX file that it was built from, if it is where ``build`` puts engines by default:
        in ``engines`` of a bundle, or in ``STEM.engines`` beside ``STEM.onnx``."""
        folder, name = self.path.absolute().parent, self.manifest.onnx.file
        in_bundle = folder.name == "engines" and is_bundle(folder.parent)
        if not in_bundle and folder.name != f"{Path(name).stem}.engines":
            return None
        model = folder.parent / Path(name).name
        return model if model.is_file() else None

    def rebuild(self, *options: str) -> str:
        """The sentence that says how to build it again."""
        model = self.model_path
        source = shlex.quote(str(model or self.manifest.onnx.file))
        command = ["dinat-deploy build", source, "--backend", self.manifest.runtime.flavor]
        if model is None:
            command += ["--output", shlex.quote(str(self.path))]
        return f"Build it again: `{' '.join([*command, *options])}`."

    def open_plan(self) -> BinaryIO:
        """The plan, to be checked and then loaded from the same open file: its place may be taken
        by another meanwhile.

        Raises:
            EngineError: it is missing, or has another size than the one that was built.
        """
        self.check_plan_size()
        return self.plan_path.open("rb")

    def check_plan(self, plan: BinaryIO | None = None) -> str:
        """Compare the plan with the manifest.

        Plans can hold host code (an embedded plugin), so this comes before deserialising.

        Args:
            plan: the plan, if it is open already.

        Returns:
            Its SHA-256.

        Raises:
            EngineError: it is missing, or not the one that was built.
        """
        self.check_plan_size()
        recorded = self.manifest.plan.sha256
        actual = sha256(self.plan_path) if plan is None else sha256_of(plan)
        if actual == recorded:
            return actual
        other = self._owner_of(actual)
        if other is not None:
            raise EngineError(
                f"{self.plan_path} is the plan of the engine {other.name}, not of {self.path.name}"
                f": {MANIFEST} was written for SHA-256 {recorded[:12]}..., and it has "
                f"{actual[:12]}....",
                f"Run {other}, or bring back the plan that belongs here. {self.rebuild()}",
            )
        raise EngineError(
            f"{self.plan_path} was changed after it was built: it has SHA-256 {actual[:12]}..., "
            f"and {MANIFEST} was written for {recorded[:12]}....",
            self.rebuild(),
        )

    def check_plan_size(self) -> None:
        """Raise :class:`EngineError` if the plan is missing or has another size."""
        if not self.plan_path.is_file():
            raise EngineError(f"{self.path} has no {PLAN}.", self.rebuild())
        size, recorded = self.plan_path.stat().st_size, self.manifest.plan.bytes
        if size < recorded:
            raise EngineError(
                f"{self.plan_path} is cut off: it has {size} bytes, and {MANIFEST} was written for "
                f"{recorded}.",
                f"Copy it again, whole. {self.rebuild()}",
            )
        if size > recorded:
            raise EngineError(
                f"{self.plan_path} has {size} bytes, and {MANIFEST} was written for {recorded}.",
                self.rebuild(),
            )

    def _owner_of(self, digest: str) -> Path | None:
        """The engine beside this one whose plan has this digest."""
        for manifest in sorted(self.path.absolute().parent.glob(f"*/{MANIFEST}")):
            with suppress(EngineError):
                if open_engine(manifest.parent).manifest.plan.sha256 == digest:
                    return manifest.parent
        return None

    def check_onnx(self, model: Path) -> None:
        """Raise :class:`EngineError` if the plan was built from another ONNX file than this one."""
        actual = onnx_source(model, tuple(self.manifest.onnx.external_data))
        recorded = self.manifest.onnx
        if actual.sha256 != recorded.sha256:
            raise EngineError(
                f"{self.path} was built from an ONNX file with SHA-256 {recorded.sha256[:12]}..., "
                f"and {model} has {actual.sha256[:12]}....",
                self.rebuild(),
            )
        for name, digest in recorded.external_data.items():
            if actual.external_data[name] != digest:
                raise EngineError(
                    f"{self.path} was built from an ONNX file with weights of SHA-256 "
                    f"{digest[:12]}..., and {model.parent / name} has "
                    f"{actual.external_data[name][:12]}....",
                    self.rebuild(),
                )


def onnx_source(model: Path, external: tuple[str, ...]) -> OnnxSource:
    """Digests of an ONNX file and of the files that hold its weights.

    Raises:
        EngineError: one of them is missing.
    """
    try:
        return OnnxSource(
            file=model.name,
            sha256=sha256(model),
            external_data={name: sha256(model.parent / name) for name in external},
        )
    except OSError as error:
        raise EngineError(f"{error.filename}: {error.strerror}.", "Export again.") from None


def is_engine(path: Path) -> bool:
    """Whether a directory was written by ``build``."""
    try:
        data = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and "format_version" in data and "runtime" in data


def open_engine(path: str | Path) -> Engine:
    """Read an engine's manifest.

    Raises:
        EngineError: it is no engine, of a newer format, or its manifest is invalid.
    """
    path = Path(path)
    manifest = path / MANIFEST
    if not path.exists():
        raise EngineError(f"There is no engine {path}.", "Make one with `dinat-deploy build`.")
    try:
        data: Any = json.loads(manifest.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise EngineError(
            f"{path} is not an engine: it has no {MANIFEST}.",
            "Pass a directory written by `dinat-deploy build`.",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise EngineError(
            f"{manifest} is not readable JSON: {error}.", "Build the engine again."
        ) from None
    version = data.get("format_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise EngineError(
            f"{manifest} has format {version}; this dinat-deploy reads up to {FORMAT_VERSION}.",
            "Upgrade dinat-deploy.",
        )
    try:
        return Engine(path, EngineManifest.model_validate(data))
    except ValidationError as error:
        raise EngineError(
            describe(error, f"{manifest} is not valid"), "Build the engine again."
        ) from None
