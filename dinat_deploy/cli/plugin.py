"""``dinat-deploy plugin``"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dinat_deploy.cli.console import PlainProgress, json_option, print_json, print_table, progress

if TYPE_CHECKING:
    from dinat_deploy.native import LibraryInfo
    from dinat_deploy.pipeline.plugin_info import InfoReport

_STAGES = 3


@click.group(short_help="The native libraries: build them, see what there is.")
def plugin() -> None:
    """The native libraries: the operator for ONNX Runtime and the TensorRT plugin."""


@plugin.command(short_help="Compile the libraries.")
@click.option(
    "--arch",
    metavar="N,N,...|all",
    help="GPUs to compile for: compute capabilities such as 87,110, or all.  "
    "[default: the GPU here, else 80; for aarch64: 87,110]",
)
@click.option(
    "--cross", type=click.Choice(["aarch64"]), help="Compile for another processor: a Jetson's."
)
@click.option(
    "--cuda",
    type=click.Path(path_type=Path),
    help="CUDA toolkit.  [default: CUDA_HOME, PATH, /usr/local/cuda, pip's]",
)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    help="Folder of the libraries.  [default: where sessions look for them; for aarch64: "
    "out/native-aarch64]",
)
@click.option(
    "--jobs", "-j", type=click.IntRange(1), help="Compilers at a time.  [default: as many as fit]"
)
@click.option("--verbose", "-v", is_flag=True, help="Show everything that the build prints.")
@json_option
def build(
    arch: str | None,
    cross: str | None,
    cuda: Path | None,
    output: Path | None,
    jobs: int | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Compile the operator for ONNX Runtime and, with a CUDA compiler, the TensorRT plugin.

    \b
    dinat-deploy plugin build                                for this machine
    dinat-deploy plugin build --arch 80,86,89,90             for other GPUs
    dinat-deploy plugin build --cross aarch64 --arch 87,110  for Jetson Orin and Thor
    """
    shown = nullcontext(PlainProgress()) if verbose else progress(_STAGES + (cross is not None))
    with shown as stages:
        from dinat_deploy.pipeline.plugins import build_plugins

        report = build_plugins(
            architectures=[name.strip() for name in (arch or "").split(",") if name.strip()],
            cross=cross,
            cuda=cuda,
            output=output,
            jobs=jobs,
            log=(lambda line: click.echo(line, err=True)) if verbose else None,
            progress=stages,
        )
    if as_json:
        print_json(report.to_dict())
        return
    for library in report.libraries:
        click.echo(
            f"{report.path / library.path.name}: {library.machine}{_code(library)}, "
            f"{library.size / 1e6:.1f} MB"
        )
    if report.found:
        click.echo("Sessions and engine builds find them here.")
    else:
        click.echo(f"Where they shall be used, set DINAT_NATIVE_DIR={report.path}")


@plugin.command(short_help="Which libraries there are, and what is in them.")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@json_option
def info(file: Path | None, as_json: bool) -> None:
    """Show the native libraries that this machine uses, or what one FILE is."""
    from dinat_deploy.pipeline.plugin_info import library_report, plugin_info

    if file is None:
        report = plugin_info()
        if as_json:
            print_json(report.to_dict())
        else:
            _show_all(report)
        return
    library, remarks = library_report(file)
    if as_json:
        print_json({**library.to_dict(), "remarks": remarks})
    else:
        _show_one(library, remarks)


def _code(library: LibraryInfo) -> str:
    return "".join(f", {code}" for code in library.cuda_code)


def _show_all(report: InfoReport) -> None:
    rows = [
        [name, "-", "", "", ""]
        if library is None
        else [
            name,
            library.version,
            " ".join(library.cuda_code),
            library.sha256[:12],
            str(library.path),
        ]
        for name, library in report.libraries.items()
    ]
    print_table("", ["library", "version", "GPU code", "sha256", "file"], rows)
    cuda = report.cuda
    click.echo(f"C++ compiler:  {report.cxx or 'none'}")
    click.echo(f"CUDA compiler: {f'{cuda.version}, {cuda.nvcc}' if cuda else 'none'}")
    for name, architecture in report.gpus:
        click.echo(f"GPU:           {name}{f', sm_{architecture}' if architecture else ''}")
    click.echo(f"Looked in:     {', '.join(str(path) for path in report.directories)}")
    for remark in report.remarks:
        click.echo(f"Note: {remark}")


def _show_one(library: LibraryInfo, remarks: list[str]) -> None:
    glibc = [need.partition("_")[2] for need in library.needs if need.startswith("GLIBC_")]
    rows = [
        ["file", str(library.path)],
        ["library", f"{library.name} {library.version}, {library.size / 1e6:.1f} MB"],
        ["sha256", library.sha256],
        ["processor", f"{library.machine}{f', glibc {glibc[-1]} or newer' if glibc else ''}"],
        ["GPU code", " ".join(library.cuda_code) or "none"],
        ["exports", ", ".join(library.symbols)],
        ["compilers", library.compilers],
    ]
    print_table("", ["", ""], rows)
    for remark in remarks:
        click.echo(f"Note: {remark}")
