"""How a package for Triton is started: a script, and words for whoever gets it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dinat_deploy import __version__
from dinat_deploy.errors import NativeError
from dinat_deploy.native import library_info
from dinat_deploy.serving.network import Network
from dinat_deploy.serving.triton_checks import shown
from dinat_deploy.serving.triton_config import ModelConfig
from dinat_deploy.serving.triton_network import LIBRARIES
from dinat_deploy.serving.triton_repository import MODELS

START = "start.sh"


def start_script(networks: Sequence[Network]) -> str:
    """A shell script that starts Triton in the package, with what its models load."""
    flags = ['--model-repository="$PWD/models"']
    plugins = dict.fromkeys(
        network.library_name for network in networks if network.engine and network.library_name
    )
    if plugins:
        listed = ";".join(f"$PWD/{LIBRARIES}/{name}" for name in plugins)
        flags.append(f'--backend-config="tensorrt,plugins={listed}"')
    if any(network.engine and network.engine.manifest.host_code for network in networks):
        # What lets Triton's TensorRT load plans that hold code for the processor.
        flags.append("--backend-config=tensorrt,version-compatible=true")
    continued = " \\\n  ".join(["exec tritonserver", *flags, '"$@"'])
    return (
        "#!/bin/sh\n"
        "# Starts Triton on this package; further options are passed on.\n"
        "# Libraries in config.pbtxt are relative to the directory that the server is started in.\n"
        'cd "$(dirname "$0")" || exit 1\n'
        f"{continued}\n"
    )


def readme(networks: Sequence[Network], configs: Sequence[ModelConfig]) -> str:
    """The package's README."""
    return "\n".join(_readme(networks, configs)) + "\n"


def _readme(networks: Sequence[Network], configs: Sequence[ModelConfig]) -> Iterator[str]:
    yield from (
        "# A model repository for Triton Inference Server", "",
        f"Written by dinat-deploy {__version__}. Start it, where `tritonserver` is installed, with",
        "", f"    ./{START}", "",
        "and in NVIDIA's container, here the release YY.MM, with", "",
        '    docker run --rm --gpus all -p 8000:8000 -v "$PWD:/package" \\',
        f"      nvcr.io/nvidia/tritonserver:YY.MM-py3 sh /package/{START}", "",
        f"Without a GPU leave `--gpus all` out. The repository itself is `{MODELS}`; `{START}` "
        "also says what", "else the server must load.", "",
        "| model | takes | gives | batches |", "|---|---|---|---|",
    )  # fmt: skip
    for config in configs:
        sides = (
            ", ".join(f"{t.name} {shown(t.dims)} {t.data_type[5:]}" for t in tensors)
            for tensors in (config.inputs, config.outputs)
        )
        most = f"up to {config.max_batch_size}" if config.max_batch_size else "none"
        yield f"| `{config.name}` | {' | '.join(sides)} | {most} |"
    yield ""
    for network in networks:
        yield from _needs(network)
    if any(config.backend == "python" for config in configs):
        yield from (
            "## Pictures", "",
            "The models ending in `_pipeline` take encoded pictures (JPEG, PNG and others), as "
            "bytes in a tensor",
            "of strings. Triton's Python back end decodes them: its Python needs numpy and",
            "Pillow: `pip install 'numpy<2' pillow`. Triton 24.10 crashes with numpy 2.", "",
        )  # fmt: skip


def _needs(network: Network) -> Iterator[str]:
    yield from (f"## {network.name}", "")
    if network.engine is None:
        yield "Runs in Triton's ONNX Runtime back end, which NVIDIA's container has."
        if network.library is not None:
            yield (
                f"Its attention runs in `{LIBRARIES}/{network.library_name}`, which config.pbtxt "
                f"names relative to this directory{_libc(network)}. Without the lines of "
                "`model_operations` it runs in standard operators, if it was exported with them: "
                "more slowly, everywhere."
            )
        yield ""
        return
    manifest = network.engine.manifest
    runtime = manifest.runtime
    later = (
        " or a later one of the same major version" if manifest.options.version_compatible else ""
    )
    yield from (
        f"Needs TensorRT {runtime.version}{later}: take the container with that version, by "
        "NVIDIA's support",
        "matrix. It was built for compute capability "
        f"{', '.join(manifest.architectures)} on {runtime.platform or 'an unknown system'}.",
    )
    plugin = manifest.plugin
    if plugin is not None and not plugin.embedded:
        yield (
            f"It calls a plugin in `{LIBRARIES}/{plugin.library}`, which `{START}` has Triton load "
            "(`--backend-config=tensorrt,plugins=...`; `LD_PRELOAD` does the same)."
        )
    if manifest.host_code:
        yield (
            f"It holds host code ({'; '.join(manifest.host_code)}), which the server runs with its "
            "rights: only take it from whom you trust. Triton loads it with "
            "`--backend-config=tensorrt,version-compatible=true`."
        )
    yield ""


def _libc(network: Network) -> str:
    assert network.library is not None
    try:
        info = library_info(network.library)
    except NativeError:
        return ""
    needs = ", ".join(info.needs)
    return f" (built for {info.machine}{f', needs {needs}' if needs else ''})"
