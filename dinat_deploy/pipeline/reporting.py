"""``report``: everything that is known of bundles, on one page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dinat_deploy import __version__
from dinat_deploy.bundle import Bundle, open_bundle
from dinat_deploy.errors import ConfigError, MissingDependencyError
from dinat_deploy.files import check_places, write_whole
from dinat_deploy.measurement import environment
from dinat_deploy.measurement.page import check_page
from dinat_deploy.pipeline.reporting_collecting import bundle_record, unreadable_engines
from dinat_deploy.pipeline.reporting_matching import Owned
from dinat_deploy.pipeline.reporting_measuring import MeasureOptions, complete
from dinat_deploy.pipeline.reporting_recorded import Recorder
from dinat_deploy.pipeline.reporting_results import find_results, read_result
from dinat_deploy.progress import Progress, Silent
from dinat_deploy.reporting.records import ReportData
from dinat_deploy.reporting.tables import verdicts as verdict_table
from dinat_deploy.reporting.verdicts import summary

__all__ = ["ReportFiles", "report", "summary", "verdict_table"]


@dataclass(frozen=True)
class ReportFiles:
    """Where a report goes; None is not written."""

    html: Path | None = None
    markdown: Path | None = None

    def check(self) -> None:
        """Find out before a long measurement that the report could not be written.

        Raises:
            OutputError: a place cannot be written to.
            MissingDependencyError: the page needs plotly, which is not installed.
        """
        check_places([path for path in (self.html, self.markdown) if path is not None])
        try:
            check_page(self.html)
        except MissingDependencyError as error:
            raise MissingDependencyError(
                error.cause, f"{error.cure}, or use --markdown or --json, which need none."
            ) from None

    def write(self, data: ReportData) -> list[Path]:
        """Write the report; each file appears whole or not at all.

        Returns:
            The files.

        Raises:
            OutputError: a place cannot be written to.
        """
        from dinat_deploy.reporting.markdown import to_markdown
        from dinat_deploy.reporting.page import to_html

        texts = []
        if self.html is not None:
            texts.append((self.html, to_html(data)))
        if self.markdown is not None:
            texts.append((self.markdown, to_markdown(data)))
        for path, text in texts:
            write_whole(path, text)
        return [path for path, _ in texts]


def report(
    bundles: str | Path | Sequence[str | Path],
    *,
    results: Sequence[str | Path] = (),
    output: str | Path | None = None,
    markdown: str | Path | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> ReportData:
    """Collect what is known of bundles, measure what is not and can be, and write it down.

    What is collected: the manifests of bundles and engines, the files that ``deploy`` leaves in an
    engine, and other results of ``bench``, ``evaluate``, ``sensitivity`` and ``verify`` in the
    bundles. What no file says is measured: times, memory and layers of everything that runs here,
    and each layer against PyTorch's.

    Args:
        bundles: directories that ``export`` wrote.
        results: further result files.
        output: HTML page to write; ``markdown`` a Markdown file.
        options: fields of :class:`dinat_deploy.pipeline.reporting_measuring.MeasureOptions`.

    Raises:
        BundleError, EngineError: a manifest is missing or damaged.
        ConfigError: a result file is damaged, or is of something else; nothing is named.
        OutputError, MissingDependencyError: the report cannot be written.
        DinatDeployError: power or scores were asked for and cannot be had.
    """
    progress = progress or Silent()
    files = ReportFiles(
        Path(output) if output is not None else None,
        Path(markdown) if markdown is not None else None,
    )
    files.check()
    asked = MeasureOptions(**options)
    asked.check()
    named = [bundles] if isinstance(bundles, str | Path) else bundles
    with progress.stage("Reading the bundles"):
        owners = _open_all([Path(each) for each in named])
        recorder = Recorder(owners)
        seen: set[Path] = set()
        for owner in owners:
            recorder.notes += unreadable_engines(owner.bundle)
            for found, engine in find_results(owner.bundle):
                seen.add(found.path.resolve())
                recorder.add(found, engine, named=False)
        for each in results:
            path = Path(each)
            if path.resolve() not in seen:
                seen.add(path.resolve())
                recorder.add(read_result(path), named=True)
    started = datetime.now(timezone.utc).isoformat(timespec="seconds")
    complete(owners, recorder, asked, progress)
    with progress.stage("Writing the report"):
        data = ReportData(
            created_by=f"dinat-deploy {__version__}",
            started=started,
            environment=environment.describe(),
            bundles=[owner.record for owner in owners],
            sessions=recorder.sessions,
            notes=list(dict.fromkeys(recorder.notes)),
        )
        files.write(data)
    return data


def _open_all(paths: Sequence[Path]) -> list[Owned]:
    """Every bundle once, with names that tell them apart."""
    if not paths:
        raise ConfigError("No bundle is named.", "Name one that `dinat-deploy export` wrote.")
    bundles: dict[Path, Bundle] = {}
    for path in paths:
        found = open_bundle(path)
        try:
            str(path.resolve()).encode()
        except UnicodeError:  # bytes that are no text, which no report could show
            raise ConfigError(
                f"The name of {str(path)!r} is no text in UTF-8.", "Rename the directory."
            ) from None
        bundles.setdefault(path.resolve(), found)
    names = _names(list(bundles))
    return [
        Owned.of(bundle, bundle_record(bundle, names[place])) for place, bundle in bundles.items()
    ]


def _names(places: Sequence[Path]) -> dict[Path, str]:
    """Of each directory as many of its last parts as tell it from the others."""
    names = {}
    for place in places:
        length = 1
        tails = [other.parts for other in places if other != place]
        while length < len(place.parts) and any(
            tail[-length:] == place.parts[-length:] for tail in tails
        ):
            length += 1
        names[place] = "/".join(place.parts[-length:])
    return names
