"""A cluster's API server as far as a retraining's Job needs it, over real HTTP: no cluster can run here.

Jobs do nothing by themselves: a test says what becomes of them. What is answered has the shapes of Kubernetes'
own API (batch/v1, v1), errors as `Status` objects included.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

NAMESPACE, TEMPLATE = "leukemia", "blastwatch-retraining"


def template() -> dict[str, Any]:
    """A CronJob as the API server gives it."""
    container = {
        "name": "retraining",
        "image": "blastwatch-training:0.1.0",
        "args": ["--repo", "/repo"],
        "env": [{"name": "KEPT", "value": "1"}],
    }
    pod = {"restartPolicy": "Never", "containers": [container, {"name": "beside", "image": "x:1"}]}
    spec = {"backoffLimit": 0, "template": {"metadata": {"labels": {"a": "b"}}, "spec": pod}}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": TEMPLATE, "namespace": NAMESPACE},
        "spec": {
            "suspend": True,
            "schedule": "0 3 1 1 *",
            "jobTemplate": {"metadata": {"labels": {"c": "d"}}, "spec": spec},
        },
    }


class Api:
    """The server's state; every change is a new resource version, which those who watch see."""

    def __init__(self) -> None:
        self.cronjobs: dict[str, dict[str, Any]] = {TEMPLATE: template()}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: list[dict[str, Any]] = []
        self.logs: dict[str, str] = {}
        self.calls: list[str] = []
        self.refuse: tuple[int, str] | None = None
        """What a create is answered with."""
        self.away = False
        """Every call is answered 503."""
        self.gone = 0
        """So many watches are answered 410 Gone."""
        self.on_create: Callable[[dict[str, Any]], None] = lambda job: None
        self.changed = threading.Lock()
        self.version = 1

    def start(self, job: dict[str, Any]) -> None:
        """Take a Job in."""
        with self.changed:
            job["metadata"] |= {"namespace": NAMESPACE, "creationTimestamp": "2026-01-05T08:00:00Z"}
            self.jobs[job["metadata"]["name"]] = job
            self._touch(job)
        threading.Thread(target=self.on_create, args=(job,), daemon=True).start()

    def end(self, name: str, kind: str, reason: str = "", message: str = "") -> None:
        """A Job gets the condition Complete or Failed."""
        with self.changed:
            job = self.jobs[name]
            condition = {"type": kind, "status": "True", "reason": reason, "message": message}
            job["status"] = {"conditions": [condition]}
            self._touch(job)

    def drop(self, name: str) -> None:
        """It is deleted."""
        with self.changed:
            del self.jobs[name]
            self.version += 1

    def pod(self, job: str, name: str, status: dict[str, Any], log: str = "") -> None:
        """A pod of the Job, as it ended."""
        metadata = {
            "name": name,
            "labels": {"job-name": job},
            "creationTimestamp": f"2026-01-05T08:{len(self.pods):02}:00Z",
        }
        self.pods.append({"metadata": metadata, "spec": {"containers": []}, "status": status})
        self.logs[name] = log

    def _touch(self, job: dict[str, Any]) -> None:
        self.version += 1
        job["metadata"]["resourceVersion"] = str(self.version)


class _Handler(BaseHTTPRequestHandler):
    api: Api
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        api, url = self.api, urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")
        if self._away():
            return
        if url.path.startswith(f"/apis/batch/v1/namespaces/{NAMESPACE}/cronjobs/"):
            self._object(api.cronjobs.get(parts[-1]), parts[-1])
        elif url.path == f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs":
            self._watch(query)
        elif url.path.startswith(f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs/"):
            self._object(api.jobs.get(parts[-1]), parts[-1])
        elif url.path == f"/api/v1/namespaces/{NAMESPACE}/pods":
            wanted = query["labelSelector"].partition("=")[2]
            items = [pod for pod in api.pods if pod["metadata"]["labels"]["job-name"] == wanted]
            self._answer(200, {"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items})
        elif url.path.endswith("/log"):
            self._answer(200, api.logs.get(parts[-2], ""))
        else:
            self._status(404, "no such path")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self._away():
            return
        with self.api.changed:
            there = body["metadata"]["name"] in self.api.jobs
        if self.api.refuse is not None:
            self._status(*self.api.refuse)
        elif there:
            self._status(409, f'jobs.batch "{body["metadata"]["name"]}" already exists')
        else:
            self.api.start(body)
            self._answer(201, body)

    def do_DELETE(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        if self._away():
            return
        self.api.drop(self.path.rpartition("/")[2].partition("?")[0])
        self._answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

    def _watch(self, query: dict[str, str]) -> None:
        if self.api.gone:
            self.api.gone -= 1
            self._status(410, "too old resource version")
            return
        name = query["fieldSelector"].partition("=")[2]
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        deadline = time.monotonic() + 3.0
        while self._version(name) <= int(query["resourceVersion"]) and not self.api.away:
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        job = self.api.jobs.get(name)
        if job is not None and not self.api.away:  # a server that goes away cuts its watches
            line = json.dumps({"type": "MODIFIED", "object": job}).encode() + b"\n"
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")

    def _version(self, name: str) -> int:
        job = self.api.jobs.get(name)
        return 10**9 if job is None else int(job["metadata"]["resourceVersion"])

    def _away(self) -> bool:
        self.api.calls.append(f"{self.command} {urlsplit(self.path).path}")
        if self.api.away:
            self._status(503, "the server is currently unable to handle the request")
        return self.api.away

    def _object(self, found: dict[str, Any] | None, name: str) -> None:
        if found is None:
            self._status(404, f'"{name}" not found')
        else:
            self._answer(200, found)

    def _status(self, code: int, message: str) -> None:
        self._answer(
            code, {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code}
        )

    def _answer(self, code: int, body: object) -> None:
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("content-type", "text/plain" if isinstance(body, str) else "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def api_server(kubeconfig: Path) -> Iterator[Api]:
    """A running one; `kubeconfig` is written and leads to it."""
    api = Api()
    handler = type("Handler", (_Handler,), {"api": api})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "here", "cluster": {"server": address}}],
                "users": [{"name": "monitor", "user": {"token": "t"}}],
                "contexts": [{"name": "it", "context": {"cluster": "here", "user": "monitor"}}],
                "current-context": "it",
            }
        )
    )
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
