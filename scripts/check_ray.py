#!/usr/bin/env python3
"""Proves deploy/ray: two replicas, streams through the proxy, one replica killed and replaced.

    check_ray.py MINERVA MODEL

Needs ray[serve]==2.60.0, which is too large for each run of CI.
"""

import collections
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import ray
from ray import serve

APP = str(pathlib.Path(__file__).resolve().parent.parent / "deploy/ray")
sys.path.insert(0, APP)
import minerva_app

from service import wait_until

MINERVA, MODEL = sys.argv[1:]


def free_port():
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return own.getsockname()[1]


PORT = free_port()


def ask(**fields):
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "temperature": 0} | fields
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse()


def processes():
    """The binary's processes that descend from this one's Ray."""
    found = subprocess.run(["pgrep", "-f", f"{MINERVA} serve {MODEL} --port 0"], capture_output=True, text=True)
    return {int(pid) for pid in found.stdout.split()}


def n_running():
    states = serve.status().applications["default"].deployments["Minerva"].replica_states
    return states.get("RUNNING", 0)


def replicas_that_answer():
    answers = collections.Counter()
    for _ in range(30):
        answer = ask()
        assert answer.status == 200, answer.read()
        answer.read()
        answers[answer.headers["x-replica"]] += 1
    return answers


def streams():
    whole = json.load(ask(max_tokens=48))["choices"][0]["message"]["content"]
    begin = time.monotonic()
    answer = ask(max_tokens=48, stream=True)
    text, first, done = "", None, False
    while line := answer.readline():
        if line.startswith(b"data: {"):
            first = first or time.monotonic() - begin
            text += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
        done = done or line.startswith(b"data: [DONE]")
    seconds = time.monotonic() - begin
    assert done and text == whole and first < seconds / 2, (done, text, whole, first, seconds)
    print(f"a stream through the proxy: first token after {first * 1e3:.0f} ms, all 48 after {seconds * 1e3:.0f} ms")


def disconnect():
    answer = ask(max_tokens=4000, stream=True, ignore_eos=True)
    while not answer.readline().startswith(b"data: {"):
        pass
    running = lambda: sum(line.startswith("minerva_requests_running{") and float(line.split()[-1]) > 0
                          for pid in processes() for line in figures(pid))
    wait_until("it runs", lambda: running() == 1)
    answer.close()
    begin = time.monotonic()
    wait_until("it is gone", lambda: running() == 0)
    print(f"a client that goes away: its request ended {time.monotonic() - begin:.1f} s later")


def figures(pid):
    """The figures of one process, from the port that it listens at."""
    sockets = subprocess.run(["ss", "-Hltnp"], check=True, capture_output=True, text=True).stdout.splitlines()
    address = next(line.split()[3] for line in sockets if f"pid={pid}," in line)
    connection = http.client.HTTPConnection(address, timeout=10)
    connection.request("GET", "/metrics")
    return connection.getresponse().read().decode().splitlines()


def replacement():
    before = processes()
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    begin = time.monotonic()
    ends = collections.Counter()
    while len(processes() - before) < 1 or n_running() < 2:
        answer = ask()
        answer.read()
        ends[answer.status] += 1
        assert time.monotonic() - begin < 120, serve.status()
    seconds = time.monotonic() - begin
    assert set(ends) <= {200, 503} and ends[200] > 0, ends
    print(f"one killed: two replicas again after {seconds:.1f} s, meanwhile {dict(ends)}")
    assert victim not in processes() and len(processes()) == 2


def main():
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": APP}})
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    begin = time.monotonic()
    serve.run(minerva_app.app({"binary": MINERVA, "model": MODEL, "replicas": 2, "options": "--log-level error"}))
    print(f"two replicas after {time.monotonic() - begin:.1f} s: {dict(replicas_that_answer())}")
    assert len(processes()) == len(replicas_that_answer()) == 2
    streams()
    disconnect()
    replacement()
    print(f"and both answer: {dict(replicas_that_answer())}")
    serve.shutdown()
    wait_until("no process is left", lambda: not processes())


if __name__ == "__main__":
    main()
