"""`llmkit doctor`: what this machine offers, and whether what is installed is sound."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from llmkit.commands.options import AsJson
from llmkit.console import format_table, paint, write, write_json
from llmkit.errors import CheckError

SECURITY = {
    "torch": ("2.10", "older ones run code hidden in weights (CVE-2025-32434, CVE-2026-24747)"),
    "transformers": ("5.5", "older ones run foreign code through config.json (CVE-2026-4372, CVE-2026-5241)"),
    "jinja2": ("3.1.6", "chat templates get out of the sandbox of older ones"),
}
"""The oldest versions without published vulnerabilities, and what those are. All other floors are the package's own."""

PYTHONS = ((3, 11), (3, 13))
"""The oldest and the newest Python that llmkit is tested with."""

LITTLE_DISK_GB = 2.0


def doctor(
    full: Annotated[
        bool, typer.Option("--full", help="Also import torch, ask it for its devices, and time matrix products.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show versions, devices, cores, memory and disk, and check what is installed. Exit code 3 when a check fails.

    \b
    Examples:
      llmkit doctor
      llmkit doctor --full
      llmkit doctor --json
    """
    from llmkit.machine import installed_version

    packages = list(list_packages())
    machine = describe_machine()
    found: dict[str, Any] = {
        "llmkit": installed_version("llmkit") or "not installed",
        "python": platform.python_version(),
        "packages": packages,
        "extras": list_extras(packages),
        **machine,
        "folders": describe_folders(),
    }
    if full:
        found["torch"] = try_torch()
    found["checks"] = list_checks(found)
    found["ok"] = all(check["ok"] for check in found["checks"])
    write_json(found) if as_json else show(found)
    if not found["ok"]:
        failed = [check for check in found["checks"] if not check["ok"]]
        message = "; ".join(f"{check['name']}: {check['found']}" for check in failed)
        raise CheckError(message, where="doctor", fix="; ".join(check["fix"] for check in failed))


def list_packages() -> Iterator[dict[str, Any]]:
    """The packages that llmkit asks for, with the version it needs and the one that is there."""
    from importlib import metadata

    from llmkit.machine import installed_version

    try:
        requirements = metadata.requires("llmkit") or []
    except metadata.PackageNotFoundError:
        # Run from a bare checkout: the floors that matter most are known here.
        requirements = [f"{name}>={version}" for name, (version, _) in SECURITY.items()]
    for requirement in requirements:
        match = re.match(r"([\w.-]+)\s*(?:\[[^]]*])?\s*(?:>=\s*([\w.]+))?", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)", requirement)
        if match and match[1] != "llmkit":
            yield {
                "name": match[1],
                "version": installed_version(match[1]),
                "needed": match[2],
                "extra": extra[1] if extra else None,
            }


def list_extras(packages: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each optional part: whether it is installed, and what it lacks."""
    names = sorted({package["extra"] for package in packages if package["extra"]})
    missing = {name: [p["name"] for p in packages if p["extra"] == name and p["version"] is None] for name in names}
    return {name: {"installed": not lacks, "missing": lacks} for name, lacks in missing.items()}


def numbers_of(version: str) -> tuple[int, ...]:
    """2.13.0+cpu as (2, 13, 0), without zeros at the end, so that 2.10 and 2.10.0 are the same."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def list_checks(found: dict[str, Any]) -> list[dict[str, Any]]:
    """What is checked, each with what was found and what to do where it is not as it must be."""
    python = tuple(int(part) for part in found["python"].split(".")[:2])
    fix = "make the environment with Python {}.{} to {}.{}".format(*PYTHONS[0], *PYTHONS[1])
    checks = [{"name": "python", "ok": PYTHONS[0] <= python <= PYTHONS[1], "found": found["python"], "fix": fix}]
    for package in found["packages"]:
        name, version, needed = package["name"], package["version"], package["needed"]
        if version is None and package["extra"] is None:
            checks.append(
                {"name": name, "ok": False, "found": "not installed", "fix": f"pip install '{name}>={needed}'"}
            )
        elif version is not None and needed is not None:
            is_ok = numbers_of(version) >= numbers_of(needed)
            why = f" ({SECURITY[name][1]})" if name in SECURITY and not is_ok else ""
            text = version if is_ok else f"{version} is below {needed}{why}"
            checks.append({"name": name, "ok": is_ok, "found": text, "fix": f"pip install -U '{name}>={needed}'"})
    if "error" in found.get("torch", {}):
        fix = "install torch anew, the build for this machine: https://pytorch.org/get-started"
        checks.append({"name": "torch works", "ok": False, "found": found["torch"]["error"], "fix": fix})
    free = found["disk"]["free_gb"]
    disk_fix = "make room: a checkpoint holds the weights three times over"
    checks.append({"name": "disk", "ok": free >= LITTLE_DISK_GB, "found": f"{free:.1f} GB free here", "fix": disk_fix})
    return checks


def describe_machine() -> dict[str, Any]:
    """Processor, memory, disk and accelerators, from what the system tells without torch."""
    total, available = memory_gb()
    disk = shutil.disk_usage(Path.cwd())
    return {
        "system": f"{platform.system()} {platform.release()}",
        "cpu": describe_cpu(),
        "memory": {"total_gb": total, "available_gb": available},
        "disk": {"path": str(Path.cwd()), "free_gb": round(disk.free / 1e9, 1), "total_gb": round(disk.total / 1e9, 1)},
        "gpus": list_gpus(),
    }


def describe_cpu() -> dict[str, Any]:
    """Name, cores that may be used, and whether it multiplies bf16 matrices in hardware."""
    info = read_text("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", info, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    quota = cpu_quota()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {
        "name": name[1] if name else platform.processor() or platform.machine(),
        "cores": cores if quota is None else min(cores, max(1, round(quota))),
        "bf16": bool(known & {"avx512_bf16", "amx_bf16", "bf16"}),
        "features": sorted(known & {"avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve", "bf16"}),
    }


def cpu_quota() -> float | None:
    """How many cores a container's limit leaves, or None without one."""
    quota, _, period = read_text("/sys/fs/cgroup/cpu.max").strip().partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def memory_gb() -> tuple[float | None, float | None]:
    """Memory in all and free, within all limits, in GB; None where the system does not tell."""
    from llmkit.machine import main_memory

    total, available = (size if size is None else round(size / 1e9, 1) for size in main_memory())
    return total, available


def list_gpus() -> list[dict[str, Any]]:
    """Graphics processors: NVIDIA's through their driver, Apple's by the machine."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return [{"name": "Apple silicon (MPS)", "memory_gb": memory_gb()[0]}]
    folder = Path("/proc/driver/nvidia/gpus")
    texts = [read_text(str(path / "information")) for path in folder.iterdir()] if folder.is_dir() else []
    names = [match[1].strip() for text in texts if (match := re.search(r"^Model:\s*(.+)$", text, re.MULTILINE))]
    return ask_nvidia() or [{"name": name, "memory_gb": None} for name in names]


def ask_nvidia() -> list[dict[str, Any]]:
    """What nvidia-smi says, where it is there and answers at once."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=0.7, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.rsplit(",", 1) for line in answer.splitlines() if line.count(",")]
    return [
        {"name": name.strip(), "memory_gb": round(float(mb) * 2**20 / 1e9, 1)} for name, mb in rows if is_number(mb)
    ]


def is_number(text: str) -> bool:
    """Whether nvidia-smi gave a number ([N/A] for memory that is shared)."""
    return text.strip().replace(".", "", 1).isdigit()


def describe_folders() -> list[dict[str, Any]]:
    """Where things that were downloaded or kept for later lie, and how much of the disk there is free."""
    import tempfile

    hub = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    folders = {"models and data of the hub": hub.expanduser(), "temporary files": Path(tempfile.gettempdir())}
    return [
        {"use": use, "path": str(path), "exists": path.is_dir(), "free_gb": free_gb(path)}
        for use, path in folders.items()
    ]


def free_gb(path: Path) -> float:
    """Free disk at the nearest folder above `path` that exists, in GB."""
    there = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.is_dir())
    return round(shutil.disk_usage(there).free / 1e9, 1)


def read_text(path: str) -> str:
    """A file of the system, or nothing where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def try_torch() -> dict[str, Any]:
    """What torch tells, or why it cannot be used."""
    try:
        return measure_torch()
    except (ImportError, OSError, RuntimeError) as error:
        return {"error": str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}


def measure_torch() -> dict[str, Any]:
    """What torch itself sees, and how fast it multiplies matrices here."""
    import torch

    from llmkit.device import has_bf16, measure_matrix_rate, pick_device

    device = pick_device()
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    speeds = {name: round(measure_matrix_rate(device, dtype) / 1e9, 1) for name, dtype in types.items()}
    return {
        "version": torch.__version__,
        "device": str(device),
        "devices": devices or [str(device)],
        "threads": torch.get_num_threads(),
        "bf16": has_bf16(device),
        "gflops": speeds,
    }


def show(found: dict[str, Any]) -> None:
    """The findings as tables for people."""
    cpu, memory, disk = found["cpu"], found["memory"], found["disk"]
    gpus = [f"{gpu['name']}" + (f", {gpu['memory_gb']} GB" if gpu["memory_gb"] else "") for gpu in found["gpus"]]
    rows = [
        ("llmkit", f"{found['llmkit']} on Python {found['python']} ({sys.executable})"),
        ("system", found["system"]),
        (
            "processor",
            f"{cpu['name']}, {cpu['cores']} cores, bf16 {'in hardware' if cpu['bf16'] else 'not in hardware'}",
        ),
        ("memory", f"{memory['available_gb']} GB free of {memory['total_gb']} GB"),
        ("disk", f"{disk['free_gb']} GB free of {disk['total_gb']} GB at {disk['path']}"),
        ("gpu", "; ".join(gpus) or "none"),
        *((folder["use"], f"{folder['path']}, {folder['free_gb']} GB free") for folder in found["folders"]),
    ]
    for name, extra in found["extras"].items():
        lacks = f"not installed: pip install 'llmkit[{name}]' ({', '.join(extra['missing'])})"
        rows.append((f"extra {name}", "installed" if extra["installed"] else lacks))
    if "gflops" in found.get("torch", {}):
        torch = found["torch"]
        speeds = ", ".join(f"{name} {speed:,.0f} GFLOP/s" for name, speed in torch["gflops"].items())
        rows.append(
            ("torch", f"{torch['version']} on {', '.join(torch['devices'])}, {torch['threads']} threads: {speeds}")
        )
    width = max(len(name) for name, _ in rows)
    write("\n".join(f"{name.ljust(width)}  {text}" for name, text in rows) + "\n")
    marks = {True: paint("ok", "green", stream=sys.stdout), False: paint("NO", "red", "bold", stream=sys.stdout)}
    write(format_table(["check", "", "found"], [[c["name"], marks[c["ok"]], c["found"]] for c in found["checks"]]))
