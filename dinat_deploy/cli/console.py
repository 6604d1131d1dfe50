"""What all commands share: progress on stderr, JSON on stdout, errors without a traceback."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from dinat_deploy.errors import DinatDeployError

if TYPE_CHECKING:
    from dinat_deploy.measurement.tables import Table

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

# What a device that only runs exported models may do without.
_OPTIONAL = ("torch", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "safetensors")

_JSON_KEY = "dinat_deploy.json"
_INTERRUPT_KEY = "dinat_deploy.interrupt"


def json_option(function: F) -> F:
    """Add ``--json``; the command learns of it as ``as_json``."""

    def remember(context: click.Context, _: click.Parameter, value: bool) -> bool:
        context.find_root().meta[_JSON_KEY] = value
        return value

    return click.option(
        "--json", "as_json", is_flag=True, callback=remember, help="Print JSON for machines."
    )(function)


def answer_in_json(context: click.Context) -> None:
    """Print errors as JSON, too, for a command whose ``--json`` is an option of its own."""
    context.find_root().meta[_JSON_KEY] = True


def on_interrupt(left: str) -> None:
    """Say what an interrupted command leaves behind, if that is not nothing."""
    click.get_current_context().find_root().meta[_INTERRUPT_KEY] = left


def print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False))


def run(command: click.Command) -> NoReturn:
    """Run a command line; print known errors as cause and cure, and exit with a status.

    0: done. 1: done, and the answer is no (a failed comparison). 2: a mistake in the input or the
    environment. 130: interrupted.
    """
    # A polite kill, or the end of the terminal's session, cleans up like Ctrl-C does.
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # Whoever has it ignored (nohup) wants the command to go on.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: _raise_interrupt())
    meta: dict[str, Any] = {}
    try:
        with command.make_context("dinat-deploy", sys.argv[1:]) as context:
            meta = context.meta
            status = command.invoke(context)
            sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        if "--json" in sys.argv:  # the option itself may not have been reached
            print_json({"error": {"cause": error.format_message(), "cure": _help(error)}})
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        left = meta.get(_INTERRUPT_KEY, "Nothing was written.")
        if meta.get(_JSON_KEY):
            print_json({"error": {"cause": "Interrupted.", "cure": left}})
        click.echo(f"Interrupted. {left}", err=True)
        sys.stdout.flush()
        # Not sys.exit: if the interrupt hit code that an extension had evaluated, Python would
        # still end the process by a signal instead of with this status.
        os._exit(EXIT_INTERRUPTED)
    except DinatDeployError as error:
        _print_error(error, as_json=bool(meta.get(_JSON_KEY)))
        sys.exit(EXIT_USER_ERROR)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _OPTIONAL:
            raise
        missing = DinatDeployError(
            f"This command needs the package {package}, which is missing.",
            "pip install 'dinat-deploy[export]' brings all of them.",
        )
        _print_error(missing, as_json=bool(meta.get(_JSON_KEY)))
        sys.exit(EXIT_USER_ERROR)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away; it knows
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:  # such as a name that is too long, or a place that may not be read
        where = f"{error.filename}: " if error.filename is not None else ""
        fault = DinatDeployError(f"{where}{error.strerror or error}.", "Check the path.")
        _print_error(fault, as_json=bool(meta.get(_JSON_KEY)))
        sys.exit(EXIT_USER_ERROR)


def _help(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return ""
    return f"`{context.command_path} --help` lists the arguments and options."


def _print_error(error: DinatDeployError, *, as_json: bool) -> None:
    if as_json:
        print_json({"error": {"cause": error.cause, "cure": error.cure}})
    click.echo(f"Error: {error.cause}", err=True)
    if error.cure:
        click.echo(f"       {error.cure}", err=True)


def _raise_interrupt() -> NoReturn:
    raise KeyboardInterrupt


class PlainProgress:
    """A line per finished stage on stderr, for logs."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        click.echo(f"{name} ... {time.monotonic() - started:.1f} s", err=True)

    def track(self, items: Sequence[T], name: str) -> Iterable[T]:
        with self.stage(f"{name} {len(items)}"):
            yield from items

    @contextmanager
    def portion(self, name: str) -> Iterator[Callable[[float, str], None]]:
        with self.stage(name):
            yield lambda share, detail: None

    def note(self, text: str) -> None:
        click.echo(f"Note: {text}", err=True)


class BarProgress:
    """A progress bar over all stages on a terminal's stderr.

    Args:
        stages: how many there will be.
        steady: draw only what is told, not ten times a second: that would take time from what is
            being measured.
    """

    def __init__(self, stages: int, *, steady: bool = False) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description:<42}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            Elapsed(),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=not steady,
        )
        self._steady = steady
        self._task = self._bar.add_task("", total=stages)

    def start(self) -> None:
        self._bar.start()

    def stop(self) -> None:
        self._bar.stop()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._bar.update(self._task, description=name, refresh=self._steady)
        yield
        self._bar.advance(self._task)

    def track(self, items: Sequence[T], name: str) -> Iterable[T]:
        with self.stage(name):
            task = self._bar.add_task(name, total=len(items))
            for item in items:
                yield item
                self._bar.advance(task)
            self._bar.remove_task(task)

    @contextmanager
    def portion(self, name: str) -> Iterator[Callable[[float, str], None]]:
        with self.stage(name):
            task = self._bar.add_task("", total=100)

            def report(share: float, detail: str) -> None:
                done = 100 * share
                self._bar.update(task, description=detail, completed=done, refresh=self._steady)

            yield report
            self._bar.remove_task(task)

    def note(self, text: str) -> None:
        self._bar.console.print(f"Note: {text}", style="yellow", markup=False, highlight=False)


@contextmanager
def progress(stages: int, *, steady: bool = False) -> Iterator[BarProgress | PlainProgress]:
    """Progress on stderr: a bar on a terminal, lines elsewhere; ``steady`` as of BarProgress."""
    if not sys.stderr.isatty():
        yield PlainProgress()
        return
    bar = BarProgress(stages, steady=steady)
    bar.start()
    try:
        yield bar
    finally:
        bar.stop()


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on stdout; columns whose name ends in ``>`` are aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        right = column.endswith(">")
        table.add_column(column.rstrip(">"), justify="right" if right else "left", no_wrap=right)
    for row in rows:
        table.add_row(*(_literal(cell) for cell in row))
    # Not a terminal: wide enough for any row, so that piped tables are not cut.
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False).print(table)


def print_records(title: str, table: Table) -> None:
    """A report's table on stdout."""
    heads = [
        f"{head} >" if numeric else head
        for head, numeric in zip(table.heads, table.numeric, strict=True)
    ]
    print_table(title, heads, table.rows)


def _literal(cell: str) -> str:
    from rich.markup import escape

    return escape(cell)
