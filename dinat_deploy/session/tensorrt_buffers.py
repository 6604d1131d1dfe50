"""Memory of a lane, on the GPU and on the host."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress

from dinat_deploy.session.cuda import CudaError, Device
from dinat_deploy.session.cuda.device import HostMemory

_ALIGNMENT = 256


class Buffers:
    """Memory by name that only grows.

    Attributes:
        generation: changes whenever an address does.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._on_device: dict[str, tuple[int, int]] = {}
        self._pinned: dict[str, HostMemory] = {}
        self._retired: list[int] = []
        self.generation = 0

    def device(self, name: str, size: int, *, in_use: bool = False) -> int:
        """Address of at least ``size`` bytes.

        Args:
            in_use: the former memory may be in use; it is freed by :meth:`free_retired`.
        """
        address, capacity = self._on_device.get(name, (0, 0))
        if size > capacity or not address:
            if in_use and address:
                self._retired.append(address)
            elif address:
                self._device.free(address)
            self._on_device.pop(name, None)
            rounded = -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT
            address = self._device.allocate(rounded)
            self._on_device[name] = (address, rounded)
            self.generation += 1
        return address

    def staging(self, name: str, size: int) -> HostMemory:
        """Host memory that copies go through: exactly ``size`` bytes, a part of a larger piece."""
        if name not in self._pinned or self._pinned[name].size < size:
            if name in self._pinned:
                self._device.free_pinned(self._pinned.pop(name))
            self._pinned[name] = self._device.allocate_pinned(max(size, 1))
        return self._pinned[name][:size]

    def host(self, name: str, size: int) -> HostMemory:
        """The same for a tensor that TensorRT itself reads or writes on the host."""
        before = self._pinned.get(name)
        memory = self.staging(name, size)
        if self._pinned[name] is not before:
            self.generation += 1
        return memory

    def fits(self, name: str, size: int) -> bool:
        """Whether :meth:`device` would leave the address as it is."""
        address, capacity = self._on_device.get(name, (0, 0))
        return bool(address) and size <= capacity

    def free_retired(self) -> None:
        while self._retired:
            self._device.free(self._retired.pop())

    def size(self, names: Iterable[str]) -> int:
        return sum(self._on_device[name][1] for name in names if name in self._on_device)

    def close(self) -> None:
        with suppress(CudaError):
            self.free_retired()
        for address, _ in self._on_device.values():
            with suppress(CudaError):
                self._device.free(address)
        for memory in self._pinned.values():
            with suppress(CudaError):
                self._device.free_pinned(memory)
        self._on_device.clear()
        self._pinned.clear()
