"""The timing cache of one build, on TensorRT's side; its file is :mod:`.timing_cache`'s."""

from __future__ import annotations

from typing import Any

from dinat_deploy.errors import EngineError


class MeasuredTimes:
    """Kernel times that a builder starts from and adds to.

    It must live until the engine is built.

    Args:
        config: the builder's configuration, which gets the cache.
        stored: what earlier builds measured; empty for nothing.

    Attributes:
        hits: whether there was something that this TensorRT can use on this GPU.

    Raises:
        EngineError: TensorRT takes no cache at all.
    """

    def __init__(self, config: Any, stored: bytes) -> None:
        self._config = config
        self._empty = _content(config.create_timing_cache(b""))
        cache = self._read(stored) if stored else None
        # False: not of another GPU, whose times say nothing of this one.
        self.hits = cache is not None and bool(config.set_timing_cache(cache, False))
        if not self.hits:
            cache = config.create_timing_cache(b"")
            if not config.set_timing_cache(cache, False):
                raise EngineError("TensorRT takes no timing cache.", "Build without one.")
        self._cache = cache

    def data(self) -> bytes:
        """All entries, after the build with those that were measured; empty if there are none."""
        content = _content(self._cache)
        return content if content != self._empty else b""

    def merge(self, there: bytes, new: bytes) -> bytes:
        """Two caches in one; raises ValueError if the first is none of this TensorRT and GPU."""
        if there == self._empty:
            return new
        old, added = self._read(there), self._read(new)
        if old is None or added is None or not old.combine(added, False):
            raise ValueError("it is not of this TensorRT and GPU")
        return _content(old)

    def _read(self, data: bytes) -> Any:
        """A cache with these entries; None if TensorRT cannot read them, or if there are none."""
        cache = self._config.create_timing_cache(data)
        # What it cannot read, it gives back as an empty cache, with a warning.
        return None if cache is None or _content(cache) == self._empty else cache


def _content(cache: Any) -> bytes:
    return bytes(cache.serialize())
