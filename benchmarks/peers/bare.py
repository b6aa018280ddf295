"""grpc.aio with nothing around the network: `python -m benchmarks.peers.bare PORT [--empty]`.

--empty answers without computing: what the load generator itself can do.
"""

import asyncio
import sys

import grpc

from benchmarks.peers.network import Network

METHOD = "bench.Bare/Classify"


async def serve(port: int, *, empty: bool) -> None:
    """Until the process is ended."""
    network = None if empty else Network()

    async def classify(image: bytes, _: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        return b"" if network is None else network.label(image).encode()

    service, method = METHOD.split("/")
    handler = grpc.unary_unary_rpc_method_handler(classify)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), empty="--empty" in sys.argv))
