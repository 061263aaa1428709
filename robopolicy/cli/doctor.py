"""Say in words what this machine has, what it lacks, and how to mend that.

Checks Python and package versions, torch's device and threads, cores, memory, disk, off-screen rendering (by really
rendering), compiler and cmake. Exit code 1 when something that is needed is missing.

Options:
  --choose-gl   print only the value that MUJOCO_GL should have on this machine

Examples:
  robopolicy doctor
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from robopolicy import __version__
from robopolicy.cli.arguments import flags
from robopolicy.cli.graphics import choose_backend
from robopolicy.sim.gl import DEBIAN_PACKAGES

__all__ = ["Finding", "examine", "run"]

PACKAGES = ("numpy", "torch", "torchvision", "diffusers", "accelerate", "robomimic", "safetensors", "zarr", "mujoco")
PACKAGES_2 = ("gymnasium", "hydra-core", "omegaconf", "PyYAML", "pillow", "tensorboard", "rich", "scipy")
DISK_WANTED_GB = 5.0
MEMORY_WANTED_GB = 4.0


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: What was looked at.
        text: What was found.
        mend: What to do about it, empty when all is well.
        needed: Whether nothing works without it.
    """

    topic: str
    text: str
    mend: str = ""
    needed: bool = True

    @property
    def mark(self) -> str:
        """``ok``, ``note`` or ``MISSING``."""
        return "ok" if not self.mend else "MISSING" if self.needed else "note"


def run(argv: Sequence[str]) -> int:
    """Print the findings.

    Returns:
        0, or 1 when something needed is missing.
    """
    if "choose-gl" in flags(argv, ("choose-gl",)):
        chosen, tried = choose_backend()
        if chosen is None:
            print("\n".join(f"{t.backend}: {t.detail}" for t in tried), file=sys.stderr)
            return 1
        print(chosen.backend)
        return 0
    missing = 0
    for check in CHECKS:
        for finding in check():
            missing += finding.mark == "MISSING"
            print(f"{finding.mark:<8}{finding.topic:<12}{finding.text}", flush=True)
            if finding.mend:
                print(f"{'':<20}-> {finding.mend}", flush=True)
    print("\nready" if not missing else f"\n{missing} thing(s) missing; the lines with -> say what to do")
    return 1 if missing else 0


def examine() -> list[Finding]:
    """All findings, in the order in which they are shown."""
    return [finding for check in CHECKS for finding in check()]


def _python() -> list[Finding]:
    text = f"{platform.python_version()} at {sys.executable}"
    mend = "" if sys.version_info >= (3, 11) else "install Python 3.11 or newer and run make setup again"
    return [
        Finding("robopolicy", f"{__version__} at {Path(__file__).parents[1]}"),
        Finding("system", f"{platform.system()} {platform.release()}, {platform.machine()}"),
        Finding("python", text, mend),
    ]


def _packages() -> list[Finding]:
    versions, absent = [], []
    for name in (*PACKAGES, *PACKAGES_2):
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            absent.append(name)
    found = [Finding("packages", ", ".join(versions))]
    if absent:
        found.append(Finding("packages", f"not installed: {', '.join(absent)}", f"pip install {' '.join(absent)}"))
    return found


def _torch() -> list[Finding]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [Finding("torch", f"cannot be imported: {error}", "pip install --force-reinstall torch torchvision")]
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        device = f"cuda ({', '.join(names)})"
    elif torch.backends.mps.is_available():
        device = "mps"
    else:
        device = "cpu (no CUDA device seen)"
    threads = os.environ.get("OMP_NUM_THREADS")
    why = f"OMP_NUM_THREADS={threads}" if threads else "torch's default; OMP_NUM_THREADS sets it"
    return [Finding("torch", f"device {device}; {torch.get_num_threads()} threads ({why})")]


def _machine() -> list[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    found = [Finding("cores", f"{cores} usable of {os.cpu_count()}")]
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 1e9
        mend = "" if total >= MEMORY_WANTED_GB else f"training wants {MEMORY_WANTED_GB:g} GB; use fewer workers"
        found.append(Finding("memory", f"{total:.1f} GB, {free:.1f} GB free", mend, needed=False))
    except (ValueError, OSError):
        found.append(Finding("memory", "size unknown on this system"))
    free = shutil.disk_usage(".").free / 1e9
    mend = (
        "" if free >= DISK_WANTED_GB else f"free some space: {DISK_WANTED_GB:g} GB are wanted for data and checkpoints"
    )
    found.append(Finding("disk", f"{free:.1f} GB free in {Path.cwd()}", mend, needed=False))
    shared = Path("/dev/shm")
    if sys.platform == "linux":
        fine = shared.is_dir() and os.access(shared, os.W_OK)
        size = f"{shutil.disk_usage(shared).free / 1e6:.0f} MB free" if fine else "not writable"
        found.append(Finding("shm", f"/dev/shm {size}", "" if fine else "deploy needs it: mount tmpfs on /dev/shm"))
    return found


def _graphics() -> list[Finding]:
    chosen, tried = choose_backend()
    refused = "; ".join(f"{t.backend} does not work: {t.detail}" for t in tried if not t.works)
    if chosen is None:
        mend = f"sudo apt-get install {' '.join(DEBIAN_PACKAGES)}   (Debian, Ubuntu; elsewhere Mesa's EGL)"
        return [Finding("GL", f"no backend renders; {refused}", mend)]
    wished = os.environ.get("MUJOCO_GL", "").lower()
    if wished and wished != chosen.backend:
        mend = f"unset MUJOCO_GL or set MUJOCO_GL={chosen.backend}"
        return [Finding("GL", f"MUJOCO_GL={wished} is set; {refused}; {chosen.backend} works", mend)]
    why = "MUJOCO_GL asks for it, and it renders" if wished else "the first of egl, osmesa that rendered a picture"
    found = [Finding("GL", f"{chosen.backend} on {chosen.detail}: {why}{'; ' + refused if refused else ''}")]
    if "llvmpipe" in chosen.detail and os.environ.get("LP_NUM_THREADS") != "1":
        found.append(Finding("GL", "software rendering", "LP_NUM_THREADS=1 is faster for small pictures", needed=False))
    return found


def _tools() -> list[Finding]:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    mend = "only needed to install: sudo apt-get install g++ make"
    found = [Finding("compiler", compiler or "none found", "" if compiler else mend, needed=False)]
    mend = "install a C compiler and Python's headers, then pip install robopolicy again"
    from robopolicy.control.native import CONTROL_CORE

    slow = CONTROL_CORE == "python"
    how = "in Python: the same, twenty times slower" if slow else "compiled"
    found.append(Finding("control", f"tick {how}", mend if slow else "", needed=False))
    if importlib.util.find_spec("torch") is not None:
        from robopolicy.models.norm_mish import compiled

        how = "in tensor operations: the same, slower" if compiled is None else "compiled"
        found.append(
            Finding(
                "networks", f"group norm of the U-Net on CPUs {how}", mend if compiled is None else "", needed=False
            )
        )
    cmake = shutil.which("cmake")
    mend = "only needed to install: pip install 'cmake<4', as make setup does by itself"
    found.append(Finding("cmake", cmake or "none found", "" if cmake else mend, needed=False))
    return found


CHECKS: tuple[Callable[[], list[Finding]], ...] = (_python, _packages, _machine, _torch, _graphics, _tools)
