#!/usr/bin/env python3
"""Compares serving with llama-server's: the same file, the same requests, in turns.

    scripts/compare_serving.py MODEL.gguf MINERVA LLAMA_SERVER [--streams 1,4,16] [--rounds 3]
                               [--prompt 128] [--generate 64] [--requests 2] [--threads N] [--tests load,prefix,gap]

MINERVA and LLAMA_SERVER are the programs. Three tests:

* load: as many clients as streams, each sends `requests` prompts of some `prompt` words one after
  the other and reads `generate` tokens of each as a stream. Prints tokens per second of all, the
  median time to the first token, and the median and 99th percentile of the gap between tokens.
* prefix: a prompt of 1,000 words and a short question, cold and then with other questions: the
  time to the first token.
* gap: one stream runs while a prompt that fills most of the context comes in: the gap between its
  tokens before and meanwhile.

Each server is started anew for each measurement, in turns; figures are medians over rounds. Only
the standard library is used.
"""

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
import urllib.request

WORDS = """time year people way day man thing woman life child world school state family student
group country problem hand part place case week company system program question work government
number night point home water room mother area money story fact month lot right study book eye job
word business issue side kind head house service friend father power hour game line end member law
car city community name president team minute idea body information back parent face others level
office door health person art war history party result change morning reason research girl guy
moment air teacher force education""".split()


def text(n_words, seed):
    chooser = random.Random(seed)
    return " ".join(chooser.choice(WORDS) for _ in range(n_words))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A server that runs while the block does."""

    def __init__(self, kind, program, model, streams, context, threads):
        self.port = free_port()
        if kind == "minerva":
            command = [program, "serve", model, "--port", str(self.port), "--parallel", str(streams),
                       "-c", str(context)]
            if threads:
                command += ["-t", str(threads)]
        else:
            command = [program, "-m", model, "--port", str(self.port), "-np", str(streams),
                       "-c", str(context * streams), "-fa", "on", "--cache-ram", "0", "--poll", "0", "--no-webui"]
            if threads:
                command += ["-t", str(threads), "-tb", str(threads)]
        self.command = command

    def __enter__(self):
        self.log = open(os.devnull, "w")
        self.process = subprocess.Popen(self.command, stdout=self.log, stderr=self.log)
        deadline = time.time() + 120
        while time.time() < deadline:
            if self.process.poll() is not None:
                sys.exit(f"error: {' '.join(self.command)}: exit status {self.process.returncode}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
                    if answer.status == 200:
                        asyncio.run(generate(self.port, "Hello", 4))
                        return self
            except OSError:
                pass
            time.sleep(0.1)
        sys.exit(f"error: {' '.join(self.command)}: not ready within 120 s")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


async def generate(port, prompt, n_tokens, times=None):
    """Streams one completion; the times of its tokens are appended as they come."""
    body = json.dumps({"prompt": prompt, "max_tokens": n_tokens, "temperature": 0, "stream": True,
                       "ignore_eos": True, "stream_options": {"include_usage": True}}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    start = time.perf_counter()
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                 b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    await writer.drain()
    times = [] if times is None else times
    usage, status = None, None
    while line := await reader.readline():
        if status is None:
            status = line
            if b" 200 " not in line:
                raise SystemExit(f"error: {line.decode()}{(await reader.read()).decode()}")
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if "error" in event:
            raise SystemExit(f"error: {event}")
        if event.get("choices"):
            times.append(time.perf_counter())
        usage = event.get("usage") or usage
    writer.close()
    return start, times, usage


async def load(port, streams, requests, n_words, n_tokens, seed):
    async def client(number):
        return [await generate(port, text(n_words, f"{seed} {number} {i}"), n_tokens) for i in range(requests)]

    begin = time.perf_counter()
    results = [r for c in await asyncio.gather(*map(client, range(streams))) for r in c]
    seconds = time.perf_counter() - begin
    firsts = [times[0] - start for start, times, _ in results]
    gaps = [b - a for _, times, _ in results for a, b in zip(times, times[1:])]
    tokens = sum(usage["completion_tokens"] for _, _, usage in results)
    return {"tok/s": tokens / seconds, "first token, ms": 1e3 * statistics.median(firsts),
            "gap, ms": 1e3 * statistics.median(gaps), "gap p99, ms": 1e3 * statistics.quantiles(gaps, n=100)[98]}


async def prefix(port, seed):
    shared = text(1000, seed)
    firsts = []
    for i in range(4):
        start, times, usage = await generate(port, f"{shared}\nQuestion {i}: {text(8, f'{seed} {i}')}?", 8)
        firsts.append(1e3 * (times[0] - start))
    return {"cold, ms": firsts[0], "warm, ms": statistics.median(firsts[1:]),
            "warm / cold": statistics.median(firsts[1:]) / firsts[0]}


async def gap(port, n_words, seed):
    times = []
    running = asyncio.create_task(generate(port, text(20, f"{seed} running"), 4000, times))
    while len(times) < 50:
        await asyncio.sleep(0.01)
    begin = time.perf_counter()
    await generate(port, text(n_words, f"{seed} long"), 1)
    end = time.perf_counter()
    running.cancel()
    gaps = [(a, b - a) for a, b in zip(times, times[1:])]
    before = statistics.median(g for a, g in gaps if a < begin)
    during = [g for a, g in gaps if begin <= a < end]
    return {"gap before, ms": 1e3 * before, "meanwhile, ms": 1e3 * statistics.median(during),
            "p99 meanwhile, ms": 1e3 * (statistics.quantiles(during, n=100)[98] if len(during) > 1 else during[0]),
            "ratio": statistics.median(during) / before, "long prompt, s": end - begin}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("minerva")
    parser.add_argument("llama_server")
    parser.add_argument("--streams", default="1,4,16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2)
    parser.add_argument("--long", type=int, default=6000)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--tests", default="load,prefix,gap")
    args = parser.parse_args()
    tests = args.tests.split(",")
    jobs = []
    if "load" in tests:
        for streams in map(int, args.streams.split(",")):
            run = lambda port, seed, streams=streams: load(port, streams, args.requests, args.prompt, args.generate, seed)
            jobs.append((f"{streams} streams", streams, 1024, run))
    if "prefix" in tests:
        jobs.append(("prefix of 1000 words", 2, 4096, prefix))
    if "gap" in tests:
        jobs.append((f"a prompt of {args.long} words comes in", 2, 8192, lambda port, seed: gap(port, args.long, seed)))
    for name, streams, context, run in jobs:
        measured = {"minerva": [], "llama-server": []}
        for round_ in range(args.rounds):
            for kind, program in (("minerva", args.minerva), ("llama-server", args.llama_server)):
                with Server(kind, program, args.model, streams, context, args.threads) as server:
                    measured[kind].append(asyncio.run(run(server.port, str(round_))))
        print(f"\n{name}\n\n| | minerva | llama-server | ratio |\n|---|--:|--:|--:|")
        for key in measured["minerva"][0]:
            a, b = (statistics.median(m[key] for m in measured[kind]) for kind in ("minerva", "llama-server"))
            print(f"| {key} | {a:.4g} | {b:.4g} | {a / b:.2f} |", flush=True)


if __name__ == "__main__":
    main()
