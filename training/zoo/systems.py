"""A row's name → something that learns from one fold's training cells and is asked about its test cells."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from service.contract.image import Pixels
from training.config import configured
from training.figures import Floats, Integers
from training.folds import Names
from training.zoo.cost import Cost, milliseconds, network_size
from training.zoo.heads import fit_head, probabilities
from training.zoo.networks import Classifier, build_backbone
from training.zoo.rows import Row
from training.zoo.settings import RowSettings, ZooConfig

if TYPE_CHECKING:
    from torch import nn

    from training import fold_runs
    from training.augment import AugmentConfig

_CODE = ("autoencoder", "classical", "composed", "fine_tune", "heads", "networks", "systems")


@dataclass(frozen=True, eq=False)
class ZooCells:
    """The prepared cells: pictures uint8 [n, H, W, 3], index of their label [n], unit [n], hash of their pixels [n]."""

    images: Pixels
    label: Integers
    unit: Names
    labels: tuple[str, ...]
    content: Sequence[str]


@dataclass(frozen=True)
class Recipe:
    """All that a row is run with. `model` and `train`: sections of params.yaml, for the CNN-GRU and its kin."""

    row: Row
    config: ZooConfig
    own: RowSettings
    model: Mapping[str, Any]
    train: Mapping[str, Any]
    validation: float = 0.15
    """Share of a fold's training cells that says when the CNN-GRU and its kin stop (split.validation)."""
    folds: Path = Path("build/folds")
    """Where stage cross_validate keeps the folds that it has trained."""

    @property
    def augmentation(self) -> "AugmentConfig":
        """Section `train.augment`: the same pictures for every row."""
        from training.augment import AugmentConfig

        return configured(AugmentConfig, "train.augment", self.train.get("augment", {}))


Answer = Callable[[Pixels], Floats]
"""Pictures → probabilities [n, C]."""


@dataclass(frozen=True)
class System:
    """`fit(train rows, test rows, repeat)` → probabilities of the test rows, and what answers any other picture."""

    fit: Callable[[Integers, Integers, int], tuple[Floats, Answer]]
    network: "Callable[[], nn.Module] | None" = None
    """Builds the network whose weights and multiply-adds count, untrained; None: there is none."""

    def cost(self, answer: Answer, picture: Pixels) -> Cost:
        """Of one fitted fold's `answer` to uint8 [1, H, W, 3]."""
        parameters, adds = network_size(self.network(), picture) if self.network else (None, None)
        return Cost(parameters, adds, milliseconds(answer, picture))


def system_of(recipe: Recipe, cells: ZooCells) -> System:
    """The system of a row. Raises ConfigError for weights that are missing or another network's."""
    kind = recipe.row.kind
    if kind == "ours":
        return _ours(recipe, cells)
    if kind == "features" or (recipe.own.mode == "features" and kind in ("network", "composed")):
        return _trunk_features(recipe, cells)
    if kind in ("network", "composed"):
        return _fine_tuned(recipe, cells)
    if kind == "autoencoder":
        return _autoencoder(recipe, cells)
    return _hand_made(recipe, cells)


def weights_used(recipe: Recipe) -> list[dict[str, str]]:
    """Where each network's weights come from, with the file's SHA-256; `untrained` for random ones."""
    found = []
    for name in recipe.row.networks:
        path = recipe.config.weights_of(name)
        build_backbone(name, path) if path else None  # refuses what is missing or does not fit, before any fold
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path else ""
        found.append({"network": name, "source": path.name if path else "untrained", "sha256": digest})
    return found


def _ours(recipe: Recipe, cells: ZooCells) -> System:
    from training import fold_runs
    from training.models.cnn_gru import CnnGru, CnnGruConfig
    from training.models.inference import outputs

    height, width = cells.images.shape[1:3]
    shape = {"classes": len(cells.labels), "height": height, "width": width}
    sections = _changed(recipe)
    model = configured(CnnGruConfig, "model", {**sections.model, **shape})
    material = fold_runs.Material(cells.images, cells.label, cells.unit, cells.content, len(cells.labels))

    def one(train: Integers, test: Integers, repeat: int) -> tuple[Floats, Answer]:
        # The folds of stage cross_validate are found there, if it has trained them.
        job = fold_runs.Job(recipe.row.title, repeat, train, test, sections)
        (logits,) = fold_runs.run(material, [job], recipe.folds, workers=1, quiet=True)
        network = CnnGru(model).eval()

        def answer(images: Pixels) -> Floats:
            return _softmax(outputs(network, images, threads=1).logits.astype(np.float64))

        return _softmax(logits.astype(np.float64)), answer

    return System(one, lambda: CnnGru(model))


def _changed(recipe: Recipe) -> "fold_runs.Recipe":
    """Sections `model` and `train` for the CNN-GRU's kin: what differs, and nothing else."""
    from training import fold_runs

    changes: dict[str, dict[str, object]] = {
        "cnn_gru": {},
        "cnn_lstm": {"rnn": "lstm", "directions": 1},
        "cnn_bilstm": {"rnn": "lstm", "directions": 2},
        "sd_cnn": {
            "rnn": "none", "directions": 1, "pooling": "mean", "stem": "deconvolution", "trunk": "cnn",
            "trunk_layers": 0,
        },
    }  # fmt: skip
    train = dict(recipe.train)
    if recipe.row.variant == "sd_cnn":
        # Another stem is another network to a file of weights.
        train |= {"initial": "", "initial_sha256": ""}
    return fold_runs.Recipe({**recipe.model, **changes[recipe.row.variant]}, train, recipe.validation)


