#!/usr/bin/env python3
"""Runs the examples of docs/api.md as a reader would, against a real server, and opens its page.

    check_examples.py MINERVA MODEL NODE_FOLDER

Needs openai[realtime]; in NODE_FOLDER the npm packages openai, ws and jsdom are installed. The blocks of a
language are one session, from the first to the last.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "api.md"
ADDRESS = "http://127.0.0.1:8080"


def main():
    minerva, model, node_folder = sys.argv[1:]
    assert model == "smollm2", "the page names this one"
    text = PAGE.read_text()
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)
    found = {name: [code for kind, code in blocks if kind == name] for name, _ in blocks}
    serve = [minerva, "serve", model, "--port", "0", "--log-level", "error"]
    server = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
    try:
        url = next(line for line in server.stdout if "http://" in line)
        url = re.search(r"http://[0-9.:]+", url)[0]
        end = time.monotonic() + 60
        while not is_ready(url):
            assert time.monotonic() < end, "the model is not loaded after a minute"
            time.sleep(0.1)
        with tempfile.TemporaryDirectory(dir=node_folder) as folder:
            folder = pathlib.Path(folder)
            curl = [code for code in found["sh"] if code.startswith("curl")]
            for name, ending, program, codes in [
                ("curl", "sh", ["bash", "-euo", "pipefail"], curl),
                ("Python", "py", [sys.executable], found["python"]),
                ("JavaScript", "mjs", ["node"], found["javascript"]),
            ]:
                assert len(codes) >= 3, f"{name}: {len(codes)} examples"
                code = "\n".join(codes).replace(ADDRESS, url)
                code = code.replace(ADDRESS.replace("http", "ws"), url.replace("http", "ws"))
                if name == "curl":
                    code = code.replace("curl ", "curl -sSf ")
                file = folder / f"examples.{ending}"
                file.write_text(code)
                run = {"capture_output": True, "text": True, "timeout": 300, "env": environment()}
                done = subprocess.run([*program, file], **run)
                print(f"--- {name}: {len(codes)} examples\n{done.stdout}{done.stderr}")
                assert done.returncode == 0, f"{name}: {done.returncode}"
                check(name, done.stdout)
            page = folder / "docs_page.mjs"
            page.write_text(PAGE.parent.parent.joinpath("scripts", page.name).read_text())
            subprocess.run(["node", page, url], check=True, timeout=120)
    finally:
        server.terminate()
        server.wait(60)


def is_ready(url):
    try:
        return urllib.request.urlopen(url + "/health").status == 200
    except OSError:
        return False


def environment():
    """None of the reader's own settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")}


def check(name, output):
    """That the model was heard, and the last example reached."""
    wanted = ["Rayleigh"]
    if name == "curl":
        wanted += ["data: [DONE]", '"token_logprobs":[null', '"tokens":[{"id"', "<|im_start|>user"]
    else:
        wanted += ["invalid_request temperature"]
    missing = [text for text in wanted if text not in output]
    assert not missing, f"{name}: no {missing}"


main()
