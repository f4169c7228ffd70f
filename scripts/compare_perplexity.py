#!/usr/bin/env python3
"""Minerva's perplexity beside llama.cpp's, on one model quantized again into every type that fits it.

    scripts/compare_perplexity.py MODEL.gguf TEXT --llama-bin FOLDER [--minerva PROGRAM]
        [-c 256] [--chunks 4] [--types Q4_0,Q8_0,...]

FOLDER has llama-quantize and llama-perplexity. A file is named by the type that llama-quantize is asked
for; where a row of a tensor is no multiple of the type's block, it takes another type for that tensor.
Types that want an importance matrix get a flat one. Prints a Markdown table; the last column is the
difference of the logarithms (mean negative log-probability), positive where Minerva's is higher, with its
standard error. Both score the same tokens, so the error is that of the chunks' differences, which is far
smaller than that of either perplexity. The exit status is 1 where one is above --tolerance.

Needs numpy and gguf.
"""
import argparse
import math
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from quantize import quantize

TYPES = (
    "F32 F16 BF16 Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S Q4_1 Q4_0 IQ4_NL IQ4_XS Q3_K_L Q3_K_M Q3_K_S IQ3_M "
    "IQ3_S IQ3_XS IQ3_XXS Q2_K Q2_K_S IQ2_M IQ2_S IQ2_XS IQ2_XXS IQ1_M IQ1_S Q2_0 Q1_0 TQ2_0 TQ1_0"
).split()


def log_perplexities(command, n_chunks):
    """The mean negative log-probability of each chunk; both print the perplexity up to each."""
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.findall(r"\[\d+\]([\d.]+),", done.stdout)
    if done.returncode or len(found) != n_chunks:
        sys.exit(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stderr[-1500:]}")
    sums = [i * math.log(float(perplexity)) for i, perplexity in enumerate(found, 1)]
    return [after - before for before, after in zip([0.0, *sums], sums)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--llama-bin", type=Path, required=True)
    parser.add_argument("--minerva", default="target/release/minerva")
    parser.add_argument("-c", type=int, default=256, help="tokens of a chunk")
    parser.add_argument("--chunks", type=int, default=4, help="at least two")
    parser.add_argument("--types", type=lambda names: names.split(","), default=TYPES)
    parser.add_argument("--tolerance", type=float, default=0.02, help="of the mean negative log-probability")
    a = parser.parse_args()

    shape = ["-c", str(a.c), "--chunks", str(a.chunks)]
    bad = 0
    print("| type | Minerva | llama.cpp | difference of log |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in a.types:
            path = Path(folder) / f"{name}.gguf"
            quantize(a.llama_bin / "llama-quantize", a.model, path, name, ["--allow-requantize"])
            ours = log_perplexities([a.minerva, "perplexity", path, a.text, *shape], a.chunks)
            theirs = log_perplexities([a.llama_bin / "llama-perplexity", "-m", path, "-f", a.text, *shape], a.chunks)
            differences = [x - y for x, y in zip(ours, theirs)]
            difference = statistics.mean(differences)
            error = statistics.stdev(differences) / math.sqrt(a.chunks)
            is_worse = difference > a.tolerance
            bad += is_worse
            mark = " FAIL" if is_worse else ""
            ours, theirs = (math.exp(statistics.mean(chunks)) for chunks in (ours, theirs))
            print(f"| {name} | {ours:.2f} | {theirs:.2f} | {difference:+.4f} ± {error:.4f}{mark} |", flush=True)
            for file in Path(folder).iterdir():
                file.unlink()
    sys.exit(1 if bad else 0)


main()
