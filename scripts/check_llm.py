#!/usr/bin/env python3
"""Drives a running service with the command `llm`, to which it is a row of extra-openai-models.yaml.

    service.py MINERVA MODEL check_llm.py

Needs llm.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

import service

URL, MODEL, KEY, SINGLE = sys.argv[1:]
QUESTION = "What is the capital of France?"


def llm(*arguments, key=KEY):
    command = [sys.executable, "-m", "llm", *arguments, "-m", "local", "--key", key]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def answer(*arguments, key=KEY):
    done = llm("prompt", *arguments, "-o", "temperature", "0", key=key)
    assert done.returncode == 0, done.stderr
    return done.stdout


def chat():
    whole = answer(QUESTION, "--no-stream", "-o", "max_tokens", "24")
    assert whole.strip() and answer(QUESTION, "-o", "max_tokens", "24") == whole
    usage = json.loads(subprocess.check_output([sys.executable, "-m", "llm", "logs", "-n", "1", "--json"]))[0]
    assert usage["input_tokens"] > 0 and usage["output_tokens"] > 0
    system = answer(QUESTION, "-s", "Answer in one word.", "-o", "max_tokens", "24")
    assert answer("And of Italy?", "-c", "-o", "max_tokens", "24").strip() and system.strip()


def completion():
    arguments = ["prompt", "The capital of France is", "-m", "text", "--key", KEY, "-o", "max_tokens", "4"]
    done = subprocess.run([sys.executable, "-m", "llm", *arguments, "-o", "temperature", "0"], capture_output=True, text=True)
    assert "Paris" in done.stdout, done


def errors():
    wrong = llm("prompt", QUESTION, key="wrong")
    assert wrong.returncode != 0 and "invalid_api_key" in wrong.stderr, wrong.stderr
    option = llm("prompt", QUESTION, "-o", "json_object", "1")
    assert option.returncode != 0 and "response_format" in option.stderr, option.stderr


def retries():
    with service.busy(URL, MODEL, SINGLE, KEY):
        assert answer(QUESTION, "-o", "max_tokens", "2", key=SINGLE).strip()


def cancellation():
    n_running = lambda: service.figure(URL, KEY, "minerva_requests_running")
    # Without the tokens that end an answer it goes on.
    endless = ["-o", "max_tokens", "2000", "-o", "logit_bias", json.dumps({"0": -100, "2": -100})]
    command = [sys.executable, "-m", "llm", "prompt", QUESTION, "-m", "text", "--key", KEY, *endless]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout.read(1)
        service.wait_until("it runs", lambda: n_running() == 1)
        process.terminate()
        service.wait_until("it is gone", lambda: n_running() == 0)


with tempfile.TemporaryDirectory() as folder:
    # Models, keys and the log of what was said are kept there.
    os.environ["LLM_USER_PATH"] = folder
    base = {"model_name": MODEL, "api_base": URL + "/v1", "api_key_name": "minerva"}
    models = [{"model_id": "local", **base}, {"model_id": "text", "completion": True, **base}]
    # JSON is YAML.
    (pathlib.Path(folder) / "extra-openai-models.yaml").write_text(json.dumps(models))
    for check in [chat, completion, errors, retries, cancellation]:
        check()
        print(f"ok {check.__name__} (llm)")
