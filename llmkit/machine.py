"""What the machine says of itself, without torch: its memory, what is free of it within all limits, its packages."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path("/")

GLIBC_OPTIONS = {-4: 0, -1: 2**31 - 1, -2: 64 << 20}
"""mallopt: M_MMAP_MAX 0, M_TRIM_THRESHOLD as high as it goes, M_TOP_PAD 64 MiB."""

CGROUP_FILES = {
    2: ("memory.max", "memory.current", "inactive_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""By version of control groups: the files of the limit and of what is used, and what of that is cache to be dropped."""


class Memory(NamedTuple):
    """Bytes in all and free, within the limits of container and process; None where the system does not tell."""

    total: int | None
    available: int | None


def main_memory(root: Path = ROOT) -> Memory:
    """The memory that this process can have: the machine's, a container's limit, and `ulimit -v`.

    Args:
        root: Where /proc and /sys are.
    """
    info = dict(re.findall(r"^(\w+):\s+(\d+) kB$", read_text(root / "proc/meminfo"), re.MULTILINE))
    if "MemTotal" not in info:
        return Memory(physical_memory(), None)
    total, available = int(info["MemTotal"]) * 1024, int(info.get("MemAvailable", 0)) * 1024
    for limit, used in [*cgroup_limits(root), *address_space_limit(root)]:
        total, available = min(total, limit), min(available, max(0, limit - used))
    return Memory(total, available)


def physical_memory() -> int | None:
    """Bytes of memory in all, where there is no /proc."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def cgroup_limits(root: Path = ROOT) -> Iterator[tuple[int, int]]:
    """(limit, used) in bytes of each control group that this process is in, from its own to the outermost.

    Inside a container the path of /proc/self/cgroup may not be visible; the container's own group is the root then.
    """
    for line in read_text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        version, mount = (1, root / "sys/fs/cgroup/memory") if controllers else (2, root / "sys/fs/cgroup")
        limit_file, used_file, cache = CGROUP_FILES[version]
        own = Path(path.lstrip("/"))
        for folder in (mount / own, *(mount / parent for parent in own.parents)):
            limit, used = read_text(folder / limit_file).strip(), read_text(folder / used_file).strip()
            if limit.isdigit() and used.isdigit():
                spare = re.search(rf"^{cache} (\d+)$", read_text(folder / "memory.stat"), re.MULTILINE)
                yield int(limit), int(used) - (int(spare[1]) if spare else 0)


def address_space_limit(root: Path = ROOT) -> Iterator[tuple[int, int]]:
    """(limit, used) in bytes of the addresses of this process (`ulimit -v`), if there is a limit."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        yield limit, own_status("VmSize", root) or 0


def own_status(name: str, root: Path = ROOT) -> int | None:
    """A size of this process in bytes, by its name in /proc/self/status; None where there is no such file."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", read_text(root / "proc/self/status"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def peak_resident_bytes() -> int:
    """The most memory that this process has held so far."""
    # Linux counts a parent's peak into ru_maxrss of a process that was started from it: VmHWM is the process's own.
    peak = own_status("VmHWM")
    if peak is not None:
        return peak
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Give unused memory back to the system and let the peak begin again from what is held, where that can be done."""
    gc.collect()
    if is_glibc():
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def is_glibc() -> bool:
    """Whether memory comes from the allocator of GNU's C library."""
    return "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})


def keep_freed_memory() -> bool:
    """Let glibc keep freed memory for what comes next; call it once, early. Returns whether this is glibc.

    Every step makes and frees blocks of tens of megabytes. By default glibc gives each of them back to the system,
    which hands out zeroed pages again: with a vocabulary of 32,768 that was a quarter of a training step.
    """
    if not is_glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(option, value) == 1 for option, value in GLIBC_OPTIONS.items())


def read_text(path: Path) -> str:
    """A file of the system, or nothing where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def installed_version(package: str) -> str | None:
    """The version of an installed package, from its metadata alone: nothing is imported."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
