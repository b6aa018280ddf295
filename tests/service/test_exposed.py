"""The whole service as a hospital would expose it: every address, TLS, tokens. And what must not come out of it.

Patients and tokens are canaries here: they are sent in every way that a caller may send or mis-send them, and must be
found in nothing that the service writes or says.
"""

import contextlib
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from service import tokens
from service.client import Client, HttpClient
from service.contract.errors import Unauthenticated
from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.tokens import Role
from tests.service.process import START_S, Service, service
from tests.service.running import Site, eventually
from tests.support.certificates import Authority
from tests.support.images import encoded, png, smear

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("exposed")]

EVERYWHERE = "0.0.0.0"  # noqa: S104
SERVICE = "/blastwatch.v1.BlastClassifier/"
PATIENTS = ("CANARY-PATIENT-4711", "CANARY Ünal, Zoë *1961-02-03")
WRONG_TOKEN = "CANARY-TOKEN-0815"


@dataclass
class Exposed:
    """The running service, how to trust it, and every byte that it answered."""

    running: Service
    authority: Authority
    token: str
    told: list[bytes] = field(default_factory=list)

    @property
    def https(self) -> str:
        return self.running.http.replace("http://", "https://")

    @property
    def credentials(self) -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(self.authority.pem)

    @property
    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.authority.pem.decode())


def ready(address: str) -> bool:
    with grpc.insecure_channel(address) as channel, contextlib.suppress(grpc.RpcError):
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    return False


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exposed]:
    site = Site(tmp_path_factory.mktemp("exposed"))
    site.promote(site.add().version)
    authority = Authority(site.root)
    server = authority.sign("server")
    file = site.root / "tokens"
    token = tokens.add(file, "lis-a", [Role.INFER, Role.REVIEW])
    settings = {
        "http_host": EVERYWHERE,
        "grpc_host": EVERYWHERE,
        "tokens_file": str(file),
        "tls_certificate": str(server.certificate_path),
        "tls_key": str(server.key_path),
        "image_retention": "all",
        "log_level": "debug",
        "known_clients": "lis-a",
        "auth_failures": "1000",
    }
    with service(site, **settings) as running:
        eventually(lambda: ready(running.health), patience_s=START_S)
        yield Exposed(running, authority, token)


def test_it_answers_over_tls_to_a_token(exposed: Exposed) -> None:
    with Client(exposed.running.grpc, credentials=exposed.credentials, token=exposed.token) as client:
        one = client.classify(png(1))
    with HttpClient(exposed.https, verify=exposed.context, token=exposed.token) as client:
        assert client.classify(png(1)).pixels_sha256 == one.pixels_sha256
    with HttpClient(exposed.https, verify=exposed.context) as client, pytest.raises(Unauthenticated):
        client.classify(png(1))
    store = exposed.running.site.store
    found = eventually(lambda: store.get(one.record_id))
    assert found is not None
    assert found.record.client == "lis-a"


def test_plain_text_gets_no_answer(exposed: Exposed) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(exposed.running.http + "/v1/model", trust_env=False, timeout=20)


def test_nothing_but_probes_is_open_over_http(exposed: Exposed) -> None:
    """BentoML has routes of its own."""
    with httpx.Client(base_url=exposed.https, verify=exposed.context, trust_env=False, timeout=20) as http:
        found = {
            path: http.get(path).status_code for path in ("/readyz", "/livez", "/healthz", "/v1/model", "/metrics")
        }
    assert found == {"/readyz": 200, "/livez": 200, "/healthz": 200, "/v1/model": 401, "/metrics": 401}


def test_canaries_are_found_nowhere(exposed: Exposed) -> None:
    over_grpc(exposed)
    over_http(exposed)
    assert exposed.told
    site = exposed.running.site
    with httpx.Client(base_url=exposed.https, verify=exposed.context, trust_env=False, timeout=20) as http:
        metrics = http.get("/metrics", headers={"authorization": f"Bearer {exposed.token}"})
    assert "blastwatch_auth_failures_total" in metrics.text
    exposed.told.append(metrics.content)
    audit = site.root / "var" / "audit"
    eventually(lambda: any('"UNAUTHENTICATED"' in path.read_text() for path in audit.glob("*.jsonl")))
    eventually(lambda: site.store.count() >= 2 * len(PATIENTS))
    # Looked through while it runs and after its end: a journal that was shipped is gone by then.
    running = files(site.root)
    assert exposed.running.terminate() == 0
    found = {**running, **files(site.root)}
    assert {"service.log", "store.db"} < {path.name for path in found}
    assert any(path.suffix == ".png" for path in found)
    clients = {json.loads(line)["client"] for path in audit.glob("*.jsonl") for line in path.read_text().splitlines()}
    assert clients == {"lis-a", ""}
    for canary in needles(exposed.token):
        for contents in (running, found):
            assert not [path for path, data in contents.items() if canary in data], canary
        assert not [answer for answer in exposed.told if canary in answer], canary


