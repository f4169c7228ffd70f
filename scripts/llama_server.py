"""llama.cpp's llama-server on one model, asked for log-probabilities; for the scripts that compare them."""
import json
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request


class LlamaServer:
    """Runs for as long as the block lasts. Keys and values are kept in f32."""

    def __init__(self, program, model, context, options=()):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.model = model
        self.log = tempfile.TemporaryFile("w+")
        fixed = f"-c {context} -np 1 -t 2 -ngl 0 -fa off --cache-type-k f32 --cache-type-v f32 --no-warmup"
        command = [program, "-m", model, "--host", "127.0.0.1", "--port", str(port), *fixed.split(), *options]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=subprocess.STDOUT)

    def __enter__(self):
        end = time.monotonic() + 120
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return self
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.05)
        self.__exit__()
        self.log.seek(0)
        tail = "".join(self.log.readlines()[-15:])
        raise RuntimeError(f"llama-server does not start with {self.model}:\n{tail}")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        self.log.flush()

    def top(self, prompt, forced, n_top=20):
        """The likeliest tokens after the tokens of a prompt, as pairs with their log-probabilities.

        The answer is forced to be the token `forced`, which should be a whole character:
        llama-server shows no probabilities of a token that is none. They are those before the force.
        """
        request = {
            "prompt": prompt, "n_predict": 1, "n_probs": n_top, "post_sampling_probs": False,
            "temperature": 0, "cache_prompt": False, "logit_bias": [[forced, 1000.0]],
        }
        request = urllib.request.Request(
            f"{self.url}/completion", json.dumps(request).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            answer = json.load(response)
        if answer["tokens_evaluated"] != len(prompt):
            raise RuntimeError(f"{answer['tokens_evaluated']} tokens evaluated of {len(prompt)}")
        top = answer["completion_probabilities"][0]["top_logprobs"]
        if len(top) != n_top:
            raise RuntimeError(f"{len(top)} log-probabilities, wanted {n_top}")
        return [[token["id"], token["logprob"]] for token in top]
