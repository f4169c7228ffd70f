#!/usr/bin/env python3
"""Minerva's speed beside llama.cpp's, in one run on one machine: one command, a report in Markdown.

    scripts/compare_speed.py MODEL… --llama-bin FOLDER [--tests prefill,decode,depth,parallel,busy,start]
        [-p 512] [-n 64] [-d 4096] [--prompt TEXT] [--parallel 4,16] [-t THREADS] [--rounds 5]
        [--folder DIR] [--minerva PATH] [--synthesize PATH]

A MODEL is a GGUF file, or SHAPE:TYPE such as 1B:Q4_K: random weights in the shape of a real model (tiny, 1B,
3B or 7B), which the example `synthesize` writes to the folder, and which is removed when it has been measured.
FOLDER has llama-bench, llama-batched-bench and llama-completion.

* prefill: a prompt of -p tokens. decode: -n tokens. depth: a prompt of 128 and -n tokens after -d others.
* parallel: -n tokens of each of so many sequences together, after 128 each; tokens per second of all.
* busy: decode while two other processes keep a processor busy each.
* start: from the start of a process to the first byte of its answer, and the most memory that a process takes
  which reads a short prompt and answers with -n tokens, in a context of 2048.

The two programs take turns, and who begins changes from round to round, so that what else the machine does
meets both alike. Figures are medians over the rounds, with the lowest and the highest. Each program chooses its
threads, unless -t says how many; for llama.cpp several numbers of threads, each with flash attention on and
off, are tried for each test first, and the fastest are measured; weights are not repacked where all that fails.
Nothing else should run.
"""
import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import machine

ROOT = Path(__file__).resolve().parent.parent
# Tokens before those that are decoded together: llama-batched-bench wants some.
PARALLEL_DEPTH = 128
# A prompt of a test at a depth, which is not the place to measure long ones.
DEPTH_PROMPT = 128
PROMPT = "Once upon a time there was a machine that could read and write, and it lived in a small house"


class Failed(Exception):
    """A program failed; the text says how."""


def run(command):
    """What a program says on standard output."""
    command = [str(word) for word in command]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise failed(command, done.returncode, done.stderr)
    return done.stdout


def failed(command, status, log):
    """What is said of a program that failed: its signal, or its last line."""
    how = f"signal {-status}" if status < 0 else (log.strip() or f"exit status {status}").splitlines()[-1][:200]
    return Failed(f"{Path(command[0]).name}: {how}")


class Busy:
    """So many other processes that compute, while the block runs."""

    def __init__(self, n):
        self.n = n

    def __enter__(self):
        self.processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(self.n)]

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()


def bench(test):
    """The options that both programs' `bench` have, of one test."""
    return ["-p", test.get("prompt", 0), "-n", test.get("generate", 0), "-d", test.get("depth", 0), "-r", 1]


def started(command):
    """Seconds to the first byte of an answer, and the most memory that the process took, in MiB."""
    command = [str(word) for word in command]
    with tempfile.TemporaryFile("w+") as log:
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log)
        process.stdout.read(1)
        seconds = time.perf_counter() - begin
        process.stdout.read()
        process.stdout.close()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            log.seek(0)
            raise failed(command, process.returncode, log.read())
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {"ms": seconds * 1e3, "MiB": usage.ru_maxrss / unit}


class Minerva:
    name = "Minerva"

    def __init__(self, a):
        self.program = a.minerva
        self.threads = ["-t", a.t] if a.t else []
        self.options = ["--weights", a.weights, "--batches", a.batches]

    def candidates(self):
        return [[{}]]

    def measure(self, model, test, chosen):
        if test["kind"] == "start":
            return started([self.program, "run", model, "--raw", test["text"], "-c", 2048, "-n", test["generate"],
                            "--temperature", 0, *self.options, *self.threads])
        options = bench(test) + (["-b", test["parallel"]] if test["kind"] == "parallel" else [])
        [result] = json.loads(run([self.program, "bench", model, *options, *self.options, *self.threads, "--format", "json"]))
        return {"tok/s": result["avg_ts"]}


