"""The Python interface of TensorRT, of its versions 10 and 11, and of TensorRT-RTX.

All of them have the same classes as far as they are used here; where versions differ, the
difference is bridged in this module, which both the builders and the session go through. ``trt`` is
always the module ``tensorrt`` or ``tensorrt_rtx``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module, metadata, util
from pathlib import Path
from typing import IO, Any, Literal

from dinat_deploy.errors import EngineError, MissingDependencyError

Flavor = Literal["tensorrt", "tensorrt-rtx"]

# What each flavour is called: Python module, distributions, how to install it, in sentences.
MODULES: dict[Flavor, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_DISTRIBUTIONS: dict[Flavor, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt_cu13", "tensorrt_cu12"),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_cu13", "tensorrt_rtx_cu12"),
}
_INSTALL: dict[Flavor, str] = {
    "tensorrt": "pip install tensorrt; on a Jetson it comes with JetPack",
    "tensorrt-rtx": "pip install 'dinat-deploy[rtx]'",
}
TITLES: dict[Flavor, str] = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX"}

# Levels of hardware compatibility: member of the enumeration, TensorRT that has it, what it means.
HARDWARE_LEVELS: dict[str, tuple[str, tuple[int, int], str]] = {
    "none": ("NONE", (10, 0), "this GPU"),
    "ampere+": ("AMPERE_PLUS", (10, 0), "GPUs from Ampere on"),
    "same-capability": ("SAME_COMPUTE_CAPABILITY", (10, 9), "GPUs of the same compute capability"),
}
# From here on networks are always strongly typed, and the flag that says so is deprecated.
_ALWAYS_STRONGLY_TYPED = (11, 0)

# Harmless: said of every node of a function body that is used twice, and of nodes with a dynamic
# size, which have no height and width.
_NOISE = re.compile(
    r"A node named .* already exists|Attribute (height|width) not found in plugin node"
)
# Accompanies every error on a machine without a driver, where ahead-of-time builders need none.
NO_DRIVER = re.compile(r".*catchCudaError.*CUDA driver version is insufficient.*")
# The parser notes in a layer's metadata which node it comes from: "[ONNX Layer: node]"; within a
# function "[ONNX Layer: inner | node (Type)]", and until 10.6 "[ONNX Layer: inner | Local Function:
# Type]" without the node. Of a fused layer there is one after the other.
_ORIGIN = re.compile(
    r"\[ONNX Layer: (?P<inner>[^\]|]*?)"
    r"(?: \| (?:Local Function: (?P<old_type>\w+)|(?P<outer>[^\]]*?) \((?P<type>\w+)\)))?\]"
)
_MOST_ERRORS = 20
_MOST_WARNINGS = 10


def installed_version(flavor: Flavor) -> str:
    """Version of a flavour that is installed; nothing is imported where a distribution says it.

    Raises:
        MissingDependencyError: it is not installed.
    """
    if util.find_spec(MODULES[flavor]) is None:
        raise MissingDependencyError(
            f"This needs the Python package of {TITLES[flavor]}, {MODULES[flavor]}, which is not "
            "installed.",
            _INSTALL[flavor],
        )
    for package in _DISTRIBUTIONS[flavor]:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    # Debian's package on a Jetson has no metadata that Python knows of.
    return str(import_tensorrt(flavor).__version__)


def import_tensorrt(flavor: Flavor) -> Any:
    """The module of a flavour.

    Raises:
        MissingDependencyError: it is not installed, or its libraries cannot be loaded.
    """
    try:
        return import_module(MODULES[flavor])
    except ImportError as error:
        missing = util.find_spec(MODULES[flavor]) is None
        reason = "which is not installed" if missing else f"which cannot be loaded: {error}"
        raise MissingDependencyError(
            f"This needs the Python package of {TITLES[flavor]}, {MODULES[flavor]}, {reason}.",
            _INSTALL[flavor],
        ) from None


def numbers(version: str) -> tuple[int, ...]:
    """``10.13.3.9.post1`` as (10, 13, 3, 9); empty if it does not begin with a number."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def network_flags(trt: Any) -> int:
    """The flags of ``Builder.create_network`` for a strongly typed network."""
    if trt.__name__ == MODULES["tensorrt"] and numbers(trt.__version__) >= _ALWAYS_STRONGLY_TYPED:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


