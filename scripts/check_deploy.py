#!/usr/bin/env python3
"""Checks deploy/: the Helm chart, rendered, the unit of systemd, and the proxies before two replicas.

    check_deploy.py MINERVA [--envoy ENVOY] [--haproxy HAPROXY]

Needs helm-python-sdk, kubernetes-validate, PyYAML and systemd-analyze. A conversation must stay on one replica,
conversations must be spread over both, and a replica that is killed, or dies over a request, must cost none.
"""

import argparse
import http.client
import json
import pathlib
import re
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
import time

import helm_python
import kubernetes_validate
import yaml

DEPLOY = pathlib.Path(__file__).resolve().parent.parent / "deploy"
KUBERNETES = "1.37"
N_SESSIONS = 24


def render(values):
    chart = helm_python.Chart.load(DEPLOY / "helm/minerva")
    rendered = chart.render(values, name="llm", namespace="ai")
    return [o for text in rendered.values() for o in yaml.safe_load_all(text) if o]


def check_chart(minerva, folder):
    report = helm_python.lint(DEPLOY / "helm/minerva", strict=True)
    problems = [m for m in report["messages"] if m["severity"] > 1]
    assert not report["errors"] and not problems, report
    everything = {
        "autoscaling": {"enabled": True},
        "inferencePool": {"enabled": True},
        "keys": {"secret": "minerva-keys"},
        "models": {"persistentVolumeClaim": "models"},
        "settings": {"auth": {"mode": "required"}, "listen": {"allowed_hosts": ["llm.example"]},
                     "models": [{"name": "a", "load": True, "context": 4096}, {"name": "b", "aliases": ["c"]}],
                     "limits": {"body_bytes": 1 << 20}, "timeouts": {"drain_seconds": 7}},
        "nodeSelector": {"a": "b"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
    }
    for values, kinds in [
        ({}, ["ConfigMap", "Deployment", "Service"]),
        (everything, ["ConfigMap", "Deployment", "HorizontalPodAutoscaler", "InferencePool", "Service"]),
    ]:
        objects = render(values)
        assert sorted(o["kind"] for o in objects) == kinds, [o["kind"] for o in objects]
        for o in objects:
            if o["kind"] != "InferencePool":
                kubernetes_validate.validate(o, KUBERNETES, strict=True)
        settings = next(o for o in objects if o["kind"] == "ConfigMap")["data"]["minerva.toml"]
        (folder / "minerva.toml").write_text(settings)
        subprocess.run([minerva, "config", "check", "--config", folder / "minerva.toml"], check=True)
    pool = next(o for o in objects if o["kind"] == "InferencePool")["spec"]
    pod = next(o for o in objects if o["kind"] == "Deployment")["spec"]["template"]
    assert pool["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    port = pod["spec"]["containers"][0]["ports"][0]["containerPort"]
    assert pool["targetPorts"] == [{"number": port}], pool
    scaler = next(o for o in objects if o["kind"] == "HorizontalPodAutoscaler")["spec"]["metrics"]
    known = (DEPLOY.parent / "crates/server/src/metrics.rs").read_text()
    assert all(f'"{metric["pods"]["metric"]["name"]}"' in known for metric in scaler), scaler
    print("chart: ok")


def check_unit(minerva, folder):
    """systemd has nothing to say about the unit, where it finds the program."""
    text = (DEPLOY / "systemd/minerva.service").read_text()
    assert "/usr/local/bin/minerva " in text
    unit = folder / "minerva.service"
    unit.write_text(text.replace("/usr/local/bin/minerva ", f"{minerva} "))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True)
    # Unknown settings are no errors to it, but lines.
    said = [line for line in done.stderr.splitlines() if "minerva.service" in line]
    assert done.returncode == 0 and not said, done.stderr
    print("unit: ok")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ask(port, path, headers={}, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    method = "GET" if body is None else "POST"
    if body is not None:
        headers = {"Content-Type": "application/json", **headers}
        body = json.dumps(body)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, text


def wait_for(what, condition, seconds=20):
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


class Replicas:
    """Two servers, and how many requests each has answered on paths that no server has."""

    PATH = "/v1/proof-of-routing"

    def __init__(self, minerva, folder):
        self.ports = [free_port(), free_port()]
        env = {"MINERVA_HOME": str(folder), "MINERVA_LOG_LEVEL": "error", "PATH": "/usr/bin:/bin"}
        self.processes = [
            subprocess.Popen([minerva, "serve", "--port", str(port)], env=env, stdout=subprocess.DEVNULL)
            for port in self.ports
        ]
        for port in self.ports:
            wait_for("replica", lambda: ask(port, "/health/ready")[0] == 200)

    def answered(self, i):
        text = ask(self.ports[i], "/metrics")[2]
        found = re.findall(r'minerva_http_requests_total\{.*route="other".*\} (\d+)', text)
        return sum(map(int, found))

    def of_request(self, proxy, headers={}, body=None):
        """Which replica answers it."""
        before = [self.answered(i) for i in range(2)]
        status, _, text = ask(proxy, self.PATH, headers, body)
        assert status == 404 and "unknown_url" in text, (status, text)
        grew = [self.answered(i) - before[i] for i in range(2)]
        assert sorted(grew) == [0, 1], grew
        return grew.index(1)

    def kill(self, i):
        self.processes[i].kill()
        self.processes[i].wait()

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()


class Dying(socketserver.StreamRequestHandler):
    """A replica that is well, and gone when it has read a request."""

    n_read = 0

    def handle(self):
        lines = iter(lambda: self.rfile.readline().strip(), b"")
        first, *headers = lines
        length = [int(line.split(b":")[1]) for line in headers if line.lower().startswith(b"content-length:")]
        self.rfile.read(sum(length))
        if first.startswith(b"GET /health"):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        else:
            Dying.n_read += 1


def check_proxy(name, minerva, folder, command, config, reads_bodies):
    replicas = Replicas(minerva, folder)
    port = free_port()
    text = (DEPLOY / config).read_text()
    for known, actual in zip(("8080", "8081", "8082"), (port, *replicas.ports)):
        assert known in text, known
        text = re.sub(rf"\b{known}\b", str(actual), text)
    path = folder / pathlib.Path(config).name
    path.write_text(text)
    proxy = subprocess.Popen([*command, path], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(name, lambda: ask(port, "/health/ready", {"X-Session-Id": "a"})[0] == 200)
        homes = {}
        for turn in range(3):
            for i in range(N_SESSIONS):
                home = replicas.of_request(port, {"X-Session-Id": f"conversation-{i}"})
                assert homes.setdefault(i, home) == home, f"conversation {i} moved in turn {turn}"
        assert set(homes.values()) == {0, 1}, "all conversations are on one replica"
        if reads_bodies:
            for field in ("prompt_cache_key", "user"):
                homes = {}
                for turn in range(2):
                    for i in range(N_SESSIONS):
                        home = replicas.of_request(port, {}, {"messages": [], field: f"c{i}"})
                        assert homes.setdefault(i, home) == home, (field, i)
                assert set(homes.values()) == {0, 1}, field
        # Nobody has told the proxy yet.
        replicas.kill(0)
        for i in range(N_SESSIONS):
            status, _, text = ask(port, Replicas.PATH, {"X-Session-Id": f"conversation-{i}"})
            assert status == 404 and "unknown_url" in text, (i, status, text)
        socketserver.ThreadingTCPServer.allow_reuse_address = True
        with socketserver.ThreadingTCPServer(("127.0.0.1", replicas.ports[0]), Dying) as dying:
            threading.Thread(target=dying.serve_forever, daemon=True).start()
            Dying.n_read = 0
            # Until the proxy has seen that it is well again.
            for turn in range(200):
                for i in range(N_SESSIONS):
                    headers = {"X-Session-Id": f"conversation-{i}"}
                    status, _, text = ask(port, Replicas.PATH, headers, {"messages": []})
                    assert status == 404 and "unknown_url" in text, (i, status, text)
                if Dying.n_read > 0:
                    break
                time.sleep(0.1)
            assert Dying.n_read > 0, "no request reached the replica that dies over it"
            dying.shutdown()
        print(f"{name}: ok, {N_SESSIONS} conversations stay, none is lost with a replica")
    finally:
        proxy.terminate()
        proxy.wait()
        replicas.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("minerva", type=pathlib.Path)
    parser.add_argument("--envoy")
    parser.add_argument("--haproxy")
    args = parser.parse_args()
    minerva = args.minerva.resolve()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        check_chart(minerva, folder)
        check_unit(minerva, folder)
        if args.haproxy:
            check_proxy("haproxy", minerva, folder, [args.haproxy, "-f"], "haproxy/haproxy.cfg", True)
        if args.envoy:
            # The base id keeps it apart from any other Envoy of this machine.
            command = [args.envoy, "--use-dynamic-base-id", "-c"]
            check_proxy("envoy", minerva, folder, command, "envoy/envoy.yaml", False)


if __name__ == "__main__":
    sys.exit(main())
