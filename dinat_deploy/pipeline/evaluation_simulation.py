"""16-bit variants on a CPU, as a GPU computes them (:mod:`dinat_deploy.graph.simulation`)."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dinat_deploy.bundle import Variant
from dinat_deploy.errors import ConfigError
from dinat_deploy.files import scratch_directory
from dinat_deploy.pipeline.artefact import Artefact, parse_artefact
from dinat_deploy.pipeline.artefacts import open_artefact
from dinat_deploy.pipeline.locating import Located, locate

if TYPE_CHECKING:
    from dinat_deploy.pipeline.evaluation_batches import Candidate

_CPU_RUNTIMES = (None, "onnxruntime")


def sixteen_bit_type(variant: Variant) -> str | None:
    """``fp16`` or ``bf16`` if a variant computes in that, also beside a quantized type."""
    form = variant.quantization.rest if variant.quantization else variant.precision
    return form if form in ("fp16", "bf16") else None


def simulated_type(name: str, found: Located, *, all_types: bool) -> str | None:
    """The type in which an artefact must be simulated to be run in ONNX Runtime on the CPU, which
    has few operators for bfloat16.

    Args:
        all_types: simulate float16 as well, which ONNX Runtime runs, but rounds less often.
    """
    variant = variant_of(found)
    if variant is None or parse_artefact(name).runtime not in _CPU_RUNTIMES:
        return None
    form = sixteen_bit_type(variant)
    return form if form == "bf16" or all_types else None


def variant_of(found: Located) -> Variant | None:
    """What the bundle says of an ONNX file that is a variant of its model."""
    if found.kind != "onnx" or found.bundle is None:
        return None
    return found.bundle.variants.get(found.path.name)


@contextmanager
def open_simulated(
    candidate: Candidate, bundle: str | Path | None, threads: int
) -> Iterator[Artefact]:
    """Load a 16-bit variant rewritten to float32 arithmetic with every tensor rounded.

    Raises:
        BundleError: the file is not the one that was converted, or cannot be run.
        ConversionError: the graph contradicts itself in its types.
    """
    from dinat_deploy.graph import schema
    from dinat_deploy.graph.formats import FORMATS
    from dinat_deploy.graph.reading import load_ir
    from dinat_deploy.graph.simulation import simulate
    from dinat_deploy.pipeline.conversion_checks import save

    found = locate(parse_artefact(candidate.name).target, Path(bundle) if bundle else None)
    if found.bundle is None or candidate.simulated is None:
        raise ConfigError(
            f"{candidate.name} belongs to no bundle, which would say what type it is in.",
            "Name the bundle with --bundle.",
        )
    found.bundle.check_model(found.path.name)
    schema.register()
    with scratch_directory() as scratch:
        model = load_ir(found.path)
        simulate(model, FORMATS[candidate.simulated], inline=found.bundle.manifest.graph.body)
        path = scratch / found.path.name
        save(model, path, external=True)
        del model
        gc.collect()  # a graph refers to itself, and holds all weights
        with open_artefact(path, threads=threads, bundle=found.bundle.path) as artefact:
            artefact.notes.clear()  # that the manifest says nothing of this file
            artefact.notes.extend(artefact.session.notes)
            yield artefact
