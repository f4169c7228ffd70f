#!/usr/bin/env python3
"""Compares how blocks of every data type are read with other readers of the format.

Each type gets blocks of random bytes, blocks whose floating-point fields are finite, and blocks of
one byte value each, and all readers must give the same f32 bits (NaN equals NaN). The readers are

* the Python package `gguf` (its module gguf.quants), for every type it can read;
* llama.cpp's library libggml-base.so, where --ggml names it, for those and the rest;
* numpy, for the types whose elements are numbers of their own, and for Q8_1, which neither reads.

A type that none of them reads is an error. Exits with 1 on a difference.

    python3 scripts/compare_dtypes.py [--ggml path/to/libggml-base.so]

Needs: pip install gguf==0.19.0
"""

import argparse
import ctypes
import os
import subprocess
import sys

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
N_BLOCKS = 4000

# name: (elements, bytes) of a block. The package lacks Q2_0, and has Q8_1 with the two f32 fields
# that it had before ggml made them f16.
SIZES = {t.name: GGML_QUANT_SIZES[t] for t in GGMLQuantizationType}
SIZES |= {"Q2_0": (64, 18), "Q8_1": (32, 36)}
NUMBERS = {
    "F32": "<f4", "F16": "<f2", "BF16": None, "F64": "<f8",
    "I8": "<i1", "I16": "<i2", "I32": "<i4", "I64": "<i8",
}
# Where a block has f16 fields (F32 for Q8_K, which is handled apart), as byte offsets.
F16_FIELDS = {
    "F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q8_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2],
    "Q6_K": [208], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0],
    "IQ1_S": [0], "IQ4_NL": [0], "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64], "Q1_0": [0],
    "Q2_0": [0],
}


def blocks_of(name, rng):
    """Raw blocks of a type: [n_blocks, block_bytes]."""
    n_bytes = SIZES[name][1]
    raw = rng.integers(0, 256, (N_BLOCKS, n_bytes), dtype=np.uint8)
    finite = rng.integers(0, 256, (N_BLOCKS, n_bytes), dtype=np.uint8)
    for at in F16_FIELDS.get(name, []):
        scale = rng.normal(0, 0.02, N_BLOCKS).astype("<f2")
        finite[:, at : at + 2] = scale.view(np.uint8).reshape(-1, 2)
    if name == "Q8_K":
        scale = rng.normal(0, 0.02, N_BLOCKS).astype("<f4")
        finite[:, :4] = scale.view(np.uint8).reshape(-1, 4)
    if name == "IQ1_M":  # the f16 scale is the upper four bits of the last four 16-bit words
        scale = rng.normal(0, 0.02, N_BLOCKS).astype("<f2").view(np.uint16)
        for word in range(4):
            at = 48 + 2 * word + 1
            nibble = (scale >> (4 * word) & 15).astype(np.uint8)
            finite[:, at] = finite[:, at] & 0x0F | nibble << 4
    same = np.repeat(np.arange(256, dtype=np.uint8)[:, None], n_bytes, axis=1)
    blocks = [raw, finite, same]
    if name in ("F16", "BF16"):
        blocks.append(np.arange(1 << 16, dtype="<u2").view(np.uint8).reshape(-1, 2))
    return np.concatenate(blocks)


def by_numpy(name, blocks):
    if name == "Q8_1":
        scale = blocks[:, :2].view("<f2").astype(np.float32)
        with np.errstate(invalid="ignore"):
            return (scale * blocks[:, 4:].view(np.int8).astype(np.float32)).ravel()
    if name not in NUMBERS:
        return None
    if name == "BF16":
        return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32).ravel()
    with np.errstate(over="ignore", invalid="ignore"):
        return blocks.view(NUMBERS[name]).astype(np.float32).ravel()


def by_gguf(name, blocks):
    if name not in GGMLQuantizationType.__members__:
        return None
    try:
        with np.errstate(all="ignore"):
            values = dequantize(blocks, GGMLQuantizationType[name])
    except NotImplementedError:
        return None
    return np.ascontiguousarray(values, dtype=np.float32).ravel()


def by_ggml(name, blocks, library):
    try:
        function = getattr(library, "dequantize_row_" + name.lower().replace("_k", "_K"))
    except AttributeError:
        return None
    out = np.empty(len(blocks) * SIZES[name][0], dtype=np.float32)
    blocks = np.ascontiguousarray(blocks)
    function.restype = None
    function(
        blocks.ctypes.data_as(ctypes.c_void_p),
        out.ctypes.data_as(ctypes.c_void_p),
        ctypes.c_int64(out.size),
    )
    return out


def by_us(name, blocks, program):
    done = subprocess.run([program, name], input=blocks.tobytes(), capture_output=True)
    if done.returncode != 0:
        sys.exit(f"{name}: {done.stderr.decode().strip()}")
    return np.frombuffer(done.stdout, dtype="<f4")


def n_different(ours, theirs):
    if ours.shape != theirs.shape:
        return max(ours.size, theirs.size)
    both_nan = np.isnan(ours) & np.isnan(theirs)
    return int(np.count_nonzero((ours.view(np.uint32) != theirs.view(np.uint32)) & ~both_nan))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ggml", help="path of llama.cpp's libggml-base.so")
    parser.add_argument("--only", nargs="+", help="names of types, instead of all")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    library = ctypes.CDLL(args.ggml) if args.ggml else None

    build = ["cargo", "build", "--release", "--quiet", "-p", "minerva-compute"]
    subprocess.run([*build, "--example", "dequantize"], cwd=ROOT, check=True)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    program = os.path.join(target, "release", "examples", "dequantize")

    failed = False
    for name in args.only or SIZES:
        blocks = blocks_of(name, np.random.default_rng(args.seed))
        readers = {"gguf": by_gguf(name, blocks), "numpy": by_numpy(name, blocks)}
        if library:
            readers["ggml"] = by_ggml(name, blocks, library)
        readers = {reader: values for reader, values in readers.items() if values is not None}
        ours = by_us(name, blocks, program)
        words = []
        for reader, theirs in readers.items():
            n = n_different(ours, theirs)
            words.append(f"{reader} {f'{n} of {ours.size} DIFFER' if n else 'equal'}")
            failed |= n > 0
        if not readers:
            words.append("NOT COMPARED: no other reader (give --ggml)")
            failed = True
        n_nan = int(np.count_nonzero(np.isnan(ours)))
        print(f"{name:8} {len(blocks):6} blocks {ours.size:8} elements {n_nan:7} NaN: {', '.join(words)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
