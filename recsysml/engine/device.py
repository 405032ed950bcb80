"""The hardware a run uses, and how: device, precision, threads, determinism."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from recsysml.errors import ConfigError

PRECISIONS = ("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Machine:
    """A chosen device and precision, and what the loop asks of them."""

    device: torch.device
    precision: str  # fp32, bf16 or fp16

    @property
    def dtype(self) -> torch.dtype:
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]

    def autocast(self) -> AbstractContextManager:
        """Matrix products in the chosen precision; weights, sums and losses stay float32."""
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def synchronize(self) -> None:
        """Wait for the device: without it a clock measures how fast work is queued, not how fast it is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def peak_memory_bytes(self) -> int:
        """On a GPU the most its allocator held; else the most memory the process held."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def describe(self) -> dict[str, object]:
        """What results.json says of the hardware."""
        return {
            "device": device_name(self.device),
            "threads": torch.get_num_threads(),
            "precision": self.precision,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        }


def resolve_device(name: str) -> str:
    """`auto` -> cuda, mps or cpu, whichever is there first. Raises ConfigError for a device that is not there.

    Among several processes of torchrun every one has a GPU of its own, whatever `name` says: a resumed run's config
    names that of its first process.
    """
    kind, _, index = name.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"device={name}: choose auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"device={name}: this torch ({torch.__version__}) sees no GPU; device=cpu works")
        if "LOCAL_RANK" in os.environ and (not index or int(os.environ.get("WORLD_SIZE", "1")) > 1):
            index = os.environ["LOCAL_RANK"]
        if index and int(index) >= torch.cuda.device_count():
            raise ConfigError(f"device={name}: this machine has {torch.cuda.device_count()} GPU(s), counted from 0")
        return f"cuda:{index}" if index else "cuda"
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("device=mps: this torch sees no Apple GPU; device=cpu works")
    return kind


def resolve_precision(name: str, device: str) -> str:
    """`auto` -> bf16 where the hardware multiplies it, else fp32. Raises ConfigError for an unknown name."""
    if name == "auto":
        return "bf16" if bf16_is_fast(device) else "fp32"
    if name not in PRECISIONS:
        raise ConfigError(f"trainer.precision={name}: choose auto, {', '.join(PRECISIONS)}")
    return name


def bf16_is_fast(device: str) -> bool:
    """Whether the hardware has instructions that multiply bfloat16.

    Elsewhere torch emulates them: on a processor without them a bfloat16 product was measured 10 to 100 times slower.
    """
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.startswith("cpu") and bool(_cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"})


def prepare(
    device: str,
    precision: str,
    *,
    threads: int | None = None,
    deterministic: bool = False,
    keep_memory: bool = False,
) -> Machine:
    """Set the process up for `device` (resolved) and `precision` (resolved). Call it before the model is built.

    `threads`: CPU threads; None leaves torch's own choice (one a core). `deterministic`: torch refuses or replaces
    every operation whose result depends on the order of threads; see the note on reproducibility in torch's manual.
    `keep_memory`: on a CPU, see `keep_freed_memory`.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    chosen = torch.device(device)
    if chosen.type == "cuda":
        if deterministic:  # cuBLAS reads it when its first handle is made
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.cuda.set_device(chosen)
    # for eager code the same as use_deterministic_algorithms, which imports the compiler for a second or more
    torch.set_deterministic_debug_mode("error" if deterministic else "default")
    # NaNs written into every fresh buffer help to find reads of unset memory; they cost a pass over it
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if chosen.type == "cpu":
        torch.set_float32_matmul_precision(_cpu_float32_matmul())
        if keep_memory:
            keep_freed_memory()
    return Machine(chosen, precision)


def keep_freed_memory() -> bool:
    """Have the C library hold on to freed memory for the process's next allocation; whether it can (glibc only).

    Left alone, glibc takes every large tensor from the kernel and gives it back when it is freed, so a training step
    pays a page fault and a cleared page for every 4 KiB of its activations: a twentieth to a half of a step.
    The process's memory then never shrinks, which is what its peak already was.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return False
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(m_mmap_max, 0)) and bool(mallopt(m_trim_threshold, -1))


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "Apple GPU" if device.type == "mps" else _cpu_name()


def _cpu_float32_matmul() -> str:
    """`medium` if products stay exact to float32 under it, else `highest`.

    `medium` lets torch hand float32 products to oneDNN, measured twice as fast as MKL on AMD processors and exact
    there. It also allows bfloat16 inside, which some processors would use: so the answer is looked at, not assumed.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    torch.set_float32_matmul_precision("medium")
    error = ((a @ b).double() - exact).abs().max() / exact.abs().max()
    return "medium" if error < 1e-5 else "highest"


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return set()
    return {word for line in lines if line.startswith(("flags", "Features")) for word in line.split()}


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
