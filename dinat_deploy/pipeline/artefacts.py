"""Opens whatever can be run, by its name; see :mod:`dinat_deploy.pipeline.artefact`."""

from __future__ import annotations

from pathlib import Path

from dinat_deploy.bundle import MANIFEST, MODEL, Bundle
from dinat_deploy.errors import ConfigError
from dinat_deploy.pipeline.artefact import (
    RUNTIMES,
    Artefact,
    ArtefactName,
    RuntimeName,
    parse_artefact,
)
from dinat_deploy.pipeline.locating import Located, locate, plans_in
from dinat_deploy.progress import Progress, Silent

__all__ = [
    "RUNTIMES",
    "Artefact",
    "ArtefactName",
    "RuntimeName",
    "open_artefact",
    "parse_artefact",
]


# What PyTorch computes in for the variants of a bundle.
_TORCH_TYPES = {"fp16": "float16", "bf16": "bfloat16"}


def open_artefact(
    name: ArtefactName | str | Path,
    *,
    taps: bool = False,
    trust: bool = False,
    threads: int = 0,
    bundle: str | Path | None = None,
    plugin_library: str | Path | None = None,
    progress: Progress | None = None,
) -> Artefact:
    """Find, check and load what a name stands for.

    Args:
        name: as it is written on the command line, or a path.
        taps: let the session also return the outputs of the transformer layers.
        trust: load a plan that runs code of its own or has no manifest.
        threads: of the CPU for one run; 0 leaves the choice to the runtime.
        bundle: that an engine or an ONNX file belongs to, where it is not found by itself: the
            folders above it, and for engines the digest of the ONNX file, lead to it.
        plugin_library: of TensorRT, instead of the one that is found.

    Raises:
        ConfigError: the target is nothing that this runtime runs.
        BundleError, EngineError: it is damaged, does not fit this machine or is not trusted.
        MissingDependencyError: a package or library that it needs is missing.
    """
    parsed = _named(name)
    found = locate(parsed.target, Path(bundle) if bundle is not None else None)
    library = Path(plugin_library) if plugin_library is not None else None
    runtime = parsed.runtime or ("tensorrt" if found.kind in ("engine", "plan") else "onnxruntime")
    shown = progress or Silent()
    if runtime == "tensorrt":
        return _open_plan(parsed, found, library, shown, taps=taps, trust=trust)
    if runtime.startswith("torch"):
        return _open_torch(parsed, found, runtime, shown, taps=taps, threads=threads)
    return _open_onnx(parsed, found, runtime, library, shown, taps=taps, threads=threads)


def _named(name: ArtefactName | str | Path) -> ArtefactName:
    if isinstance(name, Path):  # names no runtime, whatever characters it has
        return ArtefactName(str(name), None, str(name))
    return parse_artefact(name) if isinstance(name, str) else name


def _open_onnx(
    name: ArtefactName,
    found: Located,
    runtime: str,
    library: Path | None,
    progress: Progress,
    *,
    taps: bool,
    threads: int,
) -> Artefact:
    from dinat_deploy.engine.onnx_file import read_onnx
    from dinat_deploy.pipeline.running import onnx_session

    if found.kind == "zoo":
        raise ConfigError(
            f"{name.target} is a published model and no file that ONNX Runtime could run.",
            f"Export it with `dinat-deploy export --model {name.target}`, or write "
            f"torch:{name.target}.",
        )
    if found.kind in ("engine", "plan"):
        raise ConfigError(
            f"{name.target} is an engine, and ONNX Runtime runs ONNX files.",
            "Name the ONNX file or the bundle, or leave the runtime out.",
        )
    bundle = found.bundle
    notes: list[str] = []
    if bundle is not None:
        with progress.stage("Checking the bundle"):
            notes = check_listed(bundle, found.path)
    checked = bundle is not None and not notes
    with progress.stage("Loading the ONNX file"):
        file = read_onnx(found.path)
        if bundle is not None and checked:
            bundle.check_interface(found.path.name, file.input_specs, file.output_specs)
        has_body = not file.without_body
        if bundle is not None and found.path.name == MODEL:
            has_body = has_body and bundle.manifest.graph.body
        tapped = _taps_of(bundle, found.path) if taps else {}
        session = onnx_session(
            found.path,
            has_body,
            provider=runtime.removeprefix("onnxruntime").removeprefix("-") or "cpu",
            taps=list(tapped.values()),
            threads=threads,
            plugin_library=library,
        )
    return Artefact(
        name,
        session,
        bundle,
        None,
        inputs=file.input_specs,
        outputs=file.output_specs,
        precision=file.precision,
        model_config=bundle.manifest.config if bundle else None,
        taps=tapped,
        notes=[*notes, *session.notes],
    )


