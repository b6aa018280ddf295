"""One core of serving, beside other servers: `python -m benchmarks.serving [--only NAME …] [--seconds 3]`.

The same graph and images behind each server, which has one core; the load generator has the other. Rounds are
interleaved, so that a slow minute of the machine meets all alike; a figure is the median over the rounds. Ours has
tokens, journal, store, metrics and sampled traces on. Environments are made once, in --cache; after that a run with the
defaults is meant to take about 15 minutes. The artifact is what `dvc repro` made. Writes benchmarks/results/serving.md
and serving.png; with --only it prints the table and writes nothing.
"""

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from PIL import Image

from benchmarks.load import Check, GrpcLoad, HttpLoad, Point, closed, opened
from benchmarks.peer_processes import (
    COMMON,
    ENVIRONMENTS,
    ROOT,
    Environment,
    Unavailable,
    environment,
    free_port,
    server,
)
from benchmarks.peers.network import ARTIFACT, Network
from service.contract.files import write_atomic
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.proto.inference import open_inference_pb2 as oip
from service.tokens import Role, add
from training.datasets.smear.generator import Spec
from training.datasets.smear.kinds import KIND_NAMES
from training.datasets.synthetic import SITES, draw_stored

RESULT = ROOT / "benchmarks" / "results" / "serving.md"
CLIENTS = (1, 16, 64)
IMAGES, SIDE, QUALITY = 64, 256, 90
SERVER_CORE, LOAD_CORE = 0, 1
MODEL = "blast-classifier"
OURS_GRPC, OURS_OIP, OURS_HTTP = "ours, gRPC", "ours, gRPC OIP", "ours, HTTP"
BARE, MLSERVER, LITSERVE, RAY = "bare grpc.aio", "MLServer, gRPC", "LitServe", "Ray Serve"
BENTOML, BATCHED = "BentoML, HTTP", "BentoML, HTTP, batchable"
EMPTY_GRPC, EMPTY_HTTP = "empty gRPC server", "empty HTTP server"
NAIVE, LIMIT, LIMIT_16 = "naive in-process loop", "in-process loop", "in-process loop, batches of 16"
RATIOS = (
    (OURS_GRPC, BARE, 0.95), (OURS_GRPC, MLSERVER, 1.15), (OURS_GRPC, LITSERVE, 1.35), (OURS_GRPC, BENTOML, 1.5),
    (OURS_HTTP, BENTOML, 1.1), (OURS_GRPC, NAIVE, 0.9),
)  # fmt: skip
START_S, WORKER_MB, P99_HALF, P99_OVERLOAD = 5.0, 400.0, 3.0, 2.0


@dataclass(frozen=True)
class Material:
    """What is sent, and what must come back."""

    images: list[bytes]
    labels: list[str]
    pixel_size_um: float
    """The scale at which the whole picture is the model's field; ours is told, or it would refer every cell."""

    def inference(self) -> list[bytes]:
        """As requests of the Open Inference Protocol."""
        return [
            oip.ModelInferRequest(
                model_name=MODEL,
                parameters={"pixel_size_um": {"double_param": self.pixel_size_um}},  # type: ignore[dict-item]
                inputs=[{"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [image]}}],  # type: ignore[list-item]
            ).SerializeToString()
            for image in self.images
        ]

    def base64(self, wrap: Callable[[str], object]) -> list[bytes]:
        """As JSON."""
        return [json.dumps(wrap(base64.b64encode(image).decode())).encode() for image in self.images]


@dataclass(frozen=True)
class Peer:
    """How a server is started, and the ways to load it: {row of the table: port → load}."""

    environment: str
    command: Callable[[Environment, int, Path], Sequence[str]]
    ready: str
    loads: Mapping[str, Callable[[int, str], GrpcLoad | HttpLoad]]


@dataclass
class Row:
    """One line of the table, a list entry a round."""

    points: dict[int, list[Point]] = field(default_factory=dict)
    ready_s: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    worker_megabytes: list[float] = field(default_factory=list)
    installed: float = 0.0
    error: str = ""

    def rates(self, clients: int) -> list[float]:
        """Requests a second, a round each."""
        return [point.rate for point in self.points.get(clients, [])]

    @property
    def best(self) -> float:
        """The median rate at the number of clients where it is highest; 0 when there is none."""
        return max((statistics.median(self.rates(clients)) for clients in self.points), default=0.0)


def material(artifact: Path, seed: int = 0) -> Material:
    """Generated cells as a camera's crop: 256×256, JPEG; labels by the graph itself."""
    specs = [Spec(f"benchmark-{k // 8}", k, KIND_NAMES[k % len(KIND_NAMES)]) for k in range(IMAGES)]
    images = []
    for cell in draw_stored(SITES["site-a"], seed, specs):
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(cell.image)) as picture:
            picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=QUALITY)
        images.append(buffer.getvalue())
    os.environ[ARTIFACT] = str(artifact)
    network = Network()
    return Material(
        images, [network.label(image) for image in images], network.field.width * network.field.pixel_size_um / SIDE
    )