class LlamaCpp:
    name = "llama.cpp"

    def __init__(self, a):
        self.folder = a.llama_bin
        cores, logical = machine.cores(), machine.logical_cpus()
        self.threads = [a.t] if a.t else sorted({max(1, cores // 2), cores, logical})

    def candidates(self):
        # Weights that are not repacked are for machines on which a kernel for repacked ones fails.
        return [[{"threads": threads, "fa": fa, "repack": repack} for threads in self.threads for fa in ("on", "off")]
                for repack in (True, False)]

    def measure(self, model, test, chosen):
        common = ["-m", model, "-t", chosen["threads"], "-fa", chosen["fa"]]
        not_repacked = [] if chosen["repack"] else ["--no-repack"]
        if test["kind"] == "start":
            return started([self.folder / "llama-completion", *common, *not_repacked, "-p", test["text"], "-c", 2048, "-n", test["generate"],
                            "--temp", 0, "-no-cnv", "--no-display-prompt", "--no-warmup"])
        if test["kind"] == "parallel":
            n = test["parallel"]
            shape = ["-npp", PARALLEL_DEPTH, "-ntg", test["generate"], "-npl", n, "-tb", chosen["threads"]]
            # Room is reserved for whole sequences, each in multiples of 256.
            room = -(-(PARALLEL_DEPTH + test["generate"]) // 256) * 256 * n
            command = [self.folder / "llama-batched-bench", *common, *not_repacked, *shape, "-c", room]
            lines = run([*command, "--output-format", "jsonl"])
            results = [json.loads(line) for line in lines.splitlines() if line.startswith("{")]
            if len(results) != 1:
                raise Failed(f"llama-batched-bench: {len(results)} results, expected 1")
            return {"tok/s": results[0]["speed_tg"]}
        [result] = json.loads(run([self.folder / "llama-bench", *common, *bench(test),
                                "--repack", int(chosen["repack"]), "-o", "json"]))
        return {"tok/s": result["avg_ts"]}


def tests(a):
    """The tests that were asked for, each with its name."""
    for kind in a.tests:
        if kind == "prefill":
            yield {"kind": kind, "name": f"prefill {a.p}", "prompt": a.p}
        elif kind == "decode":
            yield {"kind": kind, "name": f"decode {a.n}", "generate": a.n}
        elif kind == "depth":
            name = f"prefill {DEPTH_PROMPT} at depth {a.d}"
            yield {"kind": kind, "name": name, "prompt": DEPTH_PROMPT, "depth": a.d}
            yield {"kind": kind, "name": f"decode {a.n} at depth {a.d}", "generate": a.n, "depth": a.d}
        elif kind == "parallel":
            for n in a.parallel:
                name = f"decode {a.n}, {n} sequences"
                yield {"kind": kind, "name": name, "generate": a.n, "parallel": n, "depth": PARALLEL_DEPTH}
        elif kind == "busy":
            yield {"kind": kind, "name": f"decode {a.n} on a busy machine", "generate": a.n, "busy": 2}
        elif kind == "start":
            yield {"kind": kind, "name": f"start, and decode {a.n}", "generate": a.n, "text": a.prompt}
        else:
            sys.exit(f"error: test {kind!r}, expected prefill, decode, depth, parallel, busy or start")


def choose(program, model, test):
    """The settings with which a program is fastest, each tried once; those that fail only where all do."""
    error = None
    for candidates in program.candidates():
        if len(candidates) == 1:
            return candidates[0]
        speeds = []
        for candidate in candidates:
            try:
                result = program.measure(model, test, candidate)
                speeds.append((result.get("tok/s") or 1 / result["ms"], candidate))
            except Failed as reason:
                error = reason
        if speeds:
            return max(speeds, key=lambda pair: pair[0])[1]
    raise error


def compare(a, programs, model, test):
    """Rows of the table."""
    with Busy(test.get("busy", 0)):
        chosen = [choose(program, model, test) for program in programs]
        samples = [[], []]
        for round_ in range(a.rounds):
            for i in (0, 1) if round_ % 2 == 0 else (1, 0):
                samples[i].append(programs[i].measure(model, test, chosen[i]))
    settings = f"{chosen[1]['threads']} threads, flash attention {chosen[1]['fa']}"
    settings += "" if chosen[1]["repack"] else ", not repacked, which failed"
    for unit in samples[0][0]:
        values = [[sample[unit] for sample in samples[i]] for i in (0, 1)]
        shown = [f"{figure(statistics.median(v))} ({figure(min(v))} to {figure(max(v))})" for v in values]
        ratio = statistics.median(values[0]) / statistics.median(values[1])
        name = {"tok/s": test["name"], "ms": "start to first token", "MiB": "most memory"}[unit]
        yield f"| {name} | {unit} | {shown[0]} | {shown[1]} | {ratio:.2f} | {settings} |"


def figure(value):
    """Three digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def header(a):
    print(f"## {datetime.date.today()}, {machine.processor()}\n")
    for line in machine.describe():
        print(f"* {line}")
    try:
        [limits] = json.loads(run([a.minerva, "bench", "--roofline", *(["-t", a.t] if a.t else []), "--format", "json"]))
        peak = next(peak for peak in limits["peaks"] if peak["isa"] == limits["isa"])
        print(f"* {limits['n_threads']} threads read {limits['read_bytes_per_s'] / 1e9:.1f} GB/s and compute"
              f" {peak['int8_operations_per_s'] / 1e9:.0f} int8 GOPS, {peak['f32_operations_per_s'] / 1e9:.0f} GFLOPS ({limits['isa']})")
    except Failed as error:
        print(f"* no roofline: {error}")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    print(f"* Minerva {run([a.minerva, '--version']).split()[-1]} {commit}")
    done = subprocess.run([a.llama_bin / "llama-completion", "--version"], capture_output=True, text=True)
    version = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("version")]
    print(f"* llama.cpp {version[0].removeprefix('version:').strip() if version else 'of unknown version'}")
    print(f"* {a.rounds} rounds; medians (lowest to highest); ratios over 1 are in Minerva's favor for tok/s, below 1 for ms and MiB", flush=True)


def build(a):
    """Builds what was not said to be somewhere."""
    if not a.minerva:
        subprocess.run(["cargo", "build", "--release", "-p", "minerva"], cwd=ROOT, check=True)
        a.minerva = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/minerva"
    if not a.synthesize and any(not Path(model).exists() for model in a.models):
        subprocess.run(["cargo", "build", "--release", "-p", "minerva-engine", "--example", "synthesize"], cwd=ROOT, check=True)
        a.synthesize = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/examples/synthesize"


def main():
    names = lambda text: text.split(",")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="a file, or SHAPE:TYPE")
    parser.add_argument("--llama-bin", type=Path, required=True, help="the folder of llama.cpp's programs")
    parser.add_argument("--tests", type=names, default=["prefill", "decode", "depth", "parallel", "busy", "start"])
    parser.add_argument("-p", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("-n", type=int, default=64, help="tokens decoded")
    parser.add_argument("-d", type=int, default=4096, help="tokens in the cache before, for the test depth")
    parser.add_argument("--prompt", default=PROMPT, help="what the test start reads")
    parser.add_argument("--parallel", type=lambda text: [int(n) for n in text.split(",")], default=[4, 16])
    parser.add_argument("-t", type=int, help="threads of both; by default each program's best")
    parser.add_argument("--weights", choices=["mapped", "copied"], default="mapped", help="where Minerva reads them")
    parser.add_argument("--batches", choices=["exact", "fast"], default="exact", help="how Minerva computes many tokens")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where models are made; by default the system's folder for such")
    parser.add_argument("--minerva", type=Path, help="a binary that is built already")
    parser.add_argument("--synthesize", type=Path, help="the example synthesize, likewise")
    a = parser.parse_args()
    for model in a.models:
        if not Path(model).exists() and model.count(":") != 1:
            sys.exit(f"error: {model}: no such file, and not SHAPE:TYPE")
    all_tests = list(tests(a))
    build(a)
    header(a)
    programs, has_failed = [Minerva(a), LlamaCpp(a)], False
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        for name in a.models:
            model, is_made = Path(name), not Path(name).exists()
            print(f"\n### {model.name}\n\n| test | unit | Minerva | llama.cpp | ratio | llama.cpp's settings |")
            print("|---|---|--:|--:|--:|---|", flush=True)
            try:
                if is_made:
                    shape, dtype = name.split(":")
                    model = Path(folder) / f"{shape}-{dtype}.gguf"
                    run([a.synthesize, shape, dtype, model])
                for test in all_tests:
                    try:
                        for row in compare(a, programs, model, test):
                            print(row, flush=True)
                    except Failed as error:
                        has_failed = True
                        print(f"| {test['name']} | failed: {error} | | | | |", flush=True)
            except Failed as error:
                has_failed = True
                print(f"| | failed: {error} | | | | |", flush=True)
            if is_made:
                model.unlink(missing_ok=True)
    sys.exit(1 if has_failed else 0)


main()