def check_listed(bundle: Bundle, path: Path) -> list[str]:
    """Compare an ONNX file with what its bundle says of it; notes if it says nothing."""
    listed = {MODEL, *bundle.variants}
    if path.absolute().parent == bundle.path.absolute() and path.name in listed:
        bundle.check_model(path.name)
        return []
    return [f"{bundle.path / MANIFEST} says nothing of {path}: it could not be checked."]


def _taps_of(bundle: Bundle | None, path: Path) -> dict[str, str]:
    if bundle is None:
        raise ConfigError(
            f"{path} belongs to no bundle, which would say what its layers are called.",
            "Name the bundle with --bundle.",
        )
    return bundle.manifest.taps


def _open_plan(
    name: ArtefactName,
    found: Located,
    library: Path | None,
    progress: Progress,
    *,
    taps: bool,
    trust: bool,
) -> Artefact:
    from dinat_deploy.engine.checks import check_bare_plan, check_engine, look_around
    from dinat_deploy.pipeline.running import bare_plan_session, engine_session, tapped_tensors

    engine, bundle = found.engine, found.bundle
    if found.kind not in ("engine", "plan"):
        built = plans_in(bundle) if bundle else []
        names = " or ".join(str(path) for path in built)
        raise ConfigError(
            f"{name.target} is no engine, and TensorRT runs engines.",
            f"Name one: {names}." if built else "Build one with `dinat-deploy build`.",
        )
    config = bundle.manifest.config if bundle else None
    if engine is None:
        with progress.stage("Checking the engine"):
            notes = check_bare_plan(found.path, trust=trust)
        if taps:
            raise ConfigError(
                f"{found.path} has no manifest, which would say what its layers are called.",
                "Build it with `dinat-deploy build --taps`.",
            )
        with progress.stage("Loading the engine"):
            bare = bare_plan_session(found.path, library)
        return Artefact(
            name, bare, bundle, None, bare.inputs, bare.outputs, "unknown", config, notes=notes
        )
    tapped = tapped_tensors(engine) if taps else {}
    with engine.open_plan() as plan:  # what is checked is what is loaded
        with progress.stage("Checking the engine"):
            here = look_around(engine.manifest.runtime.flavor, plugin_library=library)
            notes = check_engine(engine, here, plan=plan, trust=trust)
        with progress.stage("Loading the engine"):
            session = engine_session(engine, plan, here.plugin, taps=taps)
    # Tapped tensors may be outputs of the plan, and are none of the model.
    hidden = set(engine.manifest.taps.tensors.values()) if engine.manifest.taps else set()
    own = {spec.name for spec in bundle.manifest.graph.outputs} if bundle else set()
    return Artefact(
        name,
        session,
        bundle,
        engine,
        inputs=engine.manifest.inputs,
        outputs=[s for s in engine.manifest.outputs if s.name in own or s.name not in hidden],
        precision=engine.manifest.precision,
        model_config=config,
        taps=tapped,
        notes=[*notes, *session.notes],
    )


def _open_torch(
    name: ArtefactName,
    found: Located,
    runtime: str,
    progress: Progress,
    *,
    taps: bool,
    threads: int,
) -> Artefact:
    if found.kind in ("engine", "plan"):
        raise ConfigError(
            f"{name.target} is an engine, and PyTorch runs the model that it was built from.",
            "Name the bundle, or leave the runtime out.",
        )
    if found.bundle is None and found.kind != "zoo":
        raise ConfigError(
            f"{name.target} belongs to no bundle, from which PyTorch's model could be rebuilt.",
            "Name the bundle, or a published model (`dinat-deploy models` lists them).",
        )
    with progress.stage("Loading PyTorch"):
        from dinat_deploy.pipeline import rebuild
    with progress.stage("Rebuilding the PyTorch model"):
        place = rebuild.Place.of(runtime, threads)
        if found.bundle is None:
            published = rebuild.published(str(found.path), place, taps=taps)
            return Artefact(
                name,
                published.session,
                None,
                None,
                inputs=published.inputs,
                outputs=published.outputs,
                precision="float32",
                model_config=published.config,
                taps=published.taps,
                notes=[*published.notes, *published.session.notes],
            )
        manifest = found.bundle.manifest
        variant = found.bundle.variants.get(found.path.name) if found.kind == "onnx" else None
        tapped = {path: path for path in manifest.taps} if taps else {}
        session = rebuild.torch_session(
            found.bundle, list(tapped), place, variant.precision if variant else "fp32"
        )
    batch: list[int | str] = ["batch"]
    return Artefact(
        name,
        session,
        found.bundle,
        None,
        # Whatever the export fixed: PyTorch takes any batch.
        inputs=[
            spec.model_copy(update={"shape": [*batch, *spec.shape[1:]]})
            for spec in manifest.graph.inputs
        ],
        outputs=[
            spec.model_copy(update={"shape": [*batch, *spec.shape[1:]]})
            for spec in manifest.graph.outputs
        ],
        precision=_TORCH_TYPES[variant.precision] if variant else "float32",
        model_config=manifest.config,
        taps=tapped,
        notes=list(session.notes),
    )