def _softmax(logits: Floats) -> Floats:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True), dtype=np.float64)


def _fine_tuned(recipe: Recipe, cells: ZooCells) -> System:
    from training.zoo.composed import Hybrid, SdctNet
    from training.zoo.fine_tune import fine_tune, in_batches

    height, width, classes = cells.images.shape[1], cells.images.shape[2], len(cells.labels)

    def network() -> "nn.Module":
        if recipe.row.networks == ("sdct",):
            return SdctNet(classes, height, width)
        parts = [build_backbone(name, recipe.config.weights_of(name)) for name in recipe.row.networks]
        if len(parts) == 2:
            return Hybrid(parts[0], parts[1], classes, height, width)
        return Classifier(parts[0], classes, height, width)

    def one(train: Integers, test: Integers, repeat: int) -> tuple[Floats, Answer]:
        tuned = fine_tune(
            network, cells.images[train], cells.label[train], classes, recipe.config, recipe.augmentation,
            epochs=recipe.own.epochs, seed=recipe.config.seed + repeat,
        )  # fmt: skip

        def answer(images: Pixels) -> Floats:
            said = np.exp(in_batches(tuned, images))
            return np.asarray(said / said.sum(axis=1, keepdims=True), dtype=np.float64)

        return answer(cells.images[test]), answer

    return System(one, network)


def _trunk_features(recipe: Recipe, cells: ZooCells) -> System:
    from training.zoo.fine_tune import in_batches

    def trunks() -> "nn.Module":
        # Untrained trunks are drawn under the zoo's seed: every row with the same network has the same one.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.config.seed)
            return _Beside([build_backbone(name, recipe.config.weights_of(name)) for name in recipe.row.networks])

    network = trunks().eval()
    return _on_features(recipe, cells, lambda images: in_batches(network, images), recipe.row.head or "linear", trunks)


class _Beside(torch.nn.Module):
    """The features of several trunks, one after the other."""

    def __init__(self, parts: "list[nn.Module] | list[Any]") -> None:
        super().__init__()
        self.parts = torch.nn.ModuleList(parts)

    def forward(self, density: torch.Tensor) -> torch.Tensor:
        """float32 [n, 3, H, W] → [n, ΣF]."""
        return torch.cat([part(density) for part in self.parts], dim=1)


def _on_features(
    recipe: Recipe, cells: ZooCells, describe: Answer, head: str, network: "Callable[[], nn.Module] | None"
) -> System:
    """Features that no fold has a say in are computed once, when the first fold asks."""
    known: list[Floats] = []

    def one(train: Integers, test: Integers, repeat: int) -> tuple[Floats, Answer]:
        if not known:
            known.append(describe(cells.images))
        model = fit_head(head, known[0][train], cells.label[train], recipe.config, recipe.config.seed + repeat)

        def answer(images: Pixels) -> Floats:
            return probabilities(model, describe(images), len(cells.labels))

        return probabilities(model, known[0][test], len(cells.labels)), answer

    return System(one, network)


def _autoencoder(recipe: Recipe, cells: ZooCells) -> System:
    from training.zoo.autoencoder import Encoder, train_encoder
    from training.zoo.fine_tune import in_batches

    def one(train: Integers, test: Integers, repeat: int) -> tuple[Floats, Answer]:
        encoder = train_encoder(
            cells.images[train], recipe.config, epochs=recipe.own.epochs, seed=recipe.config.seed + repeat
        )
        known = in_batches(encoder, cells.images[train])
        model = fit_head(recipe.row.head, known, cells.label[train], recipe.config, recipe.config.seed + repeat)

        def answer(images: Pixels) -> Floats:
            return probabilities(model, in_batches(encoder, images), len(cells.labels))

        return answer(cells.images[test]), answer

    return System(one, Encoder)


def _hand_made(recipe: Recipe, cells: ZooCells) -> System:
    from training.shortcut import colour_features, size_features
    from training.zoo.classical import glcm_features, glrlm_features

    describe = {
        "glcm": glcm_features, "glrlm": glrlm_features, "colour": colour_features, "size": size_features
    }[recipe.row.variant]  # fmt: skip
    return _on_features(recipe, cells, describe, recipe.row.head or "forest", None)


def code_digest() -> str:
    """Of the code that a fold's answers depend on: an earlier version's folds are not taken."""
    here = Path(__file__).parent
    files = [here / f"{name}.py" for name in _CODE] + [here.parent / f"{name}.py" for name in ("augment", "shortcut")]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def digest_of(cells: ZooCells) -> str:
    """Names the cells, their labels and units: results on others are not to be compared."""
    digest = hashlib.sha256(repr((cells.images.shape, cells.labels)).encode())
    for part in (cells.images, cells.label, np.char.encode(cells.unit, "utf-8")):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()
