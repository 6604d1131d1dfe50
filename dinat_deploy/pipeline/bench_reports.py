"""Reports of ``bench``: written as JSON, Markdown and HTML, and read back elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from pydantic import ValidationError

from dinat_deploy.errors import ConfigError, MissingDependencyError
from dinat_deploy.files import check_places, write_whole
from dinat_deploy.measurement.records import BenchReport
from dinat_deploy.models.config import describe

_FORMAT_VERSION = 1


@dataclass(frozen=True)
class ReportFiles:
    """Where a report goes; None is not written."""

    json: Path | None = None
    markdown: Path | None = None
    html: Path | None = None

    def check(self) -> None:
        """Find out before a long measurement that its report could not be written.

        Raises:
            OutputError: a place cannot be written to.
            MissingDependencyError: the page needs plotly, which is not installed.
        """
        check_places([path for path in (self.json, self.markdown, self.html) if path is not None])
        if self.html is not None and not _have_plotly():
            raise MissingDependencyError(
                "The HTML report needs plotly, which is not installed.",
                "pip install 'dinat-deploy[report]', or write --json here and render it elsewhere "
                "with --from.",
            )

    def write(self, report: BenchReport) -> list[Path]:
        """Write the report; each file appears whole or not at all.

        Raises:
            OutputError, MissingDependencyError: as :meth:`check`.
        """
        from dinat_deploy.measurement.report import to_json, to_markdown

        # The one that can fail is made before any is written.
        page = None
        if self.html is not None:
            from dinat_deploy.measurement.page import to_html

            page = to_html(report)
        texts = (
            (self.json, to_json(report) if self.json else None),
            (self.markdown, to_markdown(report) if self.markdown else None),
            (self.html, page),
        )
        written = []
        for path, text in texts:
            if path is not None and text is not None:
                write_whole(path, text)
                written.append(path)
        return written


def _have_plotly() -> bool:
    try:
        import_module("plotly.offline")
    except ImportError:
        return False
    return True


def load_report(path: str | Path) -> BenchReport:
    """Read a report that ``bench --json`` wrote.

    Raises:
        ConfigError: it is no such report, or one of a newer format.
    """
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"There is no report {path}.", "Write one with `bench --json`.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not readable JSON: {error}.", "Check the path.") from None
    version = data.get("format_version") if isinstance(data, dict) else None
    if isinstance(version, int) and version > _FORMAT_VERSION:
        raise ConfigError(
            f"{path} has format {version}; this dinat-deploy reads up to {_FORMAT_VERSION}.",
            "Upgrade dinat-deploy.",
        )
    try:
        return BenchReport.model_validate(data)
    except ValidationError as error:
        raise ConfigError(
            describe(error, f"{path} is no report of bench"), "Measure again with `bench --json`."
        ) from None
