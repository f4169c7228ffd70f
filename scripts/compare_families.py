#!/usr/bin/env python3
"""Compares log-probabilities of every architecture with llama.cpp's, on tiny random models.

    compare_families.py LLAMA_SERVER [--only TEXT] [--keep FOLDER]

LLAMA_SERVER is the program llama-server of llama.cpp (compared: b11434). The models, all of f32, are
written by the example `families` of the crate minerva-engine: one or more of each architecture, with
and without biases, tied embeddings, rope factors, and so on. Both engines read the same file, keep
keys and values in f32, and are asked for the next token after prompts that are longer than the
models' windows, than the original context of rope scaling where there is one, and than a batch.
Shown is the largest difference among llama.cpp's 20 likeliest tokens, in Minerva's reference
backend and in its CPU backend. The exit status is 1 if one is above the tolerance.

What llama.cpp reads otherwise, so that the files are made to leave it out:

* It has no reader for experts that are tensors of their own (dropped after the first Mixtral files);
  its numbers are those of the same experts in one tensor.
* It norms phimoe by the root mean square, where the model's authors have a layer norm
  (https://huggingface.co/microsoft/Phi-3.5-MoE-instruct). The compared files add to the stream only
  what has a mean of 0; on such a stream both are the same.
* It ignores the sliding window of llama, phi3 and phimoe files, which the authors of Mistral 7B v0.1 and
  Phi 3 define. The compared files of these architectures have none.
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
    """The largest difference of a log-probability, or infinity where one is not a number."""
    largest = 0.0
    for top, row in zip(theirs, rows, strict=True):
        for token, logprob in top:
            difference = abs(row[token] - logprob)
            largest = max(largest, difference if difference == difference else float("inf"))
    return largest


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
            for context in model["contexts"]:
                # From 3 on tokens are no special ones.
                last = written["first_letter"] + 25
                text = [numbers.randint(3, last) for _ in range(context)]
                prompts = [text[:n] for n in PROMPT_LENGTHS if n < context]
                with LlamaServer(args.server, model["peer_file"], context) as server:
                    theirs = [server.top(prompt, written["first_letter"]) for prompt in prompts]
                ours = call(program, "logprobs", model["file"], str(context), text=json.dumps(prompts))
                for backend, rows in ours.items():
                    found[backend] = max(found[backend], differences(theirs, rows))
            tolerance = GELU_TOLERANCE if model["architecture"] in GELU else TOLERANCE
            is_ok = max(found.values()) <= tolerance
            failed |= not is_ok
            n += 1
            word = "ok" if is_ok else "FAIL"
            print(f"| {model['name']} | {found['reference']:.1e} | {found['cpu']:.1e} | {tolerance:.0e} | {word} |", flush=True)
    if n == 0:
        sys.exit(f"no model with {args.only!r} in its name")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
