#!/usr/bin/env python3
"""Hurts services of its own: wrong bodies, clients that do not read, keys that are revoked, signals.

    check_faults.py MINERVA MODEL

MODEL should be small. After each, the service must answer as before, and hold nothing of what went wrong.
"""

import asyncio
import json
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

from service import Service, wait_until
from streams import Request

MINERVA, MODEL = sys.argv[1:]
ENDLESS = {"max_tokens": 3500}
BODY_LIMIT = 1 << 20


def serve(*options):
    return Service(MINERVA, MODEL, "--parallel", "8", *options)


async def ask(service, key=None, **fields):
    return await (await Request(service, key, **fields).send()).answer()


async def check_calm(service):
    """Nothing is left, and requests are answered."""
    for name in ("requests_running", "requests_waiting", "kv_cache_usage_ratio", "panics_total"):
        await asyncio.to_thread(wait_until, f"{name} is 0", lambda: service.figure(f"minerva_{name}") == 0)
    assert (await ask(service))[0] == 200


def exchange(service, head, *parts):
    """Sends bytes as they are; the status and error code that come back, or none."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as own:
        own.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {service.key}\r\n".encode())
        try:
            own.sendall(head)
            for part in parts:
                own.sendall(part)
        except OSError:
            pass  # It was refused before all of it was sent.
        answer = b""
        try:
            while b"\r\n\r\n" not in answer or (answer.endswith(b"\r\n\r\n") and b"content-length: 0" not in answer):
                more = own.recv(1 << 16)
                if not more:
                    break
                answer += more
        except OSError:
            pass
    if not answer:
        return None, None
    head, body = answer.decode().split("\r\n\r\n", 1)
    return int(head.split()[1]), json.loads(body)["error"]["code"] if body else None


def bodies():
    deep = b"[" * 1000 + b"]" * 1000
    objects = b'{"a":' * 1000 + b"1" + b"}" * 1000
    as_json = lambda body, kind=b"application/json": (
        b"Content-Type: %s\r\nContent-Length: %d\r\n\r\n" % (kind, len(body)), body)
    with serve("--max-body-bytes", str(BODY_LIMIT), "--body-timeout", "1") as service:
        name = json.dumps(service.name).encode()
        for what, expected, sent in [
            ("a thousand lists", (400, "invalid_request"), as_json(deep)),
            ("a thousand lists in a field", (400, "invalid_request"), as_json(b'{"prompt":%s}' % deep)),
            ("a thousand objects", (400, "invalid_request"), as_json(objects)),
            ("a thousand objects in a field", (400, "invalid_request"), as_json(b'{"metadata":%s}' % objects)),
            ("half of it", (400, "invalid_request"), as_json(b'{"model": "a", "prompt": "b')),
            ("nothing", (400, "invalid_request"), as_json(b"")),
            ("a list", (400, "invalid_request"), as_json(b"[]")),
            ("no number", (400, "invalid_request"), as_json(b'{"temperature": NaN}')),
            ("too large a number", (400, "invalid_request"), as_json(b'{"prompt": "a", "max_tokens": 1e999}')),
            ("not UTF-8", (400, "invalid_request"), as_json(b'{"prompt": "\xff\xfe"}')),
            ("half a surrogate", (400, "invalid_request"), as_json(b'{"prompt": "\\ud800"}')),
            ("no token of the model", (400, "invalid_request"), as_json(b'{"model":%s,"prompt":[4000000000]}' % name)),
            ("other types", (415, "unsupported_media_type"), as_json(b"{}", b"text/plain")),
            ("a length over the limit", (413, "request_too_large"),
             (b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (1 << 40),)),
            ("chunks over the limit", (413, "request_too_large"),
             (b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"8000\r\n" + b" " * 32768 + b"\r\n"] * 40)),
            ("chunks without sizes", (400, "invalid_request"),
             (b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n", b"x\r\n{}\r\n")),
            ("a body that never comes", (408, "request_timeout"),
             (b"Content-Type: application/json\r\nContent-Length: 10\r\n\r\n", b"{")),
            ("a head without end", (431, None), (b"X-Long: " + b"a" * (1 << 20),)),
            ("a head that is none", (400, None), (b"\0\0\0\r\n\r\n",)),
        ]:
            found = exchange(service, *sent)
            assert found == expected, (what, found, expected)
        asyncio.run(check_calm(service))
    print("wrong bodies: each has its error", flush=True)


async def slow_readers():
    """Who takes nothing is cut off; who takes little gets all; nobody else notices."""
    with serve("--write-timeout", "2") as service:
        bulky = {"logprobs": 5, "max_tokens": 2500}
        stuck = [await Request(service, receive_buffer=4096, **bulky).send() for _ in range(4)]
        slow = await Request(service, receive_buffer=4096, logprobs=5, max_tokens=300).send()
        async def read_slowly():
            await slow.head()
            n = 0
            async for event in slow.events():
                await asyncio.sleep(0.01)
                n += 1
            return n, event
        slowly = asyncio.create_task(read_slowly())
        assert (await ask(service, max_tokens=100))[0] == 200
        n, last = await slowly
        assert last == "[DONE]" and n >= 300, (n, last)
        aborted = lambda: service.figure("minerva_requests_finished_total", reason="abort")
        await asyncio.to_thread(wait_until, "who reads nothing is cut off", lambda: aborted() == len(stuck), 60)
        for request in [*stuck, slow]:
            request.leave()
        await check_calm(service)
    print(f"slow readers: one got its {n} events, {len(stuck)} that read nothing were cut off", flush=True)


async def revocation():
    with serve() as service:
        keys = [await asyncio.to_thread(service.make_key, name) for name in ("leaves", "stays")]
        await asyncio.sleep(1.5)
        leaves, stays = [await Request(service, key, **ENDLESS).send() for key in keys]
        assert await leaves.head() == await stays.head() == 200
        staying = asyncio.create_task(stays.events().__anext__())
        await anext(leaves.events())
        subprocess.run([MINERVA, "key", "revoke", "leaves", "--keys-file", service.keys_file], check=True, capture_output=True)
        begin = time.monotonic()
        async for event in leaves.events():
            pass
        seconds = time.monotonic() - begin
        assert event["error"]["code"] == "invalid_api_key" and seconds < 4, (event, seconds)
        assert await ask(service, keys[0]) == (401, "invalid_api_key")
        await staying
        assert "choices" in await anext(stays.events())
        stays.leave()
        await check_calm(service)
    print(f"a revoked key: its stream ended with an error after {seconds:.1f} s, another's went on", flush=True)


async def reload():
    with tempfile.TemporaryDirectory() as folder:
        settings = pathlib.Path(folder) / "minerva.toml"
        settings.write_text("[limits]\nbody_bytes = 2000\n")
        with serve("--config", settings) as service:
            ask_for_much = lambda: ask(service, prompt="a" * 3000)
            running = await Request(service, max_tokens=400).send()
            assert await running.head() == 200
            assert await ask_for_much() == (413, "request_too_large")
            settings.write_text("[limits]\nbody_bytes = 10000\n")
            service.process.send_signal(signal.SIGHUP)
            for _ in range(100):
                status, _ = await ask_for_much()
                if status == 200:
                    break
                await asyncio.sleep(0.05)
            assert status == 200
            settings.write_text('[limits]\nbody_bytes = "many"\n')
            service.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(wait_until, "the log says what is wrong", lambda: "body_bytes" in service.log.read_text())
            service.log.write_text("")
            assert (await ask_for_much())[0] == 200
            async for event in running.events():
                pass
            assert event == "[DONE]", event
            await check_calm(service)
    print("SIGHUP: new settings count, wrong ones do not, a running stream goes on", flush=True)


async def drain():
    with serve() as service:
        # Long enough that they outlast the signal and what is asked then, on a busy machine too.
        streams = [await Request(service, max_tokens=1200).send() for _ in range(8)]
        assert [await stream.head() for stream in streams] == [200] * 8
        service.process.send_signal(signal.SIGTERM)
        late = await Request(service, max_tokens=1).send()
        while await late.head() == 200:  # the signal is on its way
            late.leave()
            late = await Request(service, max_tokens=1).send()
        assert late.status == 503 and late.headers["retry-after"] and await late.error() == "shutting_down"
        for stream in streams:
            async for event in stream.events():
                pass
            assert event == "[DONE]", event
        assert await asyncio.to_thread(service.process.wait, 10) == 0
    print("SIGTERM: 8 streams finished, new work was refused", flush=True)
    with serve("--drain-timeout", "1") as service:
        stream = await Request(service, **ENDLESS).send()
        assert await stream.head() == 200
        begin = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        async for event in stream.events():
            pass
        assert event["error"]["code"] == "shutting_down", event
        assert await asyncio.to_thread(service.process.wait, 10) == 0
        seconds = time.monotonic() - begin
        assert 0.9 < seconds < 5, seconds
    print(f"after the grace time of 1 s: the stream ended with an error, the service after {seconds:.1f} s", flush=True)
    with serve() as service:
        stream = await Request(service, **ENDLESS).send()
        assert await stream.head() == 200
        service.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.5)
        assert service.process.poll() is None
        begin = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(service.process.wait, 10)
        seconds = time.monotonic() - begin
        assert seconds < 2, seconds
    print(f"a second SIGTERM: ended after {seconds:.2f} s, status {status}", flush=True)


def main():
    bodies()
    asyncio.run(slow_readers())
    asyncio.run(revocation())
    asyncio.run(reload())
    asyncio.run(drain())


if __name__ == "__main__":
    main()
