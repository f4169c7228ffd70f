#!/usr/bin/env python3
"""Loads services of its own, and checks that both sides count the same.

    check_load.py MINERVA MODEL [--hey HEY]

MODEL should be small. What was sent must be what was answered, refused and left, in the figures of the
service as in ours, and at the end nothing may run, wait or hold a block of the cache. HEY is the load
generator of that name.
"""

import argparse
import asyncio
import collections
import csv
import json
import random
import resource
import subprocess
import time
import urllib.request

from service import Service, wait_until
from streams import Request

N_STREAMS = 1000
N_KEYS = 100
EACH = 30


class Books:
    """What became of the requests of this side: a status, or that it was left."""

    def __init__(self):
        self.ends = collections.Counter()

    async def ask(self, *args, **fields):
        status, text = await (await Request(*args, **fields).send()).answer()
        self.ends[status] += 1
        assert status != 200 or text != "broken off"
        return status, text

    def check(self, service):
        wait_until("nothing runs", lambda: service.figure("minerva_requests_running") == 0)
        for name in ("minerva_requests_waiting", "minerva_kv_cache_usage_ratio", "minerva_panics_total"):
            wait_until(f"{name} is 0", lambda: service.figure(name) == 0)
        route = {"route": "/v1/completions"}
        wait_until("all are counted", lambda: service.figure("minerva_http_requests_total", **route) == self.ends.total())
        for status, n in self.ends.items():
            if status not in (200, "left"):
                assert service.figure("minerva_http_requests_total", status=status, **route) == n, (status, self.ends)
        aborted = service.figure("minerva_http_requests_aborted_total")
        finished = {reason: service.figure("minerva_requests_finished_total", reason=reason)
                    for reason in ("stop", "length", "abort", "error")}
        assert aborted == self.ends["left"], (aborted, self.ends)
        assert finished["stop"] + finished["length"] == self.ends[200], (finished, self.ends)
        print(f"  counted alike: {dict(self.ends)}; of the engine: {finished}", flush=True)


