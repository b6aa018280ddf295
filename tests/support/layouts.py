"""The public sets' layouts with pictures that are drawn here: the same names, traps and formats, no one's data."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, TiffImagePlugin

from service.contract.image import Pixels
from tests.support.images import encoded, smear

ROW = {"neutrophil": 1, "lymphocyte": 2, "monocyte": 3, "eosinophil": 4, "basophil": 5}


def picture(seed: int, width: int = 40, height: int = 40) -> Pixels:
    """uint8 [height, width, 3]; each seed is another picture."""
    return np.ascontiguousarray(smear(seed, max(width, height))[:height, :width])


def lzw_tiff(pixels: Pixels) -> bytes:
    """A TIFF as old imaging programs write it: LZW, a software tag, a date, a private tag, Photoshop's block."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[305] = "Imaging 1.0"
    tags[306] = "2005:03:01 10:00:00"
    tags[34377] = b"8BIM\x03\xed\x00\x00\x00\x00\x00\x00"
    tags.tagtype[34377] = 1
    tags[65000] = "private"
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="TIFF", compression="tiff_lzw", tiffinfo=tags, dpi=(72, 72))
    return buffer.getvalue()


def all_idb1(root: Path) -> Path:
    """Two blast patients of the small resolution, one of the large; healthy ones large only, two the same bytes."""
    small, large = (86, 68), (130, 97)
    pictures = {"Im001_1": small, "Im002_1": small, "Im003_1": large, "Im004_0": large, "Im005_0": large}
    for folder in ("im", "xyc"):
        (root / "ALL_IDB1" / folder).mkdir(parents=True)
    for seed, (name, size) in enumerate(pictures.items()):
        (root / "ALL_IDB1/im" / f"{name}.jpg").write_bytes(encoded(picture(min(seed, 3), *size), "JPEG"))
        points = "1198\t820\n31\t5\n" if name.endswith("1") else ""
        (root / "ALL_IDB1/xyc" / f"{name}.xyc").write_text(points)
    (root / "ALL_IDB1/im/Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (root / "ALL_IDB1/im/._Im001_1.jpg").write_bytes(b"\x00\x05\x16\x07")
    return root


def all_idb2(root: Path) -> Path:
    """Three blasts and three others, one picture a little smaller, two the same pixels."""
    (root / "ALL_IDB2/img").mkdir(parents=True)
    for number in range(1, 7):
        side = 47 if number == 2 else 51
        pixels = picture(min(number, 5), side, side)
        (root / f"ALL_IDB2/img/Im{number:03d}_{int(number < 4)}.tif").write_bytes(lzw_tiff(pixels))
    return root


def all_idb2_masks(root: Path) -> Path:
    """gt/ImNNN_L.tif for each picture of `all_idb2`: a white square in a grey one."""
    (root / "gt").mkdir(parents=True)
    for number in range(1, 7):
        side = 47 if number == 2 else 51
        Image.fromarray(square_mask(side)).save(root / f"gt/Im{number:03d}_{int(number < 4)}.tif")
    return root


def square_mask(side: int) -> Pixels:
    """uint8 [side, side]: black, in it a grey square of half the side, in that a white one of a quarter."""
    mask = np.zeros((side, side), dtype=np.uint8)
    for share, level in ((0.5, 128), (0.25, 255)):
        edge = round(side * (1 - share) / 2)
        mask[edge : side - edge, edge : side - edge] = level
    return mask


def taleqani(root: Path, folders: Mapping[str, str] | None = None) -> Path:
    """Three pictures a class, in folders with these names (class → folder, which may be several levels deep)."""
    names = folders or {label: label for label in ("Benign", "Early", "Pre", "Pro")}
    for start, (label, folder) in enumerate(names.items()):
        (root / folder).mkdir(parents=True)
        grade = "Benign" if label == "Benign" else f"Malignant-{label}"
        for number in (1, 2, 10):
            name = f"WBC-{grade}-{number:03d}.jpg"
            (root / folder / name).write_bytes(encoded(picture(start * 20 + number), "JPEG"))
    return root


def c_nmc(root: Path, inside: str = "") -> Path:
    """Two patients with blasts and two healthy ones in two folds; 11 and H11 are two people."""
    names = {
        "fold_0/all": ["UID_11_1_1_all.bmp", "UID_11_2_1_all.bmp", "UID_11_10_1_all.bmp"],
        "fold_0/hem": ["UID_H11_1_1_hem.bmp"],
        "fold_1/all": ["UID_6_1_1_all.bmp"],
        "fold_1/hem": ["UID_H3_4_2_hem.bmp", "UID_H3_4_3_hem.bmp"],
    }
    seed = 0
    for folder, files in names.items():
        (root / inside / folder).mkdir(parents=True)
        for name in files:
            seed += 1
            pixels = picture(seed, 45, 45)
            pixels[:10] = pixels[-10:] = pixels[:, :10] = pixels[:, -10:] = 0
            (root / inside / folder / name).write_bytes(encoded(pixels, "BMP"))
    return root


def bccd(root: Path) -> Path:
    """Two fields of 64 × 48: a white cell in each, one cut by the edge; a red cell, a platelet, a box without area."""
    boxes: dict[str, Sequence[tuple[str, int, int, int, int]]] = {
        "BloodImage_00000": [("WBC", 20, 14, 40, 34), ("RBC", 2, 2, 12, 12), ("Platelets", 50, 30, 54, 34)],
        "BloodImage_00002": [("RBC", 30, 20, 30, 20), ("WBC", 44, 28, 64, 48)],
    }
    for folder in ("Annotations", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for seed, (stem, found) in enumerate(boxes.items()):
        (root / "JPEGImages" / f"{stem}.jpg").write_bytes(encoded(picture(seed, 64, 48), "JPEG", quality=95))
        (root / "Annotations" / f"{stem}.xml").write_text(voc(found))
    return root


def voc(boxes: Sequence[tuple[str, int, int, int, int]], size: tuple[int, int] = (64, 48)) -> str:
    """A Pascal-VOC annotation of (name, left, top, right, bottom)."""
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax>"
        f"<ymax>{bottom}</ymax></bndbox></object>"
        for name, left, top, right, bottom in boxes
    )
    width, height = size
    return f"<annotation><size><width>{width}</width><height>{height}</height></size>{objects}</annotation>"


def tecom_wbc(root: Path, labels: Sequence[str] = ("lymphocyte", "neutrophil", "basophil", "monocyte")) -> Path:
    """Pictures of 48 × 44 with masks, one a label."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["image ID", "class label"], *([k + 1, ROW[label]] for k, label in enumerate(labels))]
        )
    for number in range(1, len(labels) + 1):
        (root / f"{number:03d}.bmp").write_bytes(encoded(picture(number, 48, 44), "BMP"))
        (root / f"{number:03d}.png").write_bytes(encoded(square_mask(48)[:44], "PNG"))
    return root


def class_folders(root: Path, table: Path | None = None) -> Path:
    """normal/ and abnormal/ (with a folder in it), and a table of patients that share a site but not a scanner."""
    files = ["abnormal/batch 1/a10.png", "abnormal/batch 1/a9.png", "normal/n1.tif", "normal/n2.bmp"]
    kinds = {".png": "PNG", ".tif": "TIFF", ".bmp": "BMP"}
    for seed, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(picture(seed), kinds[Path(name).suffix]))
    if table is not None:
        rows = [[name, f"patient-{k // 2}", "ward 3", f"scanner-{k % 2}", "0.1"] for k, name in enumerate(files)]
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([["file", "patient", "site", "scanner", "pixel_size_um"], *rows])
    return root
