"""The thread that reads a source, and takes no more of the processor than it is allowed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType

from dinat_deploy.measurement.power.energy import Sample
from dinat_deploy.measurement.power.source import PowerSource, ReadingFailed

# At most this share of the time is spent on reading: a slow source is read less often.
MOST_SHARE = 0.02


class Sampler:
    """Reads a source in a thread while it is open.

    Args:
        clock: gives seconds; samples carry its time.

    Attributes:
        samples: in order of time.
        spent: seconds that readings took.
        failures: readings that failed.
        last_failure: what the last of them said.
    """

    def __init__(self, source: PowerSource, clock: Callable[[], float] = time.perf_counter) -> None:
        self._source, self._clock = source, clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="power samples", daemon=True)
        self.samples: list[Sample] = []
        self.spent = 0.0
        self.failures = 0
        self.last_failure = ""

    def __enter__(self) -> Sampler:
        # One before and one after all of it, so that nothing has to be guessed beyond the ends.
        self.sample()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.sample()

    def sample(self) -> float:
        """Read once; returns the seconds to wait until the next reading.

        A sample's time is the middle of its reading.
        """
        begun = self._clock()
        try:
            reading = self._source.read()
        except ReadingFailed as error:
            self.failures += 1
            self.last_failure = str(error)
            reading = None
        ended = self._clock()
        if reading is not None:
            self.samples.append(Sample((begun + ended) / 2, reading))
        taken = ended - begun
        self.spent += taken
        return max(self._source.interval - taken, taken * (1 / MOST_SHARE - 1))

    def _follow(self) -> None:
        while not self._stop.wait(self.sample()):
            pass
