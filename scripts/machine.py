"""What this machine is, as far as the system tells; for the scripts that measure."""
import os
import platform
import re
import subprocess
from pathlib import Path


def read(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def processor():
    """The processor's name."""
    if platform.system() == "Darwin":
        return subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True).stdout.strip()
    names = re.findall(r"model name\s*:\s*(.*)", read("/proc/cpuinfo"))
    return names[0] if names else platform.processor() or platform.machine()


def logical_cpus():
    """Processors that this process may use, hyper-threads counted each."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def cores():
    """Physical cores that this process may use."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else []
    siblings = {read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in allowed} - {""}
    return min(len(siblings) or logical_cpus(), logical_cpus())


def describe():
    """Lines about processor, memory, system and what may disturb."""
    yield f"{processor()}, {cores()} cores, {logical_cpus()} logical processors for this process"
    memory = re.search(r"MemTotal:\s*(\d+) kB", read("/proc/meminfo"))
    pages = re.search(r"\[(\w+)\]", read("/sys/kernel/mm/transparent_hugepage/enabled"))
    governor = read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    details = [f"{int(memory[1]) / 2**20:.1f} GiB of memory" if memory else None,
               f"{platform.system()} {platform.release()}",
               f"huge pages: {pages[1]}" if pages else None,
               f"governor: {governor}" if governor else None]
    yield ", ".join(detail for detail in details if detail)
    if hasattr(os, "getloadavg"):
        yield f"load before: {os.getloadavg()[0]:.2f}"
