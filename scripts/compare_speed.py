#!/usr/bin/env python3
"""Minerva's speed beside llama.cpp's, on one file, in one run: prefill and decode.

    scripts/compare_speed.py MODEL.gguf --minerva target/release/minerva --llama-bench PATH \
        [-p 512] [-n 128] [-d 0] [-t THREADS] [--rounds 5]

The two programs take turns, so that what else the machine does meets both alike; the figures are
medians over the rounds, with the lowest and the highest behind them. Prints a Markdown table.
"""
import argparse
import json
import statistics
import subprocess


def run(command):
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--minerva", default="target/release/minerva")
    parser.add_argument("--llama-bench", required=True)
    parser.add_argument("-p", type=int, default=512, help="tokens of the prompt")
    parser.add_argument("-n", type=int, default=128, help="tokens generated")
    parser.add_argument("-d", type=int, default=0, help="tokens in the cache before")
    parser.add_argument("-t", type=int, help="threads of both; by default each program's own choice")
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()

    shape = ["-p", str(a.p), "-n", str(a.n), "-d", str(a.d), "-r", "1"]
    if a.t:
        shape += ["-t", str(a.t)]
    commands = {
        "Minerva": [a.minerva, "bench", a.model, *shape, "--format", "json"],
        "llama.cpp": [a.llama_bench, "-m", a.model, *shape, "-o", "json"],
    }
    samples = {}
    for _ in range(a.rounds):
        for program, command in commands.items():
            for test in run(command):
                key = (test["n_prompt"], test["n_gen"], test["n_depth"])
                samples.setdefault(key, {}).setdefault(program, []).append(test["avg_ts"])

    print("| test | Minerva tok/s | llama.cpp tok/s | ratio |\n|---|---|---|---|")
    for (n_prompt, n_gen, n_depth), by_program in samples.items():
        name = f"prefill {n_prompt}" if n_prompt else f"decode {n_gen}"
        name += f" at depth {n_depth}" if n_depth else ""
        shown, medians = [], []
        for program in commands:
            values = by_program[program]
            medians.append(statistics.median(values))
            shown.append(f"{medians[-1]:.1f} ({min(values):.1f} to {max(values):.1f})")
        print(f"| {name} | {shown[0]} | {shown[1]} | {medians[0] / medians[1]:.2f} |")


main()
