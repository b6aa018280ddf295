"""What a fuzz run sends: good images and messages, and how any of them is damaged."""

import base64
import io
import json
import zlib
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from service.proto.blastwatch.v1 import blastwatch_pb2 as pb
from service.proto.inference import open_inference_pb2 as oip
from tests.support.images import bmp, encoded, jpeg, png, smear, tiff

CANARY = "CANARY-PATIENT-0042"
"""The patient in every message; it must come out nowhere."""
SIDE = 24
"""Small pictures: a mutation hits what matters more often, and twenty thousand are soon decoded."""
INTERESTING = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\x00" * 4,
    b"\xff" * 4,
    b"\x7f" + b"\xff" * 3,
    b"\x80" + b"\x00" * 3,
)
LONGEST_RUN = 64
CHANGES = ("flip", "write", "insert", "delete", "repeat", "cut")


def images() -> list[bytes]:
    """Files of every accepted kind in the forms that cameras and scanners write, and some that are refused."""
    pixels = smear(5, SIDE)
    colours = Image.fromarray(pixels)
    grey = colours.convert("L")
    deep = np.asarray(grey).astype(np.uint16) * 257
    found = [png(1, SIDE), jpeg(1, SIDE), tiff(1, SIDE), bmp(1, SIDE)]
    found += [_saved(picture, "PNG") for picture in (grey, colours.convert("P"), colours.convert("1"))]
    found += [_saved(colours.convert("RGBA"), kind) for kind in ("PNG", "TIFF")]
    found += [_saved(Image.fromarray(deep), kind) for kind in ("PNG", "TIFF")]
    found += [_saved(picture, "JPEG") for picture in (grey, colours.convert("CMYK"))]
    found += [
        encoded(pixels, "TIFF", compression=how) for how in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    ]
    found.append(encoded(pixels, "JPEG", progressive=True, subsampling=2))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a smear"
    found += [encoded(pixels, kind, exif=exif.tobytes()) for kind in ("JPEG", "PNG")]
    found.append(encoded(pixels, "PNG", icc_profile=bytes(range(256)) * 2))
    found.append(_saved(colours, "PNG", save_all=True, append_images=[colours.rotate(90)]))
    found.append(_saved(colours, "TIFF", save_all=True, append_images=[grey]))
    return found


def messages() -> list[tuple[str, bytes]]:
    """(gRPC method, message): one of each that a client sends."""
    cell = pb.Cell(image=png(2, SIDE), request_id="r", patient_id=CANARY, site="s", stain="giemsa", pixel_size_um=0.2)
    request = oip.ModelInferRequest(model_name="blast-classifier", id="i")
    tensor = request.inputs.add(name="image", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(png(3, SIDE))
    raw = oip.ModelInferRequest(model_name="blast-classifier")
    raw.inputs.add(name="image", datatype="UINT8", shape=[1, SIDE, SIDE, 3])
    raw.raw_input_contents.append(smear(4, SIDE).tobytes())
    own, other = "/blastwatch.v1.BlastClassifier/", "/inference.GRPCInferenceService/"
    return [
        (own + "Classify", cell.SerializeToString()),
        (own + "Review", pb.ReviewRequest(record_id="0" * 32, label="L1", role="reader").SerializeToString()),
        (own + "GetModel", b""),
        (other + "ModelInfer", request.SerializeToString()),
        (other + "ModelInfer", raw.SerializeToString()),
    ]


def bodies() -> list[tuple[str, str, bytes, dict[str, str]]]:
    """(method, path, body, headers): one of each that an HTTP client sends."""
    element = base64.b64encode(png(6, SIDE)).decode()
    tensor: dict[str, Any] = {"name": "image", "shape": [1], "datatype": "BYTES"}
    text = json.dumps({"inputs": [{**tensor, "data": [element]}]}).encode()
    image = png(7, SIDE)
    raw = len(image).to_bytes(4, "little") + image
    header = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]}).encode()
    review = json.dumps({"recordId": "0" * 32, "label": "L1", "role": "reader"}).encode()
    boundary = b"--edge\r\nContent-Disposition: form-data; name="
    form = boundary + b'"image"\r\n\r\n' + image + b"\r\n" + boundary + b'"site"\r\n\r\na\r\n--edge--\r\n'
    as_json = {"content-type": "application/json"}
    infer = "/v2/models/blast-classifier/infer"
    return [
        ("POST", "/v1/classify", jpeg(8, SIDE), {"content-type": "image/jpeg", "blastwatch-patient-id": CANARY}),
        ("POST", "/v1/classify", form, {"content-type": "multipart/form-data; boundary=edge"}),
        ("POST", "/v1/reviews", review, as_json),
        ("POST", infer, text, as_json),
        ("POST", infer, header + raw, {"inference-header-content-length": str(len(header))}),
        ("POST", "/v2/repository/index", b'{"ready":true}', as_json),
        ("POST", "/v1/classify", zlib.compress(image), {"content-type": "image/png", "content-encoding": "deflate"}),
    ]


def mutated(data: bytes, rng: Random) -> bytes:
    """`data` with up to four pieces changed, put in, taken out, repeated, or its end cut off."""
    for _ in range(rng.randint(1, 4)):
        piece = rng.choice(INTERESTING) if rng.random() < 0.5 else rng.randbytes(rng.randint(1, 8))
        data = _changed(data, rng.choice(CHANGES), rng.randint(0, len(data)), piece, rng.choice((1, 4, LONGEST_RUN)))
    return data


def _changed(data: bytes, change: str, place: int, piece: bytes, run: int) -> bytes:
    head, tail = data[:place], data[place:]
    if change == "flip" and tail:
        return head + bytes([tail[0] ^ (1 << piece[0] % 8)]) + tail[1:]
    if change == "write":
        return head + piece + tail[len(piece) :]
    if change == "insert":
        return head + piece + tail
    if change == "delete":
        return head + tail[run:]
    if change == "repeat":
        return head + tail[:run] * 3 + tail[run:]
    return head or data


def _saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.copy().save(buffer, format=kind, **options)  # Pillow leaves one format's options on the picture
    return buffer.getvalue()
