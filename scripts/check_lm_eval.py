#!/usr/bin/env python3
"""Scores a running service with lm-eval: choices and a text, by the log-probabilities of their tokens.

    service.py MINERVA MODEL check_lm_eval.py MODEL.gguf

Needs lm-eval[api]==0.4.13, transformers and gguf: some 900 MB, which is too much for each run of CI. MODEL.gguf
is the served file; its tokenizer, a BPE one that splits digits (SmolLM2's), is written as the library has it.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

import gguf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

FILE, URL, MODEL, KEY, _ = sys.argv[1:]
CAPITALS = {"France": "Paris", "Italy": "Rome", "Germany": "Berlin", "Spain": "Madrid", "Japan": "Tokyo", "Egypt": "Cairo",
            "Russia": "Moscow", "China": "Beijing", "Greece": "Athens", "Cuba": "Havana", "Portugal": "Lisbon", "Austria": "Vienna"}
TEXT = "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness."
CHOICES = """
task: capitals
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/capitals.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "The capital of {{{{country}}}} is"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
"""
ROLLING = """
task: text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/text.jsonl}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}]
"""


def write_tokenizer(folder):
    fields = gguf.GGUFReader(FILE).fields
    tokens, merges, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "merges", "token_type"))
    ids = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(ids, [tuple(merge.split(" ")) for merge in merges]))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, kinds) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    end = tokens[fields["tokenizer.ggml.eos_token_id"].contents()]
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": end, "bos_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer


def post(path, body):
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    with urllib.request.urlopen(urllib.request.Request(URL + path, json.dumps(body).encode(), headers)) as answer:
        return json.load(answer)


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        tokenizer = write_tokenizer(folder)
        for text in [TEXT, *(f"The capital of {country} is {city}" for country, city in CAPITALS.items())]:
            assert tokenizer.encode(text).ids == post("/tokenize", {"content": text})["tokens"], text
        cities = list(CAPITALS.values())
        rows = []
        for i, country in enumerate(CAPITALS):
            label = i % 4
            choices = [cities[(i + j - label) % len(cities)] for j in range(4)]
            rows.append({"country": country, "choices": choices, "label": label})
        (folder / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "text.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
        (folder / "capitals.yaml").write_text(CHOICES.format(folder=folder))
        (folder / "text.yaml").write_text(ROLLING.format(folder=folder))
        arguments = f"base_url={URL}/v1/completions,model={MODEL},tokenizer={folder},tokenizer_backend=huggingface,num_concurrent=4"
        command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", arguments, "--tasks",
                   "capitals,text", "--include_path", folder, "--output_path", folder / "results", "--log_samples"]
        env = os.environ | {"OPENAI_API_KEY": KEY, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
        subprocess.run(list(map(str, command)), check=True, env=env, stdout=subprocess.DEVNULL)
        results = json.loads(next((folder / "results").rglob("results_*.json")).read_text())["results"]
        samples = next((folder / "results").rglob("samples_text_*.jsonl")).read_text().splitlines()
        accuracy, scored = results["capitals"]["acc,none"], float(json.loads(samples[0])["filtered_resps"][0])
        # The same text after the same token, asked for in one piece.
        tokens = [tokenizer.token_to_id(json.loads((folder / "tokenizer_config.json").read_text())["eos_token"])]
        body = {"model": MODEL, "prompt": tokens + tokenizer.encode(TEXT).ids, "max_tokens": 0, "echo": True, "logprobs": 1}
        whole = sum(post("/v1/completions", body)["choices"][0]["logprobs"]["token_logprobs"][1:])
        print(f"lm-eval: {accuracy:.0%} of {len(rows)} capitals; the text {scored:.4f}, asked at once {whole:.4f}")
        assert accuracy >= 0.9, results
        assert abs(scored - whole) < 1e-3, (scored, whole)


if __name__ == "__main__":
    main()
