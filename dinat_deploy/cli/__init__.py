"""The command line: parse, call one function of the pipeline, show what it returns.

Command modules import only click at their top; what a command needs is imported when it runs.
"""

from __future__ import annotations

import click

from dinat_deploy import __version__
from dinat_deploy.cli.ablate import ablate
from dinat_deploy.cli.bench import bench
from dinat_deploy.cli.build import build
from dinat_deploy.cli.calibrate import calibrate
from dinat_deploy.cli.compare import compare
from dinat_deploy.cli.console import run
from dinat_deploy.cli.convert import convert
from dinat_deploy.cli.deploy import deploy
from dinat_deploy.cli.dilations import dilations
from dinat_deploy.cli.doctor import doctor
from dinat_deploy.cli.estimate import estimate
from dinat_deploy.cli.evaluate import evaluate
from dinat_deploy.cli.export import export
from dinat_deploy.cli.infer import infer
from dinat_deploy.cli.inspect import inspect
from dinat_deploy.cli.models import models
from dinat_deploy.cli.package import package
from dinat_deploy.cli.plugin import plugin
from dinat_deploy.cli.receptive_field import receptive_field
from dinat_deploy.cli.report import report
from dinat_deploy.cli.sensitivity import sensitivity
from dinat_deploy.cli.verify import verify


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="dinat-deploy")
def cli() -> None:
    """Take DiNAT and NAT models from PyTorch to verified and measured TensorRT engines.

    \b
    dinat-deploy models                      what there is
    dinat-deploy export -m dinat_mini        a verified bundle in out/dinat_mini
    dinat-deploy convert out/dinat_mini --precision fp16
    dinat-deploy calibrate out/dinat_mini --data images/     INT8
    dinat-deploy build out/dinat_mini        an engine in out/dinat_mini/engines
    dinat-deploy verify ENGINE               compare it with PyTorch
    dinat-deploy bench ENGINE out/dinat_mini measure it beside ONNX Runtime
    dinat-deploy package ENGINE -o serve     a model repository for Triton, or a folder for C++
    dinat-deploy deploy -m dinat_mini        all of this
    dinat-deploy report out/dinat_mini       one page about it
    dinat-deploy compare                     DiNAT beside NAT, Swin and ConvNeXt
    """


for command in (
    models, export, calibrate, sensitivity, convert, build, verify, bench, evaluate, infer, deploy,
    package, inspect, report, plugin, doctor, dilations, receptive_field, estimate, compare, ablate,
):  # fmt: skip
    cli.add_command(command)


def main() -> None:
    """Entry point of ``dinat-deploy``."""
    run(cli)