def in_process(sent: Material, batch: int, seconds: float, *, whole: bool = False) -> Point:
    """Decode (`whole`: JPEGs at their full size) and infer in a loop, on the servers' core."""
    network, point = Network(whole=whole), Point()
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CORE})
    try:
        network.batch(sent.images[:batch])
        started = time.perf_counter()
        turn = 0
        while time.perf_counter() < started + seconds:
            began = time.perf_counter()
            network.batch([sent.images[(turn + k) % IMAGES] for k in range(batch)])
            point.latencies += [time.perf_counter() - began] * batch
            turn += batch
        point.seconds = time.perf_counter() - started
    finally:
        os.sched_setaffinity(0, before)
    return point


def peers(sent: Material) -> dict[str, Peer]:
    """By the short names that --only takes."""

    def module(name: str, *options: str) -> Callable[[Environment, int, Path], Sequence[str]]:
        return lambda made, port, _: [str(made.python), "-m", f"benchmarks.peers.{name}", str(port), *options]

    def bento(name: str) -> Callable[[Environment, int, Path], Sequence[str]]:
        target = f"benchmarks.peers.bentoml_server:{name}"
        return lambda made, port, _: [
            *(str(made.python), "-m", "bentoml", "serve", target),
            *("--host", "127.0.0.1", "--port", str(port), "--working-dir", str(ROOT)),
        ]

    def grpc_load(method: str, requests: list[bytes], check: Check) -> Callable[[int, str], GrpcLoad]:
        return lambda port, token: GrpcLoad(port, method, requests, sent.labels, check, token)

    def http_load(
        path: str, bodies: list[bytes], check: Check, kind: str, more: str = ""
    ) -> Callable[[int, str], HttpLoad]:
        def made(port: int, token: str) -> HttpLoad:
            headers = f"Content-Type: {kind}\r\n{more}" + (f"Authorization: Bearer {token}\r\n" if token else "")
            return HttpLoad(port, path, bodies, sent.labels, check, headers)

        return made

    infer, json_kind, jpeg = "inference.GRPCInferenceService/ModelInfer", "application/json", "image/jpeg"
    one = sent.base64(lambda text: {"image": text})
    several = sent.base64(lambda text: {"images": [text]})
    bare = "bench.Bare/Classify"
    return {
        "ours": Peer("ours", lambda made, *_: [str(made.python), "-m", "service"], "/readyz", {
            OURS_GRPC: grpc_load(
                "blastwatch.v1.BlastClassifier/Classify",
                [pb.Cell(image=i, pixel_size_um=sent.pixel_size_um).SerializeToString() for i in sent.images], _typed,
            ),
            OURS_OIP: grpc_load(infer, sent.inference(), _inferred),
            OURS_HTTP: http_load(
                "/v1/classify", sent.images, _json, jpeg, f"Blastwatch-Pixel-Size-Um: {sent.pixel_size_um}\r\n"
            ),
        }),
        "bare": Peer("grpc", module("bare"), "", {BARE: grpc_load(bare, sent.images, _text)}),
        "mlserver": Peer("mlserver", _mlserver, "", {MLSERVER: grpc_load(infer, sent.inference(), _inferred)}),
        "litserve": Peer("litserve", module("litserve_server"), "/health", {
            LITSERVE: http_load("/predict", one, _json, json_kind),
        }),
        "bentoml": Peer("bentoml", bento("Plain"), "/readyz", {
            BENTOML: http_load("/classify", one, _json, json_kind),
        }),
        "batchable": Peer("bentoml", bento("Batched"), "/readyz", {
            BATCHED: http_load("/classify", several, _json_list, json_kind),
        }),
        "ray": Peer("ray", module("ray_server"), "/-/healthz", {RAY: http_load("/", sent.images, _json, jpeg)}),
        "empty": Peer("grpc", module("bare", "--empty"), "", {EMPTY_GRPC: grpc_load(bare, sent.images, _anything)}),
        "empty-http": Peer("grpc", module("empty_http"), "", {
            EMPTY_HTTP: http_load("/", sent.images, _anything, jpeg),
        }),
    }  # fmt: skip


