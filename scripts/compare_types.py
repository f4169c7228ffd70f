#!/usr/bin/env python3
"""Compares log-probabilities with llama.cpp's on a tiny random model in every type llama-quantize writes.

    scripts/compare_types.py REFERENCE VOCABULARY --llama-bin FOLDER [--types Q4_0,Q8_0,...]

REFERENCE is the folder with synth_model.py; VOCABULARY a GGUF file with a vocabulary (llama.cpp's
ggml-vocab-llama-spm.gguf); FOLDER has llama-quantize and llama-server. All matrices of a file are of the one
type, quantized with a flat importance matrix where one is wanted. llama-server keeps its cache in f32.

The measure of a difference is its root mean square over llama.cpp's 20 likeliest tokens after each of a
few prompts; the largest is shown too. Where activations are rounded to 8 bits, both llama.cpp and
Minerva's CPU backend differ from the reference backend, which is exact on the weights as stored. So:

* llama.cpp may be away from the reference backend by at most 0.05: a type that is read wrongly is away by
  about 1, as the logits of a random model are.
* the CPU backend may be away by at most 1.25 times as much as llama.cpp, or by 1e-3 (its cache is of f16); with fast
  batches, too, on the prompts of 32 tokens or more.

Needs numpy and gguf. The exit status is 1 if a type fails.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from llama_server import LlamaServer
from quantize import quantize

ROOT = Path(__file__).resolve().parent.parent
PURE = (
    "F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS IQ3_S IQ3_XXS IQ2_S IQ2_XS IQ2_XXS "
    "IQ1_M IQ1_S TQ2_0 TQ1_0 Q2_0 Q1_0"
).split()
# What llama-quantize calls the file, where that is not the type of its matrices.
FILE_TYPES = {"IQ2_S": "IQ2_M"}
# Not types of a whole file to llama-quantize: each matrix is named to it.
BY_TENSOR = ["MXFP4", "NVFP4"]
PROMPT_LENGTHS = (1, 3, 9, 17, 40, 100)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path)
    parser.add_argument("vocabulary", type=Path)
    parser.add_argument("--llama-bin", type=Path, required=True)
    parser.add_argument("--types", type=lambda names: names.split(","), default=PURE + BY_TENSOR)
    a = parser.parse_args()

    example = ["--release", "--quiet", "-p", "minerva-engine", "--example", "check_reference"]
    subprocess.run(["cargo", "build", *example], cwd=ROOT, check=True)
    program = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/examples/check_reference"
    numbers = random.Random(1)
    # Texts, in a vocabulary of LLaMA 2: neither special tokens nor bytes. 29874 is "a".
    prompts = [[1] + [numbers.randint(259, 29000) for _ in range(n - 1)] for n in PROMPT_LENGTHS]
    bad = 0
    print("| type | llama.cpp to reference: rms, largest | CPU to reference: rms, largest | fast batches | |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.gguf"
        synth = [a.reference / "synth_model.py", "--family", "llama2", "--vocab", a.vocabulary, "--out", source]
        subprocess.run([sys.executable, *synth], check=True)
        for name in a.types:
            path, data = Path(folder) / f"{name}.gguf", Path(folder) / f"{name}.json"
            if name in BY_TENSOR:
                flags = ["--token-embedding-type", "--output-tensor-type"]
                flags = [word for flag in flags for word in (flag, name)] + ["--tensor-type", f"weight={name}"]
                quantize(a.llama_bin / "llama-quantize", source, path, "Q8_0", flags)
            else:
                quantize(a.llama_bin / "llama-quantize", source, path, FILE_TYPES.get(name, name), ["--pure"])
            with LlamaServer(a.llama_bin / "llama-server", path, 256) as server:
                cases = [{"prompt_tokens": prompt, "top": server.top(prompt, 29874)} for prompt in prompts]
            data.write_text(json.dumps({"cases": cases}))
            done = subprocess.run([program, "noise", path, data], capture_output=True, text=True)
            if done.returncode and not done.stdout:
                sys.exit(f"{name}: {done.stderr}")
            found = json.loads(done.stdout)
            # The norms are of f32 always.
            if set(found["types"]) != {name, "F32"}:
                sys.exit(f"{name}: llama-quantize wrote {', '.join(found['types'])}")
            is_good = done.returncode == 0
            bad += not is_good
            cell = lambda key: f"{found[key]['rms']:.1e}, {found[key]['max']:.1e}" if found[key] else ""
            cells = [name, *map(cell, ["data", "cpu", "fast"]), "ok" if is_good else "FAIL"]
            print(f"| {' | '.join(cells)} |", flush=True)
            path.unlink()
    sys.exit(1 if bad else 0)


main()
