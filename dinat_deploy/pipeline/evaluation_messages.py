"""What workers and actors tell the process that started them."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from dinat_deploy.errors import DinatDeployError
from dinat_deploy.pipeline.evaluation_batches import BatchResult, Opened

# A batch is given up after so many workers have died over it.
MOST_ATTEMPTS = 3
OnOpened = Callable[[list[Opened]], None]
OnNote = Callable[[str], None]


@dataclass(frozen=True)
class Failure:
    """An error as plain data: errors with a cause and a cure do not survive being pickled.

    Attributes:
        kind: its class; None for an error that no user can mend, whose cause is a traceback.
    """

    kind: type[DinatDeployError] | None
    cause: str
    cure: str = ""

    def error(self) -> Exception:
        """The error, to be raised here."""
        if self.kind is None:
            return RuntimeError(f"A worker failed:\n{self.cause}")
        return self.kind(self.cause, self.cure)


Message = list[Opened] | BatchResult | Failure


def failure_of(error: BaseException) -> Failure:
    """Describe an error that was just caught."""
    if isinstance(error, DinatDeployError):
        return Failure(type(error), error.cause, error.cure)
    return Failure(None, "".join(traceback.format_exception(error)))


class Deaths:
    """Keeps count of workers that died, and gives up when it makes no sense to go on."""

    def __init__(self, note: OnNote) -> None:
        self._note = note
        self._attempts: Counter[int] = Counter()

    def died(self, batch: int, how: str, left: int) -> None:
        """A worker died over a batch, which is to be done again.

        Args:
            how: such as ``was killed (SIGKILL)``.
            left: workers that live, or can be started in its place.

        Raises:
            DinatDeployError: none is left, or this batch has killed too many.
        """
        self._attempts[batch] += 1
        if self._attempts[batch] >= MOST_ATTEMPTS or not left:
            over = (
                f"{self._attempts[batch]} workers died over batch {batch}"
                if self._attempts[batch] > 1
                else "No worker is left"
            )
            raise DinatDeployError(
                f"{over}; the last one {how}.",
                "If memory ran out, use fewer --workers or a smaller --batch.",
            )
        self._note(f"A worker {how}; batch {batch} is done again by another.")
