"""CUDA memory, streams, events and graphs, through whichever Python binding the machine has."""

from dinat_deploy.session.cuda.device import (
    BINDINGS,
    CudaError,
    Device,
    DeviceProperties,
    open_device,
)

__all__ = ["BINDINGS", "CudaError", "Device", "DeviceProperties", "open_device"]
