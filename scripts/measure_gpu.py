#!/usr/bin/env python3
"""How fast a GPU is, beside the processor of the same machine: one command, a report in Markdown.

    scripts/measure_gpu.py [--device gpu] [--shapes 1B,3B,7B] [--types Q4_0,Q4_K,Q8_0,F16]
        [-p 512] [-n 64] [-r 20] [--cpu-r 3] [--folder DIR] [--minerva PATH --synthesize PATH]

Builds what it needs with cargo, unless it is told where it is. First every kernel is held against the
reference; then come copies, the matrix products of a 7B model, and prefill and decode of SmolLM2 and of
models of the shapes, whose weights are random and made on the spot. A model needs its size on the disk,
one after the other (7B in F16: 13.5 GB), and as much memory; `--shapes tiny --kernel-shape tiny` tries
it out. Nothing else should run. What fails, such as a model that does not fit, is a line of the table;
where it is the selftest, the status is 1 once all is printed.
"""
import argparse
import datetime
import json
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import machine

ROOT = Path(__file__).resolve().parent.parent


def run(command, may_fail=False):
    print("+", *command, file=sys.stderr)
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0 and not may_fail:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    return done


def build():
    subprocess.run(["cargo", "build", "--release", "-p", "minerva"], cwd=ROOT, check=True)
    subprocess.run(["cargo", "build", "--release", "-p", "minerva-engine", "--example", "synthesize"], cwd=ROOT, check=True)


def describe(a):
    devices = json.loads(run([a.minerva, "devices", "--format", "json"]).stdout)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    print(f"## {datetime.date.today()}, {platform.system()} {platform.release()}, {platform.machine()}\n")
    print(f"* Minerva {run([a.minerva, '--version']).stdout.split()[-1]} {commit}".rstrip())
    print(f"* {machine.processor()}; {devices['cpu']}")
    for gpu in devices["gpus"]:
        memory = f"{gpu['memory_bytes'] / 2**30:.1f} GiB" if gpu["memory_bytes"] else "memory unknown"
        how = gpu["error"] or f"adds up by {gpu['reduction']}, multiplies by {gpu['dots']} and in {gpu['multiplication']}"
        print(f"* {gpu['name']}, {gpu['interface']}, {gpu['kind']}, {gpu['driver']}, {memory}, {how}")
    print()


def cases(a):
    """Whether every kernel gives what the reference gives."""
    done = run([a.minerva, "selftest", "--device", a.device], may_fail=True)
    print("### Results\n")
    for line in done.stdout.splitlines():
        if "FAILED" in line or re.match(r"\d+ cases", line):
            print(f"Against the reference: {line.strip()}.\n")
    if done.returncode != 0:
        print(f"It failed: {done.stderr.strip()[-500:] or f'status {done.returncode}'}\n")
    return done.returncode == 0


def kernels(a):
    done = run([a.minerva, "selftest", "--device", a.device, f"--speed={','.join(a.types)}", "--speed-only", "--speed-shape", a.kernel_shape], may_fail=True)
    print("### Kernels\n")
    copied = re.search(r"^copy .*: ([\d.]+) GB/s", done.stdout, re.M)
    if not copied:
        print(f"No speed: {(done.stderr or done.stdout).strip()[-500:]}\n")
        return
    print(f"A large copy reads and writes {float(copied[1]):.4g} GB/s. Matrices of {a.kernel_shape}:\n")
    print("| type | matrices | MB | one token, GB/s | share of a copy of as many bytes | 512 tokens, TFLOP/s |\n|---|---|--:|--:|--:|--:|")
    rows = re.findall(r"^(\w+) +(\S.*?) +\d+ +\d+ +([\d.]+) +(\S+) +(\S+) +(\S+)$", done.stdout, re.M)
    for dtype, name, megabytes, read, copied, operations in rows:
        share = float(read) / float(copied)
        print(f"| {dtype} | {name} | {megabytes} | {float(read):.4g} | {share:.0%} | {float(operations) / 1e3:.4g} |")
    if done.returncode != 0:
        print(f"\nThen it ended: {done.stderr.strip()[-500:]}")
    print()