def new_keys(service, limits):
    """Makes a key for each of the limits."""
    keys = []
    for i, limit in enumerate(limits):
        body = json.dumps({"name": f"key {i}", "limits": limit}).encode()
        headers = {"Authorization": f"Bearer {service.key}", "Content-Type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(service.url + "/admin/keys", body, headers)) as answer:
            keys.append(json.load(answer)["key"])
    return keys


async def streams(service, books, keys):
    """So many streams run at once, and each gets the same text as one that runs alone."""
    _, alone = await books.ask(service, max_tokens=24)
    begin = time.monotonic()
    tasks = [asyncio.create_task(books.ask(service, keys[i % N_KEYS], max_tokens=24)) for i in range(N_STREAMS)]
    most_open = most_running = 0
    while not all(task.done() for task in tasks):
        # The request for the figures is one of them.
        most_open = max(most_open, await asyncio.to_thread(service.figure, "minerva_http_requests_running") - 1)
        most_running = max(most_running, await asyncio.to_thread(service.figure, "minerva_requests_running"))
        await asyncio.sleep(0.02)
    results = collections.Counter(task.result() for task in tasks)
    assert results == {(200, alone): N_STREAMS}, (alone, results.most_common(5))
    assert most_open == N_STREAMS, most_open
    seconds = time.monotonic() - begin
    print(f"{N_STREAMS} streams of {N_KEYS} keys open, {most_running:.0f} in one batch: the same text, {seconds:.1f} s")


async def limits(service, books):
    """A quarter of the keys has each kind of limit, all different; all ask at the same time."""
    quarter = range(1, N_KEYS // 4 + 1)
    tokens = 10
    kinds = {"requests_per_minute": 1, "concurrency": 1, "tokens_per_day": tokens, "tokens_per_minute": tokens}
    rows = [(kind, i) for kind in kinds for i in quarter]
    keys = await asyncio.to_thread(new_keys, service, [{kind: i * kinds[kind]} for kind, i in rows])
    begin = time.monotonic()

    async def use(key, kind):
        # Ten tokens each. Those that count against concurrency outlast all others.
        fields = {"prompt": [10, 11, 12, 13], "max_tokens": 40 if kind == "concurrency" else 6}
        return await asyncio.gather(*(books.ask(service, key, **fields) for _ in range(EACH)))

    results = await asyncio.gather(*(use(key, kind) for key, (kind, _) in zip(keys, rows)))
    minutes = (time.monotonic() - begin) / 60
    for (kind, limit), answers in zip(rows, results):
        n = sum(status == 200 for status, _ in answers)
        # What flows back meanwhile may be used too.
        more = limit * minutes + 1 if kind.endswith("minute") else 0
        assert limit <= n <= limit + more, (kind, limit, n)
        assert all(status in (200, 429) for status, _ in answers)
    print(f"{N_KEYS} keys at different limits, {EACH} requests each: each got what it may, {minutes * 60:.1f} s")


async def flood(service, books, keys):
    """While one key floods the queue, requests of others are answered in their turn."""
    n_done = 0

    async def drop():
        nonlocal n_done
        status, _ = await books.ask(service, keys[0], max_tokens=16)
        n_done += status == 200

    tasks = [asyncio.create_task(drop()) for _ in range(600)]
    await asyncio.to_thread(wait_until, "the queue is full", lambda: service.figure("minerva_requests_waiting") >= 250)
    waits = []
    for key in keys[1:11]:
        before = n_done
        status, _ = await books.ask(service, key, max_tokens=16)
        assert status == 200, status
        waits.append(n_done - before)
    assert not all(task.done() for task in tasks), "the flood was over too soon"
    await asyncio.gather(*tasks)
    # Four run at once; those that ran when it came, and those beside it, end before it does.
    assert sorted(waits)[len(waits) // 2] <= 16, waits
    print(f"a flood of 600: others' requests had to wait for {sorted(waits)} of it")


async def disconnects(service, books, keys):
    """Clients go away at any time: in the queue, in prefill, in decode."""
    chance = random.Random(1)

    async def go_away(i):
        await asyncio.sleep(chance.random() * 3)
        prompt = [chance.randrange(10, 1000) for _ in range(chance.choice([1, 200]))]
        # More than any of them stays for.
        request = await Request(service, keys[i % N_KEYS], prompt=prompt, max_tokens=300).send()
        how = i % 4
        if how == 0:  # wherever it is
            await asyncio.sleep(chance.random() / 2)
        else:  # in decode
            assert await request.head() == 200
            n = 0
            async for event in request.events():
                n += 1
                if n == how * 8:
                    break
        request.leave()
        books.ends["left"] += 1

    await asyncio.gather(*(go_away(i) for i in range(240)))
    print("240 clients that go away in queue, prefill and decode")


def hey(service, books, program):
    """A load generator that we did not write."""
    body = json.dumps({"model": service.name, "prompt": "Once", "max_tokens": 1})
    command = [program, "-n", "4000", "-c", "400", "-m", "POST", "-T", "application/json", "-d", body, "-o", "csv",
               "-H", f"Authorization: Bearer {service.key}", service.url + "/v1/completions"]
    rows = list(csv.DictReader(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()))
    statuses = collections.Counter(int(row["status-code"]) for row in rows)
    assert statuses.total() == 4000 and set(statuses) == {200, 503}, statuses
    books.ends += statuses
    print(f"hey: {dict(statuses)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("minerva")
    parser.add_argument("model")
    parser.add_argument("--hey")
    args = parser.parse_args()
    # The service has it from here.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    wide = ["--context", "256", "--parallel", "1024", "--cache-tokens", "131072", "--max-waiting", "4096"]
    with Service(args.minerva, args.model, *wide) as service:
        books = Books()
        asyncio.run(streams(service, books, new_keys(service, [{}] * N_KEYS)))
        books.check(service)
    with Service(args.minerva, args.model, *wide) as service:
        books = Books()
        asyncio.run(limits(service, books))
        books.check(service)
    with Service(args.minerva, args.model, "--context", "512", "--parallel", "4", "--max-waiting", "256") as service:
        books = Books()
        keys = new_keys(service, [{}] * N_KEYS)
        asyncio.run(flood(service, books, keys))
        books.check(service)
        asyncio.run(disconnects(service, books, keys))
        books.check(service)
        if args.hey:
            hey(service, books, args.hey)
            books.check(service)


if __name__ == "__main__":
    main()
