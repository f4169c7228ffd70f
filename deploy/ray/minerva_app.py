"""Ray Serve over replicas of Minerva: each owns one process of the unmodified binary.

    pip install "ray[serve]"
    serve run minerva_app:app model=smollm2 replicas=2

Ray places the replicas, sends each request to one of the less busy, and starts a new one where one
fails its health check. Other arguments: `binary` (minerva), `options` (of `minerva serve`, as one text).
"""

import asyncio
import ctypes
import shlex
import signal
import subprocess

import aiohttp
from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse

# They are of one connection, or are made anew.
HOP_HEADERS = {"host", "connection", "content-length", "transfer-encoding", "keep-alive", "date"}
RETRY = {"error": {"message": "the replica is gone, try again", "type": "server_error", "param": None, "code": "replica_gone"}}


def die_with_parent():
    """The process must not outlive a replica that is killed: PR_SET_PDEATHSIG of Linux."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


# The binary has a queue of its own; Ray must not hold requests back from it.
@serve.deployment(max_ongoing_requests=1000, health_check_period_s=2, health_check_timeout_s=5, graceful_shutdown_timeout_s=60)
class Minerva:
    async def __init__(self, binary, model, options):
        command = [binary, "serve", model, "--port", "0", *shlex.split(options)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
        line = await asyncio.to_thread(self.process.stdout.readline)
        if "http" not in line:
            raise RuntimeError(f"{shlex.join(command)}: exit status {self.process.wait()}")
        self.url = line.split()[-1]
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False)
        # The model loads; a replica whose constructor has not returned gets no requests.
        while not await self.is_well("/health/startup"):
            if self.process.poll() is not None:
                raise RuntimeError(f"{shlex.join(command)}: exit status {self.process.returncode}")
            await asyncio.sleep(0.1)

    async def is_well(self, path):
        try:
            async with self.session.get(self.url + path, timeout=aiohttp.ClientTimeout(total=3)) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def check_health(self):
        if not await self.is_well("/health/live"):
            raise RuntimeError(f"minerva does not answer, exit status {self.process.poll()}")

    async def __call__(self, request: Request):
        headers = {k: v for k, v in request.headers.items() if k not in HOP_HEADERS}
        url = self.url + request.url.path + ("?" + request.url.query if request.url.query else "")
        try:
            answer = await self.session.request(request.method, url, headers=headers, data=await request.body())
        except aiohttp.ClientError:
            # Clients of OpenAI's API ask again, and then get another replica.
            return JSONResponse(RETRY, 503, {"Retry-After": "1"})

        async def pieces():
            # Closed when the client goes away, and with it the connection to the binary.
            async with answer:
                async for piece in answer.content.iter_any():
                    yield piece

        headers = {k: v for k, v in answer.headers.items() if k.lower() not in HOP_HEADERS}
        headers["x-replica"] = serve.get_replica_context().replica_id.unique_id
        return StreamingResponse(pieces(), answer.status, headers)

    async def __del__(self):
        if self.process.poll() is None:
            self.process.terminate()  # It drains.
            await asyncio.to_thread(self.process.wait)


def app(args):
    """The application, with the arguments of the command line."""
    minerva = Minerva.options(num_replicas=int(args.get("replicas", 2)))
    return minerva.bind(args.get("binary", "minerva"), args["model"], args.get("options", ""))
