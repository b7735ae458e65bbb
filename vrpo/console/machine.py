"""Whether this machine has what a command is to run on; in a moment, without torch, whose import takes seconds."""

from __future__ import annotations

import ctypes
import os
import sys
from importlib.metadata import version

from vrpo.config import RuntimeConfig
from vrpo.errors import UserError


def check_machine(runtime: RuntimeConfig) -> None:
    """Stop a run for which this machine lacks the device or the CPUs.

    Raises:
        UserError: naming what there is.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if runtime.threads > cpus:
        raise UserError(f"runtime.threads = {runtime.threads}: more than the CPUs that this process may use, {cpus}; use 1 to {cpus}")
    if lacking := lacking_device(runtime.device):
        raise UserError(f"runtime.device = {runtime.device!r}: {lacking}")


def lacking_device(device: str) -> str | None:
    """What this machine has instead of cpu, cuda or cuda:N; None where it has the device."""
    if device == "cpu":
        return None
    count, index = _cuda_devices(), int(device.partition(":")[2] or 0)
    if index < count:
        return None
    others = f" or cuda:0 to cuda:{count - 1}" * bool(count)
    return f"{count} CUDA device{'s' * (count != 1)} here, with torch {version('torch')}; use cpu{others}"


def _cuda_devices() -> int:
    """Devices that torch would find, asked of the driver."""
    if version("torch").endswith("+cpu"):
        return 0
    if "+rocm" in version("torch"):  # devices of another driver, which torch calls cuda too
        import torch

        return torch.cuda.device_count()
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    return 0 if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) else count.value