def _mlserver(made: Environment, port: int, folder: Path) -> Sequence[str]:
    settings = {
        "host": "127.0.0.1", "grpc_port": port, "http_port": free_port(), "metrics_port": free_port(),
        "parallel_workers": 0, "debug": False,
    }  # fmt: skip
    implementation = "benchmarks.peers.mlserver_runtime.Classifier"
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "model-settings.json").write_text(json.dumps({"name": MODEL, "implementation": implementation}))
    return [str(made.python.parent / "mlserver"), "start", str(folder)]


@contextlib.contextmanager
def _ours(folder: Path, artifact: Path, port: int, http: int) -> Iterator[tuple[dict[str, str], str]]:
    """Variables of our service with everything on, and a token; a collector takes its traces meanwhile."""
    tokens, collector = folder / "tokens.json", free_port()
    token = add(tokens, "bench", [Role.INFER])
    variables = {
        "GRPC_PORT": port, "HTTP_PORT": http, "HEALTH_PORT": free_port(), "SEED_MODEL": artifact,
        "TOKENS_FILE": tokens, "TRACE_ENDPOINT": f"http://127.0.0.1:{collector}/v1/traces", "TRACE_SAMPLE": "0.01",
        "KNOWN_CLIENTS": "bench",
    }  # fmt: skip
    aside = folder / "collector"
    aside.mkdir()
    command = [sys.executable, "-m", "benchmarks.peers.empty_http", str(collector)]
    with server(command, core=LOAD_CORE, port=collector, path="", variables={}, cwd=aside):
        yield {f"BLASTWATCH_{name}": str(value) for name, value in variables.items()}, token


class Run:
    """The measurement: rounds over the peers that were asked for."""

    def __init__(self, arguments: argparse.Namespace, sent: Material) -> None:
        self._arguments, self._sent = arguments, sent
        self.rows: dict[str, Row] = {}
        self.half: list[tuple[float, float]] = []
        """p99 at half of saturation over the single-request median, and the rate offered, a round each."""
        self.overload: list[tuple[float, Point]] = []
        """p99 of accepted work at 4× saturation over that at saturation, a round each."""

    async def all(self) -> None:
        """Every round."""
        asked = peers(self._sent)
        for number in range(self._arguments.rounds):
            for name, batch in ((NAIVE, 1), (LIMIT, 1), (LIMIT_16, 16)):
                point = in_process(self._sent, batch, self._arguments.seconds, whole=name == NAIVE)
                self.rows.setdefault(name, Row()).points.setdefault(1, []).append(point)
                print(f"round {number + 1}: {name}: {point.rate:.0f}/s", flush=True)
            for name in self._arguments.only or asked:
                await self._peer(asked[name], ours=name == "ours", number=number)

    async def _peer(self, peer: Peer, *, ours: bool, number: int) -> None:
        rows = [self.rows.setdefault(name, Row()) for name in peer.loads]
        if any(row.error for row in rows):
            return
        try:
            made = environment(self._arguments.cache, peer.environment)
            with tempfile.TemporaryDirectory(prefix="blastwatch-bench-", ignore_cleanup_errors=True) as folder:
                await self._loaded(peer, made, Path(folder), ours=ours, number=number)
        except Unavailable as error:
            print(f"{', '.join(peer.loads)}: {error}", flush=True)
            for row in rows:
                row.error = str(error)

    async def _loaded(self, peer: Peer, made: Environment, folder: Path, *, ours: bool, number: int) -> None:
        seconds, artifact = self._arguments.seconds, self._arguments.artifact
        port, http = free_port(), free_port()
        with contextlib.ExitStack() as stack:
            variables, token = {ARTIFACT: str(artifact), "BENTOML_HOME": str(folder / "bentoml")}, ""
            if ours:
                added, token = stack.enter_context(_ours(folder, artifact, port, http))
                variables |= added
            # Ours answers /readyz over HTTP, whichever protocol is measured.
            running = stack.enter_context(
                server(
                    peer.command(made, port, folder),
                    core=SERVER_CORE, port=http if ours else port, path=peer.ready, variables=variables, cwd=folder,
                )
            )  # fmt: skip
            for name, load in peer.loads.items():
                row = self.rows[name]
                row.ready_s.append(running.ready_s)
                row.installed = row.installed or made.megabytes()
                send = load(http if name == OURS_HTTP else port, token)
                watching = asyncio.create_task(running.watch())
                try:
                    await closed(send, clients=8, seconds=min(2.0, seconds), images=IMAGES)
                    for clients in CLIENTS:
                        point = await closed(send, clients=clients, seconds=seconds, images=IMAGES)
                        row.points.setdefault(clients, []).append(point)
                        print(
                            f"round {number + 1}: {name}: {clients} clients: {point.rate:.0f}/s, "
                            f"p50 {1000 * point.quantile(0.5):.1f} ms, p99 {1000 * point.quantile(0.99):.1f} ms, "
                            f"{point.failed + point.refused} failed",
                            flush=True,
                        )
                    row.megabytes.append(running.peak_megabytes)
                    row.worker_megabytes.append(running.largest_megabytes())
                finally:
                    watching.cancel()
                    await send.close()
            # Last: what an overload leaves to ship would slow the closed loops behind it.
            if OURS_GRPC in peer.loads:
                send = peer.loads[OURS_GRPC](port, token)
                try:
                    await self._opened(send, self.rows[OURS_GRPC], number)
                finally:
                    await send.close()

    async def _opened(self, send: GrpcLoad | HttpLoad, row: Row, number: int) -> None:
        """Arrivals that do not wait for answers: half of what it can do, and four times that."""
        latest = {clients: points[-1] for clients, points in row.points.items()}
        top = max(latest.values(), key=lambda point: point.rate)
        if not top.latencies or not latest[1].latencies:
            return
        seconds = self._arguments.seconds
        half = await opened(send, rate=top.rate / 2, seconds=seconds, images=IMAGES, seed=number)
        self.half.append((half.quantile(0.99) / latest[1].quantile(0.5), top.rate / 2))
        over = await opened(send, rate=4 * top.rate, seconds=seconds, images=IMAGES, seed=number)
        full = latest[max(CLIENTS)]
        self.overload.append((over.quantile(0.99) / full.quantile(0.99), over))


