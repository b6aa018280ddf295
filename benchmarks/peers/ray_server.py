"""Ray Serve: `python -m benchmarks.peers.ray_server PORT`. The image is the body."""

import sys
import time

import ray
from ray import serve
from starlette.requests import Request

from benchmarks.peers.network import Network


class Classifier:
    """One cell a call."""

    def __init__(self) -> None:
        self._network = Network()

    async def __call__(self, request: Request) -> dict[str, str]:
        """The label."""
        return {"label": self._network.label(await request.body())}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(serve.deployment(num_replicas=1, max_ongoing_requests=256)(Classifier).bind())
    while True:
        time.sleep(60)
