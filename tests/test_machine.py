"""What the machine says of its memory: limits of containers and of the process count."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmkit.machine import cgroup_limits, main_memory, peak_resident_bytes, physical_memory

GIB = 1 << 30


@pytest.fixture
def system(tmp_path):
    """A machine of 16 GiB, 8 of them free, whose /proc and /sys are written by `system(path, text)`."""

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        return tmp_path

    write("proc/meminfo", f"MemTotal:  {16 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable:  {8 * GIB // 1024} kB\n")
    return write


def test_without_limits_it_is_what_the_system_says(system, tmp_path):
    assert main_memory(tmp_path) == (16 * GIB, 8 * GIB)


def test_a_container_leaves_its_limit_less_what_is_used_but_for_the_cache(system):
    system("proc/self/cgroup", "0::/\n")
    system("sys/fs/cgroup/memory.max", f"{4 * GIB}\n")
    system("sys/fs/cgroup/memory.current", f"{3 * GIB}\n")
    root = system("sys/fs/cgroup/memory.stat", f"active_file 5\ninactive_file {GIB}\n")
    assert main_memory(root) == (4 * GIB, 2 * GIB)


def test_the_tightest_of_nested_groups_counts(system):
    system("proc/self/cgroup", "0::/user/job/step\n")
    for folder, limit in (("user/job/step", "max"), ("user/job", 2 * GIB), ("user", 4 * GIB)):
        system(f"sys/fs/cgroup/{folder}/memory.max", f"{limit}\n")
        root = system(f"sys/fs/cgroup/{folder}/memory.current", f"{GIB}\n")
    assert list(cgroup_limits(root)) == [(2 * GIB, GIB), (4 * GIB, GIB)]
    assert main_memory(root) == (2 * GIB, GIB)


def test_control_groups_of_the_first_version_count_too(system):
    system("proc/self/cgroup", "9:name=systemd:/\n4:memory:/of-the-host\n0::/\n")
    system("sys/fs/cgroup/memory/memory.limit_in_bytes", f"{4 * GIB}\n")
    system("sys/fs/cgroup/memory/memory.usage_in_bytes", f"{GIB}\n")
    root = system("sys/fs/cgroup/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 1024\n")
    assert main_memory(root) == (4 * GIB, 3 * GIB + 1024)


def test_a_group_that_holds_more_than_its_limit_leaves_nothing(system):
    system("proc/self/cgroup", "0::/\n")
    system("sys/fs/cgroup/memory.max", f"{GIB}\n")
    root = system("sys/fs/cgroup/memory.current", f"{2 * GIB}\n")
    assert main_memory(root).available == 0


def test_where_the_system_does_not_tell_only_the_total_is_known(tmp_path):
    assert main_memory(tmp_path) == (physical_memory(), None)


def in_new_process(code, *, limit=""):
    """What `code` prints in a Python of its own, under `ulimit` options."""
    command = ["bash", "-c", f'{limit} exec "$0" -c "$1"', sys.executable, code]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no limit of addresses")
def test_the_limit_of_addresses_counts():
    code = "from llmkit.machine import main_memory; print(*main_memory())"
    total, available = map(int, in_new_process(code, limit=f"ulimit -v {GIB // 1024};").split())
    assert total == GIB
    assert 0 < available < GIB


def test_the_peak_is_that_of_this_process_alone():
    block = bytearray(b"x") * (256 << 20)
    assert peak_resident_bytes() > len(block)
    code = "from llmkit.machine import peak_resident_bytes; print(peak_resident_bytes())"
    assert int(in_new_process(code)) < 128 << 20


COUNT_FAULTS = """
import resource
{first}
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(2): block = bytearray(b"x") * (32 << 20); del block
before = faults()
for _ in range(10): block = bytearray(b"x") * (32 << 20); del block
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have another malloc")
def test_memory_that_was_freed_is_used_again_without_asking_the_system():
    ask = "from llmkit.machine import keep_freed_memory; is_glibc = keep_freed_memory()"
    if in_new_process(f"{ask}; print(is_glibc)") == "False":
        pytest.skip("not glibc")
    usual, kept = (int(in_new_process(COUNT_FAULTS.format(first=first))) for first in ("", ask))
    # Ten blocks of 32 MiB in pages of 4 KiB: 81,920 faults, or fewer with huge pages; none when the block is kept.
    assert kept < usual / 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep the peak of a process for good")
def test_a_peak_that_is_forgotten_begins_again_from_what_is_held():
    code = (
        "from llmkit.machine import forget_peak, peak_resident_bytes\n"
        "block = bytearray(b'x') * (256 << 20); del block\n"
        "before = peak_resident_bytes(); forget_peak()\n"
        "print(before - peak_resident_bytes())"
    )
    assert int(in_new_process(code)) > 200 << 20