@dataclass(frozen=True)
class Origin:
    """The ONNX node that a layer comes from.

    Attributes:
        node: its name; None if the layer belongs to the body of a function and this release of the
            parser does not say of which node.
        function: type of the node whose body the layer belongs to; None outside of bodies.
    """

    node: str | None
    function: str | None


def origins(metadata: str | None) -> list[Origin]:
    """The ONNX nodes that a layer's metadata names, without repetition.

    Args:
        metadata: ``ILayer.metadata``, or what the inspector says of a finished layer.
    """
    found: dict[Origin, None] = {}
    for match in _ORIGIN.finditer(metadata or ""):
        if match["old_type"]:
            found[Origin(None, match["old_type"])] = None
        else:
            found[Origin(match["outer"] or match["inner"], match["type"])] = None
    return list(found)


class Log:
    """Collects what TensorRT says; errors and warnings also go to stderr, for a crash report.

    Attributes:
        errors: messages of the severities error and internal error, in order.
        warnings: warnings without repetition, in order.
    """

    def __init__(self, verbose_log: Path | None) -> None:
        self.errors: list[str] = []
        self.warnings: dict[str, None] = {}
        self._file: IO[str] | None = None
        if verbose_log is not None:
            # Line by line: after a crash its end says what happened last.
            self._file = verbose_log.open("w", encoding="utf-8", buffering=1)

    def add(self, severity: str, text: str) -> None:
        if self._file is not None:
            self._file.write(f"[{severity}] {text}\n")
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.errors.append(text)
        elif severity == "WARNING" and not _NOISE.search(text):
            if len(self.warnings) < _MOST_WARNINGS:
                self.warnings[text] = None
        else:
            return
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def make_logger(trt: Any, log: Log) -> Any:
    """A logger for TensorRT that writes to ``log``."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.add(severity.name, message)

    return Logger()


def described_layers(text: str) -> list[Any]:
    """Layers out of the engine inspector's JSON, in the order in which they run: an object each, or
    its mere name if the engine was built without detailed verbosity.

    Raises:
        ValueError: it is not the inspector's JSON; says why, without a full stop.
    """
    try:
        # Metadata is separated by control characters, which not every version escapes.
        described = json.loads(text, strict=False)
    except ValueError as error:
        raise ValueError(f"it is no JSON: {error}") from None
    layers = described.get("Layers") if isinstance(described, dict) else None
    if not isinstance(layers, list):
        raise ValueError("it has no list of layers")
    return layers


def type_name(dtype: Any) -> str:
    """TensorRT's name of an element type as ONNX calls it."""
    name: str = dtype.name.lower()
    return {"half": "float16", "bf16": "bfloat16"}.get(name, name)


def load_plugin(
    registry: Any,
    library: Path,
    operators: Sequence[str],
    log: Log,
    *,
    namespace: str = "dinat",
    version: str = "1",
) -> None:
    """Load a plugin library into a registry and check that it brings what a model needs.

    Args:
        operators: names of the plugins that must be there.

    Raises:
        EngineError: it cannot be loaded, or it lacks an operator.
    """
    try:
        handle = registry.load_library(str(library))
    except Exception as error:  # of pybind11, without a type of its own
        handle, log.errors = None, [*log.errors, str(error)]
    if handle is None:
        raise EngineError(
            f"The plugin {library} cannot be loaded.{listed(log.errors)}",
            "Build it again with `dinat-deploy plugin build`, or build the engine from the "
            "operator's body with --no-plugin.",
        )
    available = [
        (creator.name, creator.plugin_version, creator.plugin_namespace)
        for creator in registry.all_creators
    ]
    for operator in operators:
        if (operator, version, namespace) not in available:
            own = [f"{name} {number}" for name, number, ns in available if ns == namespace]
            raise EngineError(
                f"The plugin {library} has no {operator} version {version} in "
                f"namespace {namespace}; it has {', '.join(own) or 'nothing there'}.",
                "Build it again with `dinat-deploy plugin build`, or build the engine from the "
                "operator's body with --no-plugin.",
            )


def listed(lines: Sequence[str]) -> str:
    """Messages as an indented list that goes behind a sentence, the first few of them."""
    lines = [rest for line in lines if (rest := NO_DRIVER.sub("", line).strip())] or lines
    shown = [line.replace("\n", "\n  ") for line in lines[:_MOST_ERRORS]]
    more = [f"... and {len(lines) - len(shown)} more"] if len(lines) > len(shown) else []
    return "".join(f"\n  {line}" for line in shown + more)
