#!/usr/bin/env python3
"""Holds the service to its own description, /openapi.json, with schemathesis.

    check_openapi.py MINERVA MODEL [SECONDS]

Needs schemathesis. MINERVA is the program, MODEL a model that is there. Starts a server that asks for
keys, and has schemathesis send what the description allows and what it does not, for SECONDS (100).
"""

import gzip
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

import jsonschema

minerva, model = sys.argv[1:3]
seconds = sys.argv[3] if len(sys.argv) > 3 else "100"
MESSAGES = [{"role": "user", "content": "Say hello."}]


def main():
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        # A key of a shared file is one that /admin/keys cannot revoke.
        made = [minerva, "key", "create", "check", "--scope", "infer,metrics,admin"]
        made += ["--keys-file", folder / "other.redb"]
        key = subprocess.run(made, check=True, capture_output=True, text=True).stdout.strip()
        with open(folder / "keys.json", "w") as file:
            export = [minerva, "key", "export", "--keys-file", folder / "other.redb"]
            subprocess.run(export, check=True, stdout=file)
        # A short context bounds answers; some bodies are over the limit.
        serve = [minerva, "serve", model, "--port", "0", "--context", "128", "--auth", "required"]
        serve += ["--keys-file", folder / "keys.redb", "--shared-keys", folder / "keys.json"]
        serve += ["--max-body-bytes", "65536", "--log-level", "error"]
        server = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
        try:
            url = next(found[0] for line in server.stdout if (found := re.search(r"http://[0-9.:]+", line)))
            end = time.monotonic() + 60
            while json.load(get(url + "/health/live"))["status"] == "loading":
                assert time.monotonic() < end, "the model is not loaded after a minute"
                time.sleep(0.1)
            page(url)
            document = json.load(get(url + "/openapi.json"))
            streams(url, key, document)
            failed = fuzz(url, key, document, folder)
            count(url, key, document)
        finally:
            server.terminate()
            server.wait(60)
    sys.exit(failed or server.returncode)


def get(url, key="", body=None):
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    return urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60)


def page(url):
    """The page on which to try the API: all that it needs is there, and whole."""
    html = get(url + "/docs").read().decode()
    files = re.findall(r'(?:src|href)="(docs/[^"]+)"', html)
    assert len(files) == 3 and "://" not in html, html
    for file in files:
        answer = get(f"{url}/{file}")
        content = answer.read()
        if answer.headers["Content-Encoding"] == "gzip":
            # It fails where the sum of the content is wrong.
            content = gzip.decompress(content)
        print(f"{file}: {len(content)} bytes")


def streams(url, key, document):
    """Every event of a stream follows what the description says of its data."""
    for path, body in [
        ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 8, "logprobs": True, "top_logprobs": 2}),
        ("/v1/completions", {"prompt": "The sky is", "max_tokens": 8, "logprobs": 2, "echo": True}),
        ("/v1/responses", {"input": "Say hello.", "max_output_tokens": 8}),
    ]:
        media = document["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]
        schema = media["schema"]["properties"]["data"]["anyOf"][0]["contentSchema"]
        validator = jsonschema.Draft202012Validator({**schema, "components": document["components"]})
        if path != "/v1/responses":
            body |= {"stream_options": {"include_usage": True}, "return_progress": True}
        text = get(url + path, key, {**body, "stream": True}).read().decode()
        data = re.findall(r"^data: (.*)$", text, re.M)
        for event in (json.loads(line) for line in data if line != "[DONE]"):
            validator.validate(event)
        print(f"{path}: {len(data)} events as described")


def fuzz(url, key, document, folder):
    # What is sent should get past the name of the model and the length of the answer, most times.
    schemas = document["components"]["schemas"]
    for name in ["ChatRequest", "CompletionRequest", "ResponseRequest", "TokenizeRequest", "DetokenizeRequest"]:
        fields = schemas[name]["properties"]
        fields["model"] = {"enum": [model, None]}
        for field in fields.keys() & {"max_tokens", "max_completion_tokens", "max_output_tokens"}:
            fields[field]["maximum"] = 8
    for kind in schemas["CompletionRequest"]["properties"]["prompt"]["anyOf"][1:]:
        for items in (kind["items"], kind["items"].get("items", {})):
            if items.get("type") == "integer":
                items["maximum"] = 1000
    # An answer can be refused for what no schema says, such as two fields that contradict each
    # other, so that what is allowed need not be accepted.
    path = folder / "openapi.json"
    common = ["run", path, "--url", url, "--header", f"Authorization: Bearer {key}"]
    common += ["--checks", "all", "--exclude-checks", "positive_data_acceptance", "--seed", "1"]
    common += ["--request-timeout", "60", "--warnings", "off", "--no-color"]
    # What it found in another run says nothing.
    common += ["--generation-database", "none"]
    # First what should be answered, which takes its time, then all that can be wrong.
    right = ["--mode", "positive", "--phases", "fuzzing", "--max-examples", "40"]
    right += ["--include-tag-regex", "chat|completions|responses|token|apply"]
    program = pathlib.Path(sys.executable).with_name("schemathesis")
    for more, share, required in [(right, 0.4, ["input"]), (["--max-examples", "20"], 0.6, [])]:
        # A response without input is right, but mostly has nothing to answer.
        schemas["ResponseRequest"]["required"] = required
        path.write_text(json.dumps(document))
        limit = str(max(1, round(int(seconds) * share)))
        done = subprocess.run([program, *common, *more, "--max-time", limit], cwd=folder)
        if done.returncode:
            return done.returncode
    return 0


def count(url, key, document):
    """What was answered, by status; each route that computes answered well some times."""
    text = get(url + "/metrics", key).read().decode()
    found = re.findall(r'^minerva_http_requests_total{method="(\w+)",route="(.*)",status="(\d+)"} (\d+)', text, re.M)
    for path, methods in document["paths"].items():
        for method in methods:
            counts = {s: int(n) for m, route, s, n in found if (m, route.replace("{*", "{")) == (method.upper(), path)}
            print(f"{method} {path}: {counts}")
            is_work = "429" in methods[method]["responses"] and "200" in methods[method]["responses"]
            assert counts.get("200", 0) > 2 or not is_work, f"{path} was hardly answered"
    assert "\nminerva_panics_total 0\n" in text, "something panicked"


main()