def files(root: Path) -> dict[Path, bytes]:
    """Everything that the service has written below `root`."""
    found = {}
    for path in root.rglob("*"):
        with contextlib.suppress(OSError):  # shipped, or put elsewhere, meanwhile
            if path.is_file():
                found[path] = path.read_bytes()
    return found


def needles(token: str) -> list[bytes]:
    """Each canary as UTF-8, as JSON would have it, and as an address would."""
    found: list[bytes] = []
    for canary in (*PATIENTS, WRONG_TOKEN, token):
        found += [canary.encode(), json.dumps(canary)[1:-1].encode(), quote(canary).encode()]
    return found


def over_grpc(exposed: Exposed) -> None:
    """Good and bad calls with canaries in them."""
    known, stranger = (("authorization", f"Bearer {value}") for value in (exposed.token, WRONG_TOKEN))
    target = exposed.running.grpc
    with grpc.secure_channel(target, exposed.credentials, options=[("grpc.enable_http_proxy", 0)]) as channel:

        def call(method: str, data: bytes, *metadata: tuple[str, str]) -> None:
            try:
                answer = channel.unary_unary(SERVICE + method)(data, metadata=metadata, timeout=20)
                exposed.told.append(answer)
            except grpc.RpcError as error:
                exposed.told.append(str(error).encode())

        for patient in PATIENTS:
            photo = with_metadata(patient)
            cells = [
                pb.Cell(image=png(1), patient_id=patient),
                pb.Cell(image=photo, patient_id=patient, request_id=f"grpc-{len(patient)}"),
                pb.Cell(image=png(2), patient_id=patient, request_id=f"grpc-{len(patient)}"),
                pb.Cell(image=patient.encode(), patient_id=patient),
                pb.Cell(image=png(1), patient_id=patient * 20),
                pb.Cell(image=png(1), patient_id=patient, pixel_size_um=-1),
                pb.Cell(image=png(1)[:-20] + patient.encode(), patient_id=patient),
            ]
            for cell in cells:
                call("Classify", cell.SerializeToString(), known)
                call("Classify", cell.SerializeToString(), stranger)
            call("Classify", b"\xff" + patient.encode(), known)
            call("Classify", cells[0].SerializeToString(), known, ("patient", quote(patient)))
            call("Review", pb.ReviewRequest(record_id=patient, label="L1", role="h").SerializeToString(), known)
            call("Review", pb.ReviewRequest(record_id="x", label=patient, role="h").SerializeToString(), known)
            call(quote(patient), b"", known)
        call("GetModel", b"", ("authorization", WRONG_TOKEN))
        call("GetModel", b"", known, stranger)


def over_http(exposed: Exposed) -> None:
    """The same, and what only HTTP can get wrong."""
    with httpx.Client(base_url=exposed.https, verify=exposed.context, trust_env=False, timeout=20) as http:

        def call(method: str, path: str, content: bytes, token: str, **headers: bytes) -> None:
            sent = {b"authorization": f"Bearer {token}".encode(), b"content-type": b"image/png"}
            sent |= {name.replace("_", "-").encode(): value for name, value in headers.items()}
            answer = http.request(method, path, content=content, headers=list(sent.items()))
            exposed.told.append(repr(answer.headers.raw).encode() + answer.content)

        for patient in PATIENTS:
            raw = patient.encode()
            for token in (exposed.token, WRONG_TOKEN):
                call("POST", "/v1/classify", png(3), token, blastwatch_patient_id=raw)
                call("POST", "/v1/classify", with_metadata(patient), token, blastwatch_patient_id=raw)
                call("POST", "/v1/classify", raw, token, blastwatch_patient_id=raw)
                call("POST", "/v1/classify", png(3), token, blastwatch_patient_id=raw * 20)
                call("POST", "/v1/classify", png(3), token, blastwatch_patient=raw)
                call("POST", "/v1/classify", png(3), token, blastwatch_pixel_size_um=raw)
                call("POST", "/v1/classify", png(3), token, content_type=raw)
                call("POST", "/v1/classify", png(3), token, cookie=raw, user_agent=raw, referer=raw, traceparent=raw)
                call("POST", f"/v1/classify?patient_id={quote(patient)}", png(3), token)
                call("POST", f"/v1/{quote(patient)}", png(3), token)
                call("GET", f"/{quote(patient)}", b"", token)
                review = json.dumps({"recordId": patient, "label": patient, "role": "h", "patient": patient}).encode()
                call("POST", "/v1/reviews", review, token, content_type=b"application/json")
                call("POST", "/v1/reviews", b"{" + raw, token, content_type=b"application/json")
        call("GET", "/v1/model", b"", f"{WRONG_TOKEN} {exposed.token}")


def with_metadata(patient: str) -> bytes:
    """A picture that a scanner has written the patient into."""
    exif = Image.Exif()
    exif[0x010E] = patient  # ImageDescription
    return encoded(smear(5), "JPEG", exif=exif, comment=patient.encode())