def bench(a, model, device, repetitions):
    """Tokens per second of prefill and decode, or why there are none."""
    done = run([a.minerva, "bench", model, "-p", a.p, "-n", a.n, "-r", repetitions, "--device", device, "--format", "json"], may_fail=True)
    if done.returncode != 0:
        return done.stderr.strip().splitlines()[-1][:120]
    tests = json.loads(done.stdout)
    median = lambda of: next(statistics.median(t["samples_ts"]) for t in tests if t[of])
    return median("n_prompt"), median("n_gen")


def row(a, name, model, is_compared=True):
    gpu = bench(a, model, a.device, a.r)
    cpu = bench(a, model, "cpu", a.cpu_r) if is_compared else None
    if cpu is None and not isinstance(gpu, str):
        print(f"| {name} | {gpu[0]:.1f} | | | {gpu[1]:.1f} | | |", flush=True)
        return
    if isinstance(gpu, str) or isinstance(cpu, str):
        print(f"| {name} | {gpu if isinstance(gpu, str) else cpu} | | | | | |", flush=True)
        return
    cells = [f"{g:.1f} | {c:.1f} | {g / c:.2f}" for g, c in zip(gpu, cpu)]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def models(a):
    print(f"### Models\n\nTokens per second, medians, prefill of {a.p} and decode of {a.n}, GPU and CPU.\n")
    print("| model | prefill GPU | CPU | ratio | decode GPU | CPU | ratio |\n|---|--:|--:|--:|--:|--:|--:|")
    if a.model:
        if not Path(a.model).is_file():
            run([a.minerva, "pull", a.model])
        row(a, a.model, a.model)
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        for shape in a.shapes:
            for dtype in a.types:
                model = Path(folder) / f"{shape}-{dtype}.gguf"
                run([a.synthesize, shape, dtype, model])
                row(a, f"{shape} {dtype}", model, dtype in (a.cpu_types or a.types))
                model.unlink()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = lambda text: text.split(",")
    parser.add_argument("--device", default="gpu", help="the GPU, or a part of its name")
    parser.add_argument("--shapes", type=names, default=["1B", "3B", "7B"])
    parser.add_argument("--kernel-shape", default="7B", help="the model whose matrices are measured: 7B or tiny")
    parser.add_argument("--types", type=names, default=["Q4_0", "Q4_K", "Q8_0", "F16"])
    parser.add_argument("--cpu-types", type=names, help="types that the processor is measured with, too; all by default")
    parser.add_argument("--parts", type=names, default=["cases", "kernels", "models"], help="what is measured")
    parser.add_argument("--model", default="smollm2", help="a real model, its name or its file; empty for none")
    parser.add_argument("-p", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("-n", type=int, default=64, help="tokens generated")
    parser.add_argument("-r", type=int, default=20, help="repetitions on the GPU, which may begin with slow clocks")
    parser.add_argument("--cpu-r", type=int, default=3, help="repetitions on the processor")
    parser.add_argument("--folder", help="where models are made; by default the system's folder for such")
    parser.add_argument("--minerva", type=Path, help="a binary that is built already")
    parser.add_argument("--synthesize", type=Path, help="the example synthesize, likewise")
    a = parser.parse_args()
    if not (a.minerva and a.synthesize):
        build()
        a.minerva = a.minerva or ROOT / "target/release/minerva"
        a.synthesize = a.synthesize or ROOT / "target/release/examples/synthesize"
    describe(a)
    is_right = cases(a) if "cases" in a.parts else True
    if "kernels" in a.parts:
        kernels(a)
    if "models" in a.parts:
        models(a)
    if not is_right:
        sys.exit("error: the selftest failed")


main()
