#!/usr/bin/env python3
"""Compares models with a sliding window in every layer with their authors' code, on tiny random models.

    compare_windows.py [--program PROGRAM]

llama.cpp ignores the window of llama, phi3 and phimoe files, so `transformers` is the measure: the models
are written by the example `families` of the crate minerva-engine (PROGRAM: `cargo build --release -p
minerva-engine --example families`) with a window of 24 tokens, and their weights are given to Mistral and
Phi 3 there. Both are asked for the next token after prompts of up to 240 tokens. Shown is the largest
difference of a log-probability over the whole vocabulary, with the window and, to show what it does,
with transformers' model without one. The exit status is 1 if one with the window is above 2e-4.

Needs gguf, torch and transformers (compared: 4.57.1). Nothing is installed or fetched.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile

import torch
from gguf import GGUFReader
from transformers import MistralConfig, MistralForCausalLM, Phi3Config, Phi3ForCausalLM

WINDOW = 24
PROMPT_LENGTHS = (1, 23, 24, 25, 26, 60, 240)
CONTEXT = 256
TOLERANCE = 2e-4
# The name of a model of the example: its classes.
MODELS = {
    "llama": (MistralConfig, MistralForCausalLM),
    "mistral nemo": (MistralConfig, MistralForCausalLM),
    "phi4": (Phi3Config, Phi3ForCausalLM),
}
# Parts of a name in a file, and in transformers.
NAMES = (
    ("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("blk.", "model.layers."),
    ("attn_norm", "input_layernorm"), ("ffn_norm", "post_attention_layernorm"), ("attn_output", "self_attn.o_proj"),
    ("attn_qkv", "self_attn.qkv_proj"), ("attn_q", "self_attn.q_proj"), ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"), ("ffn_gate", "mlp.gate_proj"), ("ffn_down", "mlp.down_proj"),
)


def original(path, classes, window):
    """The model of a file in transformers."""
    reader = GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    number = lambda key, other=None: (
        reader.fields[f"{architecture}.{key}"].contents() if f"{architecture}.{key}" in reader.fields else other
    )
    hidden_size, n_heads = number("embedding_length"), number("attention.head_count")
    assert number("attention.sliding_window") == WINDOW
    config = dict(
        vocab_size=len(reader.fields["tokenizer.ggml.tokens"].data), hidden_size=hidden_size,
        intermediate_size=number("feed_forward_length"), num_hidden_layers=number("block_count"),
        num_attention_heads=n_heads, num_key_value_heads=number("attention.head_count_kv"),
        rms_norm_eps=number("attention.layer_norm_rms_epsilon"), rope_theta=number("rope.freq_base", 10000.0),
        max_position_embeddings=number("context_length"), tie_word_embeddings=False, sliding_window=window,
        pad_token_id=0, attn_implementation="eager",
    )
    if architecture == "llama":
        config["head_dim"] = number("attention.key_length", hidden_size // n_heads)
    model = classes[1](classes[0](**config)).eval()
    tensors = {}
    for tensor in reader.tensors:
        name, values = tensor.name, torch.tensor(tensor.data)
        if architecture == "llama" and any(part in name for part in ("attn_q.", "attn_k.")):
            # The format has the two numbers that are turned together side by side.
            n_rows = values.shape[0]
            pairs = values.reshape(-1, config["head_dim"] // 2, 2, hidden_size)
            values = pairs.transpose(1, 2).reshape(n_rows, hidden_size)
        name = "lm_head.weight" if name == "output.weight" else name
        for part, theirs in NAMES:
            name = name.replace(part, theirs)
        name = name.replace("ffn_up", "mlp.gate_up_proj" if architecture == "phi3" else "mlp.up_proj")
        tensors[name] = values
    model.load_state_dict(tensors)
    return model


def logprobs(model, prompts):
    with torch.no_grad():
        rows = [model(torch.tensor([prompt])).logits[0, -1].double() for prompt in prompts]
    return [torch.log_softmax(row, -1).tolist() for row in rows]


def largest(theirs, ours):
    return max(abs(a - b) for x, y in zip(theirs, ours, strict=True) for a, b in zip(x, y, strict=True))


def call(program, *arguments, text=""):
    done = subprocess.run([program, *arguments], input=text, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join([program, *arguments])}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default="target/release/examples/families")
    program = parser.parse_args().program
    failed = False
    numbers = random.Random(1)
    print("| model | max \\|d\\| reference | max \\|d\\| CPU | without a window | |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        written = call(program, "write", folder, str(WINDOW))
        models = {model["name"]: model["file"] for model in written["models"]}
        for name, classes in MODELS.items():
            path = models[name]
            text = [numbers.randint(3, written["first_letter"] + 25) for _ in range(CONTEXT)]
            prompts = [text[:n] for n in PROMPT_LENGTHS]
            ours = call(program, "logprobs", path, str(CONTEXT), text=json.dumps(prompts))
            theirs, unlimited = (logprobs(original(path, classes, window), prompts) for window in (WINDOW, None))
            found = {backend: largest(theirs, rows) for backend, rows in ours.items()}
            is_ok = max(found.values()) <= TOLERANCE
            failed |= not is_ok
            without = largest(unlimited, ours["reference"])
            word = "ok" if is_ok else "FAIL"
            print(f"| {name} | {found['reference']:.1e} | {found['cpu']:.1e} | {without:.1e} | {word} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