def report(run: Run, arguments: argparse.Namespace) -> str:
    """The result as Markdown."""
    lines = [
        "# One core of serving, beside other servers\n",
        f"`python -m benchmarks.serving`, {datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores of {_processor()}, "
        f"Python {platform.python_version()}. Server on core {SERVER_CORE}, load on core {LOAD_CORE}; "
        f"{IMAGES} generated cells, {SIDE}×{SIDE} JPEG; {arguments.rounds} rounds of {arguments.seconds:g} s a point. "
        "Every server decodes alike, as the model's field says; the naive loop decodes JPEGs at their full size. "
        "Median (least–most) over the rounds; an answer with a wrong label counts as failed. Memory: the "
        "most that all its processes had at once during the load, pages that they share counted once (PSS).\n",
        "| server | " + " | ".join(f"{n} clients, requests/s" for n in CLIENTS)
        + " | p50 / p99 at 16, ms | peak memory, MB | installed, MB | start, s | failed |",
        "|---|" + "---:|" * (len(CLIENTS) + 5),
        *(_line(name, row) for name, row in run.rows.items()),
        "",
        "| ours | what | asked for | |",
        "|---|---:|---:|---|",
        *judged(run),
        "",
        "Versions: " + "; ".join(f"{name}: {', '.join(pins(name))}" for name in ENVIRONMENTS)
        + f"; everywhere {', '.join(COMMON)}.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def pins(name: str) -> list[str]:
    """An environment's packages as they are asked for, without folders."""
    return [re.sub(r"^.*/[^\[]*\[", "this repository[", pin) for pin in ENVIRONMENTS[name]]


def judged(run: Run) -> Iterator[str]:
    """Each target, what was measured, and whether it is met."""
    for ours, other, asked in RATIOS:
        mine, theirs = (run.rows[name].best if name in run.rows else 0.0 for name in (ours, other))
        if mine and theirs:
            yield _judged(f"{ours} / {other}", mine / theirs, asked, at_least=True)
    if run.half:
        yield _judged("p99 at half of saturation / single median", _middle(run.half), P99_HALF)
    if run.overload:
        yield _judged("p99 accepted at 4× overload / p99 at saturation", _middle(run.overload), P99_OVERLOAD)
    if (row := run.rows.get(OURS_GRPC)) and row.worker_megabytes:
        yield _judged("start to ready, s", statistics.median(row.ready_s), START_S)
        yield _judged("largest process, resident, MB", statistics.median(row.worker_megabytes), WORKER_MB)


def _middle(pairs: Sequence[tuple[float, object]]) -> float:
    return statistics.median(ratio for ratio, _ in pairs)


def _judged(what: str, value: float, asked: float, *, at_least: bool = False) -> str:
    # Judged as measured, not as rounded; no figure at all (NaN) is a miss.
    met = value >= asked if at_least else value <= asked
    return f"| {what} | {value:.2f} | {'≥' if at_least else '≤'} {asked:g} | {'met' if met else '**missed**'} |"


def _line(name: str, row: Row) -> str:
    if row.error:
        return f"| {name} | {row.error.replace('|', '/')} |" + " |" * (len(CLIENTS) + 4)
    rates = [_spread(row.rates(clients)) for clients in CLIENTS]
    middle = row.points.get(16) or row.points.get(1, [])
    times = " / ".join(
        f"{1000 * statistics.median(point.quantile(share) for point in middle):.1f}" for share in (0.5, 0.99)
    ) if middle else ""  # fmt: skip
    failed = sum(point.failed + point.refused for points in row.points.values() for point in points)
    cells = [*rates, times, _spread(row.megabytes), f"{row.installed:.0f}" if row.installed else ""]
    return f"| {' | '.join((name, *cells, _spread(row.ready_s, 1), str(failed)))} |"


def _spread(values: Sequence[float], digits: int = 0) -> str:
    if not values:
        return ""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def picture(run: Run, path: Path) -> None:
    """Requests a second of each server at 16 clients (the loops: of one), as bars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {
        name: statistics.median(row.rates(16) or row.rates(1))
        for name, row in run.rows.items()
        if (row.rates(16) or row.rates(1)) and name not in (EMPTY_GRPC, EMPTY_HTTP)
    }
    ordered = sorted(shown, key=lambda name: shown[name])
    figure = Figure(figsize=(8, 0.4 * len(ordered) + 1), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    colours = ["tab:blue" if name.startswith("ours") else "0.7" for name in ordered]
    axes.bar_label(axes.barh(ordered, [shown[name] for name in ordered], color=colours), fmt="%.0f")
    axes.margins(x=0.08)
    axes.set_xlabel("requests a second on one core, 16 clients")
    figure.savefig(path, dpi=120)


def _typed(reply: bytes, label: str) -> bool:
    return pb.Prediction.FromString(reply).label == label


def _inferred(reply: bytes, label: str) -> bool:
    answer = oip.ModelInferResponse.FromString(reply)
    for index, output in enumerate(answer.outputs):
        if output.name == "label":
            if answer.raw_output_contents:
                return answer.raw_output_contents[index][4:] == label.encode()
            return list(output.contents.bytes_contents) == [label.encode()]
    return False


def _text(reply: bytes, label: str) -> bool:
    return reply == label.encode()


def _json(reply: bytes, label: str) -> bool:
    return bool(json.loads(reply)["label"] == label)


def _json_list(reply: bytes, label: str) -> bool:
    return bool(json.loads(reply) == [label])


def _anything(_reply: bytes, _label: str) -> bool:
    return True


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def main(argv: list[str] | None = None) -> int:
    """Measure, write, say; 2 without an artifact or a second core."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(peers(Material([], [], 0.0)))
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"these alone: {', '.join(names)}")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load a point (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="over all servers (default: %(default)s)")
    parser.add_argument("--artifact", type=Path, default=ROOT / "build" / "artifact", help="default: build/artifact")
    cache = ROOT / "var" / "benchmarks" / "serving" / "environments"
    parser.add_argument("--cache", type=Path, default=cache, help="of environments (default: below var/benchmarks)")
    arguments = parser.parse_args(argv)
    arguments.artifact, arguments.cache = arguments.artifact.absolute(), arguments.cache.absolute()
    if not (arguments.artifact / "serve" / "model.onnx").is_file():
        print(f"error: no model in {arguments.artifact}: run `dvc repro package`, or say --artifact", file=sys.stderr)
        return 2
    if not {SERVER_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        print(f"error: this needs cores {SERVER_CORE} and {LOAD_CORE} of the machine", file=sys.stderr)
        return 2
    sent = material(arguments.artifact)
    os.sched_setaffinity(0, {LOAD_CORE})
    run = Run(arguments, sent)
    asyncio.run(run.all())
    text = report(run, arguments)
    if not arguments.only:
        write_atomic(RESULT, text)
        picture(run, RESULT.with_suffix(".png"))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
