#!/usr/bin/env python3
"""Runs `minerva serve` for scripts that check it; as a program, for as long as another program runs.

    service.py MINERVA MODEL COMMAND…

COMMAND gets four more arguments: the service's URL (without /v1), the model's name, an API key for
everything, and one that allows a single request at a time.
"""

import concurrent.futures
import contextlib
import http.client
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request


class Service:
    """A service on a free port, with keys of its own, that runs while the block does."""

    def __init__(self, minerva, model, *options, env=None):
        self.minerva, self.model, self.options, self.env = minerva, model, options, env

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self.folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self.keys_file = self.folder / "keys.redb"
            self.key = self.make_key("everything", "--scope", "infer,metrics,admin")
            self.log = self.folder / "log"
            command = [self.minerva, "serve", self.model, "--port", "0", "--keys-file", self.keys_file,
                       "--log-level", "error", *self.options]
            with open(self.log, "w") as log:
                self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=self.env)
            stack.callback(self._end)
            line = self.process.stdout.readline()
            if "http" not in line:
                sys.exit(f"error: the service does not start: {self.log.read_text()}")
            self.url = line.split()[-1]
            self.port = urllib.parse.urlparse(self.url).port
            wait_until("the service is ready", lambda: self.get("/health/ready", is_json=False) is not None, 60)
            self.name = self.get("/v1/models")["data"][0]["id"]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _end(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        sys.stderr.write(self.log.read_text())

    def make_key(self, name, *options):
        """A new key; the service knows it within about a second if it runs already."""
        command = [self.minerva, "key", "create", name, "--keys-file", self.keys_file, *options]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]

    def get(self, path, is_json=True):
        text = fetch(self.url + path, self.key)
        return json.loads(text) if is_json else text

    def figure(self, name, **labels):
        return figure(self.url, self.key, name, **labels)


def fetch(url, key):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return answer.read().decode()


def figure(url, key, name, **labels):
    """The sum of a metric over all of its lines with these labels."""
    lines = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)$", fetch(url + "/metrics", key), re.MULTILINE)
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(float(value) for found, value in lines if all(label in found.split(",") for label in wanted))


def wait_until(what, condition, seconds=20):
    deadline = time.monotonic() + seconds
    while True:
        # A service that starts answers 503, or not at all.
        with contextlib.suppress(OSError):
            if condition():
                return
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


@contextlib.contextmanager
def busy(url, model, single, key, n_refusals=1):
    """Holds the single place of a key until so many of its requests have been refused with 429."""
    refused = lambda: figure(url, key, "minerva_errors_total", code="concurrency_limit_exceeded")
    wanted = refused() + n_refusals
    address = urllib.parse.urlparse(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
    body = {"model": model, "prompt": "Once", "max_tokens": 3000, "ignore_eos": True, "stream": True}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {single}"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()

    def hold():
        while refused() < wanted:
            assert answer.readline(), "the answer ended before a request was refused"
        answer.close()
        connection.close()

    with concurrent.futures.ThreadPoolExecutor() as pool:
        holding = pool.submit(hold)
        yield
        holding.result()


def main():
    minerva, model, *command = sys.argv[1:]
    with Service(minerva, model, "--parallel", "4") as service:
        single = service.make_key("single", "--concurrency", "1")
        known = lambda: fetch(service.url + "/v1/models", single)
        wait_until("the service knows the second key", known)
        sys.exit(subprocess.run([*command, service.url, service.name, service.key, single]).returncode)


if __name__ == "__main__":
    main()
