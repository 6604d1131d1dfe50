"""What a long operation tells its caller while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Receives the stages of an operation; the command line shows them as a progress bar."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Enter a stage; leave the context when it is done."""
        ...

    def track(self, items: Sequence[T], name: str) -> Iterable[T]:
        """Pass items on, counting them."""
        ...

    def portion(self, name: str) -> AbstractContextManager[Callable[[float, str], None]]:
        """Enter a stage that says how far it is: call what the context gives with the share that
        is done (0 to 1) and with what is being done right now."""
        ...

    def note(self, text: str) -> None:
        """Say something that the user should know, such as where weights come from."""
        ...


class Silent:
    """Shows nothing."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        yield

    def track(self, items: Sequence[T], name: str) -> Iterable[T]:
        return items

    @contextmanager
    def portion(self, name: str) -> Iterator[Callable[[float, str], None]]:
        yield lambda share, detail: None

    def note(self, text: str) -> None:
        pass
