"""How an engine is built: options of ``build`` and ``deploy``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dinat_deploy.cli.options import together

build_options = together(
    [
        click.option(
            "--backend",
            type=click.Choice(["tensorrt", "tensorrt-rtx"]),
            help="tensorrt builds for the GPU in this machine; tensorrt-rtx builds ahead of time "
            "and needs no GPU.  [default: tensorrt if it is installed and there is a GPU, else "
            "tensorrt-rtx]",
        ),
        click.option(
            "--plugin",
            "use_plugin",
            is_flag=True,
            help="Compute attention with the plugin.  [default: if its library is found]",
        ),
        click.option(
            "--no-plugin",
            is_flag=True,
            help="Build attention from the operator's body in standard operators.",
        ),
        click.option(
            "--plugin-library",
            type=click.Path(path_type=Path),
            help="The plugin library, instead of the one that is found.",
        ),
        click.option(
            "--embed-plugin",
            is_flag=True,
            help="Store the plugin library in the engine, so that none has to be loaded to run it.",
        ),
        click.option(
            "--profile",
            "profiles",
            multiple=True,
            metavar="NAME=MIN:OPT:MAX[,...]",
            help="Shapes of dynamic inputs, such as image=1x3x224x224:4x3x224x224:8x3x224x224; "
            "several inputs by comma. Repeat for more profiles.  [default: from the bundle]",
        ),
        click.option(
            "--arch",
            "architectures",
            default="",
            callback=lambda context, parameter, value: _architectures(value),
            metavar="N,N,...",
            help="tensorrt-rtx: compute capabilities to build for, such as 86,89,120; `current` "
            "for the GPU at hand.  [default: those of 80,86,89,120 that the plugin has code for]",
        ),
        click.option(
            "--optimization-level",
            type=click.IntRange(0, 5),
            help="0 builds fastest, 5 optimises most.  [default: TensorRT's]",
        ),
        click.option(
            "--workspace",
            "workspace_mib",
            type=click.IntRange(1),
            metavar="MiB",
            help="Bound of the engine's scratch memory.  [default: TensorRT's]",
        ),
        click.option(
            "--low-memory",
            is_flag=True,
            help="Build where memory is short, as on a Jetson with 8 GB: little scratch memory "
            "(--workspace 256 unless given), no kernels tried that need much, one profile, of one "
            "image unless given.",
        ),
        click.option(
            "--hardware-compatibility",
            type=click.Choice(["none", "ampere+", "same-capability"]),
            default="none",
            help="tensorrt: other GPUs that the engine is to run on too.",
        ),
        click.option(
            "--version-compatible",
            is_flag=True,
            help="tensorrt: let later versions of the same major version run it; it then "
            "holds host code.",
        ),
        click.option(
            "--refit", is_flag=True, help="Let the weights be replaced in the finished engine."
        ),
        click.option(
            "--strip-weights",
            is_flag=True,
            help="Leave the weights out; the engine must be refitted before it runs.",
        ),
        click.option(
            "--tf32",
            is_flag=True,
            help="Let float32 products be computed in TF32 (10 bits of mantissa).",
        ),
        click.option(
            "--dla-core",
            type=click.IntRange(0),
            metavar="N",
            help="tensorrt: run on this deep learning accelerator of a Jetson.",
        ),
        click.option(
            "--no-gpu-fallback",
            is_flag=True,
            help="Refuse layers that the accelerator does not support, instead of using the GPU "
            "for them.",
        ),
        click.option(
            "--timing-cache",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="tensorrt: file of measured kernel times to use and add to.  [default: one for "
            "this GPU in the user's cache]",
        ),
        click.option("--no-timing-cache", is_flag=True, help="Measure every kernel anew."),
        click.option(
            "--taps",
            type=click.Choice(["none", "outputs", "debug"]),
            default="none",
            help="Let the engine give out the outputs of the transformer layers, for verify "
            "--layers: as further outputs, or to a debug listener.",
        ),
        click.option(
            "--verbose-log",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Write everything that TensorRT says to a file.",
        ),
    ]
)


def build_arguments(
    *,
    use_plugin: bool,
    no_plugin: bool,
    timing_cache: Path | None,
    no_timing_cache: bool,
    no_gpu_fallback: bool,
    **rest: Any,
) -> dict[str, Any]:
    """Arguments of :func:`dinat_deploy.build` from these options."""
    _not_both("--plugin", use_plugin, "--no-plugin", no_plugin)
    _not_both("--timing-cache", timing_cache is not None, "--no-timing-cache", no_timing_cache)
    from dinat_deploy.pipeline.building import BuilderOptions

    own = {name: rest.pop(name) for name in BuilderOptions.model_fields if name in rest}
    return {
        **rest,
        "plugin": True if use_plugin else False if no_plugin else None,
        "timing_cache": False if no_timing_cache else timing_cache,
        "options": BuilderOptions(gpu_fallback=not no_gpu_fallback, **own),
    }


def _architectures(value: str) -> tuple[str, ...]:
    names = tuple(filter(None, map(str.strip, value.split(","))))
    if value and not names:
        raise click.BadParameter(f"{value!r} names no compute capability; write 86, or 86,89.")
    return names


def _not_both(first: str, has_first: bool, second: str, has_second: bool) -> None:
    if has_first and has_second:
        raise click.UsageError(f"{first} and {second} contradict each other.")
