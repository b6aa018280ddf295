"""Many synthetic cells as one mapped file: drawn by several processes, never all in memory, the same however many."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from service.contract.errors import ConfigError
from service.contract.files import aside_of
from service.contract.image import Field, Pixels, load_field
from training.datasets import smear, synthetic
from training.datasets.smear.generator import Spec
from training.datasets.synthetic import LABELS, SITES, SyntheticConfig, draw_stored, plan
from training.figures import Integers

CELLS_PER_PATIENT = 10
HELD_OUT = 10
_CHUNK = 128


@dataclass(frozen=True, eq=False)
class Drawn:
    """n cells: pictures uint8 [n, H, W, 3] mapped from a file, index of the label in LABELS [n], patient [n].

    The last `validation` of them are of patients who have no others: parts of the file stay mapped, a choice would not.
    """

    images: Pixels
    label: Integers
    patient: npt.NDArray[np.str_]
    validation: int


def specs(cells: int, seed: int, sites: Sequence[str]) -> list[tuple[str, Spec]]:
    """Site and description of at least `cells` cells, as many patients of every diagnosis at every site.

    One patient in HELD_OUT, and at least one of each, comes after all others.

    Raises ConfigError for an unknown site and for too few cells to make two patients of each.
    """
    if unknown := sorted(set(sites) - set(SITES)):
        raise ConfigError(f"params.yaml: pretrain.sites has {', '.join(unknown)}, known are {', '.join(SITES)}")
    one_each = len(LABELS) * CELLS_PER_PATIENT * len(sites)
    if not sites or cells < 2 * one_each:
        raise ConfigError(
            f"params.yaml: pretrain.cells is {cells}: two patients of each label at each of {len(sites)} sites "
            f"need {2 * one_each}"
        )
    patients = dict.fromkeys(LABELS, -(-cells // one_each))
    found = []
    for site in sites:
        config = SyntheticConfig(
            seed=seed, site=site, patients=patients, cells_per_patient=CELLS_PER_PATIENT, prefix="drawn"
        )
        found += [(site, spec) for spec in plan(config)]
    return sorted(found, key=lambda one: _held_out(one[1]))


def _held_out(spec: Spec) -> bool:
    return int(spec.patient.rpartition("-")[2]) % HELD_OUT == 0


def draw(cells: int, seed: int, sites: Sequence[str], field: Field, folder: Path, *, workers: int = 1) -> Drawn:
    """Draw them, or open what was drawn before, in a file of `folder` that is named by all that it depends on."""
    wanted = specs(cells, seed, sites)
    label = np.array([LABELS.index(spec.label) for _, spec in wanted], dtype=np.int64)
    patient = np.array([spec.patient for _, spec in wanted])
    path = folder / f"{_name(cells, seed, sites, field)}.npy"
    if not path.is_file():
        _write(path, wanted, seed, field, workers)
    held_out = sum(_held_out(spec) for _, spec in wanted)
    return Drawn(np.asarray(np.load(path, mmap_mode="c")), label, patient, held_out)


def _name(cells: int, seed: int, sites: Sequence[str], field: Field) -> str:
    digest = hashlib.sha256(json.dumps([cells, seed, list(sites), asdict(field)]).encode())
    code = [Path(synthetic.__file__), *(path for part in smear.__path__ for path in Path(part).glob("*.py"))]
    for path in sorted(code):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def _write(path: Path, wanted: list[tuple[str, Spec]], seed: int, field: Field, workers: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = aside_of(path)
    parts = [(start, wanted[start : start + _CHUNK]) for start in range(0, len(wanted), _CHUNK)]
    shape = (len(wanted), field.height, field.width, 3)
    progress = tqdm(desc="draw", total=len(wanted), unit=" cells", disable=None)
    try:
        np.lib.format.open_memmap(aside, "w+", np.uint8, shape).flush()
        # Not forked: the caller may have threads of its own, torch's above all.
        with progress, ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for future in [pool.submit(_part, aside, start, part, seed, field) for start, part in parts]:
                progress.update(future.result())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _part(path: Path, start: int, part: list[tuple[str, Spec]], seed: int, field: Field) -> int:
    images = np.lib.format.open_memmap(path, "r+")
    row = start
    for site, group in groupby(part, key=lambda one: one[0]):
        for cell in draw_stored(SITES[site], seed, [spec for _, spec in group]):
            images[row] = load_field(cell.image, field, cell.pixel_size_um)
            row += 1
    images.flush()
    return len(part)
