#!/usr/bin/env python3
"""Compares log-probabilities of every architecture with llama.cpp's, on tiny random models.

    compare_families.py LLAMA_SERVER [--only TEXT] [--keep FOLDER]

LLAMA_SERVER is the program llama-server of llama.cpp (compared: b11434). The models, of f32 but for one,
are written by the example `families` of the crate minerva-engine: one or more of each architecture, with
and without biases, tied embeddings, rope factors, and so on. Both engines read the same file, keep
keys and values in f32, and are asked for the next token after prompts that are longer than the
models' windows, than the original context of rope scaling where there is one, and than a batch.
Shown is the largest difference among llama.cpp's 20 likeliest tokens, in Minerva's reference
backend and in its CPU backend. The exit status is 1 if one is above the tolerance.

gpt-oss is compared with experts of MXFP4 too, with which both engines multiply activations of 8 bits.
The reference backend, which does not, is held against what llama.cpp makes of the same values in a
file of f32. Both engines' distances from it on the file of MXFP4 are a line of their own: root mean
square, largest. Minerva's CPU backend may be away by 1.25 times as much as llama.cpp.

What llama.cpp reads otherwise, so that the files are made to leave it out:

* It has no reader for experts that are tensors of their own (dropped after the first Mixtral files);
  its numbers are those of the same experts in one tensor.
* It norms phimoe by the root mean square, where the model's authors have a layer norm
  (https://huggingface.co/microsoft/Phi-3.5-MoE-instruct). The compared files add to the stream only
  what has a mean of 0; on such a stream both are the same.
* It ignores the sliding window of llama, phi3 and phimoe files, which the authors of Mistral 7B v0.1 and
  Phi 3 define. The compared files of these architectures have none; `compare_windows.py` compares those
  that have one with their authors' code.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

from llama_server import LlamaServer

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROMPT_LENGTHS = (1, 2, 9, 33, 100, 240, 530, 900)
TOLERANCE = 2e-4
# llama.cpp reads GELU from a table of half precision.
GELU_TOLERANCE = 5e-3
GELU = ("gemma", "gemma2", "gemma3", "phi2")
# How much more than llama.cpp Minerva may lose to activations of 8 bits.
NOISE_FACTOR = 1.25


def build():
    command = ["cargo", "build", "--release", "--quiet", "-p", "minerva-engine"]
    subprocess.run([*command, "--example", "families"], cwd=ROOT, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    return os.path.join(target, "release", "examples", "families")


def call(program, *arguments, text=""):
    done = subprocess.run([program, *arguments], input=text, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join([program, *arguments])}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def differences(theirs, rows):
    """The differences of the log-probabilities; infinity where one is not a number."""
    pairs = [(row[token], logprob) for top, row in zip(theirs, rows, strict=True) for token, logprob in top]
    return [abs(ours - logprob) if ours == ours else float("inf") for ours, logprob in pairs]


def at(theirs, rows):
    """Minerva's log-probabilities in llama.cpp's place."""
    return [[[token, row[token]] for token, _ in top] for top, row in zip(theirs, rows, strict=True)]


def word(is_ok):
    return "ok" if is_ok else "FAIL"


def rms(numbers):
    return (sum(x * x for x in numbers) / len(numbers)) ** 0.5


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("server", metavar="LLAMA_SERVER")
    parser.add_argument("--only", default="", help="models whose names have this in them")
    parser.add_argument("--keep", metavar="FOLDER", help="an empty folder to write the models to")
    args = parser.parse_args()
    program = build()
    version = subprocess.run([args.server, "--version"], capture_output=True, text=True)
    version = (version.stdout + version.stderr).strip().splitlines()
    print("llama.cpp:", next((line for line in version if "version" in line), "unknown version"))

    failed = False
    n = 0
    print("| model | max \\|d\\| reference | max \\|d\\| CPU | tolerance | |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        written = call(program, "write", args.keep or temporary)
        numbers = random.Random(1)
        for model in written["models"]:
            if args.only not in model["name"]:
                continue
            found = {"reference": 0.0, "cpu": 0.0}
            lost = {"llama.cpp": [], "cpu": []}
            for context in model["contexts"]:
                # From 3 on tokens are no special ones.
                last = written["first_letter"] + 25
                text = [numbers.randint(3, last) for _ in range(context)]
                prompts = [text[:n] for n in PROMPT_LENGTHS if n < context]

                def ask(file):
                    with LlamaServer(args.server, file, context) as server:
                        return [server.top(prompt, written["first_letter"]) for prompt in prompts]

                theirs = ask(model["peer_file"])
                ours = call(program, "logprobs", model["file"], str(context), text=json.dumps(prompts))
                for backend, rows in ours.items():
                    found[backend] = max(found[backend], *differences(theirs, rows))
                if model["is_rounded"]:
                    rounded = ask(model["file"])
                    exact = ours["reference"]
                    lost["llama.cpp"] += differences(rounded, exact)
                    lost["cpu"] += differences(at(rounded, ours["cpu"]), exact)
            tolerance = GELU_TOLERANCE if model["architecture"] in GELU else TOLERANCE
            name, n = model["name"], n + 1
            if model["is_rounded"]:
                is_ok = found["reference"] <= tolerance and rms(lost["cpu"]) <= NOISE_FACTOR * rms(lost["llama.cpp"])
                print(f"| {name} | {found['reference']:.1e} | | {tolerance:.0e} | {word(is_ok)} |")
                cells = {engine: f"{rms(all_lost):.1e}, {max(all_lost):.1e}" for engine, all_lost in lost.items()}
                print(f"| lost to 8 bits | llama.cpp: {cells['llama.cpp']} | {cells['cpu']} | | |", flush=True)
            else:
                is_ok = max(found.values()) <= tolerance
                print(f"| {name} | {found['reference']:.1e} | {found['cpu']:.1e} | {tolerance:.0e} | {word(is_ok)} |", flush=True)
            failed |= not is_ok
    if n == 0:
        sys.exit(f"no model with {args.only!r} in its name")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
