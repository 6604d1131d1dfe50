"""``ablate``: what the order of layers and the kernel size do, measured on the digits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

from dinat_deploy import __version__
from dinat_deploy.choosing.ablation_effects import MOST_SEEDS, Cell, Effect, cells, effects
from dinat_deploy.choosing.ablation_page import accuracy_table, effect_table, published_table
from dinat_deploy.choosing.ablation_records import (
    AblationFile,
    Recipe,
    Training,
    read_ablation,
)
from dinat_deploy.choosing.ablation_task import (
    JUDGE,
    KERNEL_SIZES,
    LEARN,
    ORDERS,
    SIDE,
    Pictures,
    architecture,
    is_possible,
    pictures,
)
from dinat_deploy.choosing.published_ablation import PUBLISHED_ABLATIONS, SOURCE
from dinat_deploy.errors import ConfigError, OutputError
from dinat_deploy.measurement.page import check_page
from dinat_deploy.models.zoo import format_dilations
from dinat_deploy.progress import Progress, Silent

__all__ = [
    "EPOCHS",
    "KERNEL_SIZES",
    "MOST_SEEDS",
    "ORDERS",
    "OUTPUT",
    "PUBLISHED_ABLATIONS",
    "SOURCE",
    "AblationReport",
    "ablate",
    "accuracy_table",
    "effect_table",
    "published_table",
]

EPOCHS = 20
OUTPUT = Path("out/ablation.json")
_RATE, _BATCH = 4e-3, 32


@dataclass(frozen=True)
class AblationReport:
    """What was found.

    Attributes:
        path: where the trainings are kept.
        trained: how many of them this run did; the others were there.
        cells: each model; ``effects``: differences between kinds of models.
    """

    path: Path
    recipe: Recipe
    seeds: int
    trained: int
    cells: list[Cell]
    effects: list[Effect]

    @property
    def remarks(self) -> list[str]:
        """What has to be known to read the figures."""
        recipe = self.recipe
        found = [
            f"A toy: scans of 8x8 pixels resized to {SIDE}x{SIDE}, {recipe.learned} to learn from, "
            f"{recipe.judged} to judge on, {recipe.epochs} epoch{'s' * (recipe.epochs != 1)}. It "
            "shows how such a question is asked; what it answers for photographs, only photographs "
            "tell."
        ]
        if self.seeds == 1:
            found.append(
                "One seed: how much of a difference is chance cannot be told. Take 3 or more."
            )
        unsure = [effect for effect in self.effects if effect.verdict == "within the noise"]
        if unsure and len(unsure) == len(self.effects):
            found.append("All differences are within the noise: nothing was shown.")
        elif unsure:
            named = ", ".join(effect.name for effect in unsure)
            found.append(f"Within the noise, and so not shown: {named}.")
        return found

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "ablation",
            "output": str(self.path),
            "recipe": self.recipe.model_dump(),
            "seeds": self.seeds,
            "trained": self.trained,
            "models": [
                {
                    "order": cell.order,
                    "kernel_size": cell.kernel_size,
                    "dilations": format_dilations(cell.dilations),
                    "accuracies": cell.accuracies,
                    "mean": cell.mean,
                    "standard_deviation": cell.spread,
                    "seconds": cell.seconds,
                }
                for cell in self.cells
            ],
            "effects": [asdict(effect) | {"verdict": effect.verdict} for effect in self.effects],
            "remarks": self.remarks,
            "published": {
                "source": SOURCE,
                "results": [asdict(entry) for entry in PUBLISHED_ABLATIONS],
            },
        }


def ablate(
    *,
    orders: Sequence[str] = tuple(ORDERS),
    kernel_sizes: Sequence[int] = KERNEL_SIZES,
    seeds: int = 3,
    epochs: int = EPOCHS,
    limit: int | None = None,
    output: Path = OUTPUT,
    plot: Path | None = None,
    progress: Progress | None = None,
) -> AblationReport:
    """Train a tiny DiNAT for each order, kernel size and seed, and compare them.

    Trainings that the output file has are not repeated, and it is written after each one, so that
    an interrupt loses one at most. They run in one thread: models this small gain little from more,
    and lose a lot where other programs want the same cores.

    Args:
        orders: names of :data:`ORDERS`.
        kernel_sizes: odd, from 3 to 7.
        seeds: how many trainings of each model.
        limit: scans to learn from, and to judge on, at most.
        plot: HTML page to write.

    Raises:
        ConfigError: an order, a kernel size or a number is not possible, or the output file was
            made with other settings.
        OutputError: a file cannot be written, or something else is in its place.
        MissingDependencyError: scikit-learn is not installed, or plotly for the page.
    """
    progress = progress or Silent()
    orders, kernel_sizes = list(dict.fromkeys(orders)), sorted(set(kernel_sizes))
    _check(orders, kernel_sizes, seeds, epochs, limit)
    check_page(plot)
    if plot is not None and plot.absolute() == output.absolute():
        raise OutputError(f"{output} would be both the page and the trainings.", "Name another.")
    with progress.stage("Reading the digits"):
        learn, judge = (pictures(part).first(limit) for part in (LEARN, JUDGE))
        kept = _open(output, epochs, learn, judge)
    # Seed by seed: interrupted, every model has had some.
    wanted = [(o, k, s) for s, o, k in product(range(seeds), orders, kernel_sizes)]
    missing = [key for key in wanted if key not in {each.key for each in kept.trainings}]
    with progress.portion("Training") as report, _one_thread():
        for number, key in enumerate(missing):
            trained = _train(key, learn, judge, epochs, _told(report, number, len(missing), key))
            kept = kept.with_training(trained)
            kept.write(output)
    by_key = {each.key: each for each in kept.trainings}
    chosen = [by_key[key] for key in wanted]
    judged = kept.recipe.judged
    found = AblationReport(
        output, kept.recipe, seeds, len(missing), cells(chosen, judged), effects(chosen, judged)
    )
    if plot is not None:
        from dinat_deploy.choosing.ablation_page import to_html
        from dinat_deploy.files import write_whole

        write_whole(plot, to_html(found.cells, found.effects, found.remarks))
    return found


def _check(
    orders: Sequence[str],
    kernel_sizes: Sequence[int],
    seeds: int,
    epochs: int,
    limit: int | None,
) -> None:
    for order in orders:
        if order not in ORDERS:
            raise ConfigError(
                f"{order!r} is no order of layers.", f"There are {', '.join(ORDERS)}."
            )
    for kernel in kernel_sizes:
        if not is_possible(kernel):
            raise ConfigError(
                f"Kernel size {kernel} is not possible here: it has to be odd and at least 3, and "
                f"the first map, of {SIDE // 4}x{SIDE // 4} tokens, at least twice as long.",
                "Choose from 3, 5 and 7.",
            )
    if not orders or not kernel_sizes:
        raise ConfigError("No model is left to train.", "Name an order and a kernel size.")
    for name, value, least in (("seeds", seeds, 1), ("epochs", epochs, 1), ("limit", limit, 64)):
        if value is not None and value < least:
            raise ConfigError(f"{name} is {value}, and must be at least {least}.")
    if seeds > MOST_SEEDS:
        raise ConfigError(f"{seeds} seeds are more than the {MOST_SEEDS} that are provided for.")


def _open(path: Path, epochs: int, learn: Pictures, judge: Pictures) -> AblationFile:
    """What is there already; the file is written at once, so that no training is for nothing."""
    import torch

    recipe = Recipe(
        epochs=epochs,
        learned=len(learn.classes),
        judged=len(judge.classes),
        torch=torch.__version__,
    )
    found = read_ablation(path, recipe)
    if found is None:
        found = AblationFile(created_by=f"dinat-deploy {__version__}", recipe=recipe)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{path.parent} cannot be made: {error.strerror}.", "Choose another --output."
            ) from None
        found.write(path)
    return found


def _told(report: Any, number: int, count: int, key: tuple[str, int, int]) -> Any:
    order, kernel, seed = key

    def after(epoch: int, epochs: int) -> None:
        share = (number + epoch / epochs) / count
        report(share, f"{number + 1} of {count}: {order}, kernel {kernel}, seed {seed}")

    return after


def _train(
    key: tuple[str, int, int], learn: Pictures, judge: Pictures, epochs: int, told: Any
) -> Training:
    import torch

    from dinat_deploy.choosing.ablation_training import predict, train

    order, kernel, seed = key
    config = architecture(order, kernel)
    started = perf_counter()
    told(0, epochs)
    model = train(
        config,
        torch.from_numpy(learn.images),
        torch.from_numpy(learn.classes),
        epochs=epochs,
        seed=seed,
        rate=_RATE,
        batch=_BATCH,
        by_fan_in=True,
        report=lambda epoch: told(epoch, epochs),
    )
    seconds = perf_counter() - started
    guessed = predict(model, torch.from_numpy(judge.images)).numpy()
    wrong = [int(index) for index in (guessed != judge.classes).nonzero()[0]]
    return Training(
        order=order, kernel_size=kernel, seed=seed, config=config, wrong=wrong, seconds=seconds
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
