#!/usr/bin/env python3
"""Checks what Minerva takes: memory while it answers, and processor time while nobody asks.

    check_footprint.py MINERVA MODEL

Weights are read where the file is mapped, by the processor: the peak of memory is the file's size, the
cache's and a little.
"""

import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.request

from service import Service

MINERVA, MODEL = sys.argv[1:]
CONTEXT = 512
# Scratch memory of a step, the tokenizer, what was compiled: bytes.
MOST_BESIDE = 100e6
# Long enough for differences, as the system counts in hundredths of a second.
IDLE_SECONDS = 5
MOST_IDLE_SHARE = 0.01
PROMPT = (pathlib.Path(__file__).parent.parent / "LICENSE-APACHE").read_text()[:1700]
N_ANSWERED = 32


def about(command, *options):
    return json.loads(subprocess.check_output([MINERVA, command, MODEL, *options, "--format", "json"]))


def check_memory(what, peak_bytes, usage):
    assert CONTEXT / 2 < usage["total_tokens"] <= CONTEXT, usage
    file_bytes = about("inspect")["file_bytes"]
    kv_bytes = about("plan", "--context", str(CONTEXT), "--parallel", "1")["kv_bytes"]
    beside = peak_bytes - file_bytes - kv_bytes
    megabytes = [f"{n / 1e6:.1f}" for n in (peak_bytes, file_bytes, kv_bytes, beside)]
    print("{}, {} tokens: {} MB at most, of the file {}, of the cache {}, beside them {}".format(
        what, usage["total_tokens"], *megabytes), flush=True)
    assert beside <= MOST_BESIDE, f"expected at most {MOST_BESIDE / 1e6:.0f} MB beside them"


def run():
    command = [MINERVA, "run", MODEL, PROMPT, "--raw", "--ignore-eos", "-n", str(N_ANSWERED), "--context", str(CONTEXT),
               "--format", "json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    answer = process.stdout.read()
    # The VmHWM that it ended with.
    _, status, took = os.wait4(process.pid, 0)
    assert status == 0, status
    check_memory("run", took.ru_maxrss * 1024, json.loads(answer)["usage"])


def processor_seconds(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask(service):
    body = {"model": service.name, "prompt": PROMPT, "max_tokens": N_ANSWERED, "ignore_eos": True}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {service.key}"}
    request = urllib.request.Request(service.url + "/v1/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def serve():
    with Service(MINERVA, MODEL, "--context", str(CONTEXT), "--parallel", "1") as service:
        answer = ask(service)
        pid = service.process.pid
        before = processor_seconds(pid)
        time.sleep(IDLE_SECONDS)
        share = (processor_seconds(pid) - before) / IDLE_SECONDS
        print(f"serve, idle: {share:.1%} of a core", flush=True)
        assert share <= MOST_IDLE_SHARE, f"expected at most {MOST_IDLE_SHARE:.0%}"
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        check_memory("serve", peak * 1024, answer["usage"])


run()
serve()
