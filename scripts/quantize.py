"""Writes a model in another type with llama.cpp's llama-quantize; for the scripts that compare types."""
import subprocess
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter

# Types that llama-quantize refuses without an importance matrix.
NEEDS_IMATRIX = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S", "IQ1_M", "IQ2_M", "Q2_K_S", "IQ3_XXS")


def write_flat_imatrix(model, path):
    """An importance matrix in which every input of every matrix counts the same."""
    writer = GGUFWriter(path, "imatrix")
    writer.add_type("imatrix")
    writer.add_array("imatrix.datasets", ["flat"])
    writer.add_uint32("imatrix.chunk_count", 1)
    writer.add_uint32("imatrix.chunk_size", 512)
    for tensor in GGUFReader(model).tensors:
        if len(tensor.shape) >= 2 and tensor.name.endswith(".weight"):
            n_inputs, n_experts = int(tensor.shape[0]), int(tensor.shape[2]) if len(tensor.shape) > 2 else 1
            writer.add_tensor(tensor.name + ".in_sum2", np.ones((n_experts, n_inputs), dtype=np.float32))
            writer.add_tensor(tensor.name + ".counts", np.ones((n_experts, 1), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantize(program, model, out, type_name, flags=()):
    """Writes `out`; the exit is with llama-quantize's own words if it refuses."""
    command = [program, *flags]
    if type_name in NEEDS_IMATRIX:
        imatrix = Path(out).with_suffix(".imatrix")
        write_flat_imatrix(model, imatrix)
        command += ["--imatrix", str(imatrix)]
    done = subprocess.run([*command, str(model), str(out), type_name], capture_output=True, text=True)
    if done.returncode or not Path(out).exists():
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        sys.exit(f"{program} {model} {type_name}: exit status {done.returncode}\n{tail}")
