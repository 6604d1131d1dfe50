"""Options of the commands that quantize a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dinat_deploy.cli.options import together

if TYPE_CHECKING:
    from dinat_deploy.pipeline.quantizing import QuantizeOptions

# Arguments of pipeline.quantizing.QuantizeOptions: what is quantized, and all of them.
SELECTION = ("estimator", "exclude", "include", "head", "residual", "attention")
_NAMES = ("rest", *SELECTION)

selection_options = together(
    [
        click.option(
            "--estimator",
            type=click.Choice(["entropy", "percentile", "mse", "max"]),
            help="Quantized: how the range of an activation follows from its values.  [default: "
            "percentile for int8, max for fp8]",
        ),
        click.option(
            "--exclude",
            multiple=True,
            metavar="PATTERN|@FILE",
            help="Quantized: nodes to leave unquantized, such as 'levels.3.*', or a file of such "
            "patterns as `sensitivity` writes; repeat for more.",
        ),
        click.option(
            "--include",
            multiple=True,
            metavar="PATTERN|@FILE",
            help="Quantized: nodes to quantize though a rule leaves them out; repeat for more.",
        ),
        click.option("--head", is_flag=True, help="Quantized: the classifier, too."),
        click.option("--residual", is_flag=True, help="Quantized: residual sums, too."),
        click.option(
            "--attention", is_flag=True, help="Quantized: what the attention operator reads, too."
        ),
    ]
)

quantize_options = together(
    [
        click.option(
            "--rest",
            type=click.Choice(["fp16", "bf16", "fp32"]),
            default="fp16",
            show_default=True,
            help="Quantized: what all other nodes compute in, but for norms and the head.",
        ),
        selection_options,
    ]
)


def take_quantize_options(options: dict[str, Any], precision: str) -> QuantizeOptions | None:
    """Move the options out of all those of a command; patterns ``@FILE`` are read.

    Raises:
        ConfigError: a file of patterns cannot be read.
        click.UsageError: some are given, and the precision quantizes nothing.
    """
    from dinat_deploy.pipeline.quantizing import options_from

    taken = {name: options.pop(name) for name in _NAMES}
    if precision in ("int8", "fp8"):
        return options_from(taken)
    context = click.get_current_context()
    for name in _NAMES:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--{name} is about quantized models, and the precision is {precision}. Leave it "
                "out, or use int8 or fp8."
            )
    return None
