"""How to train: section `train` of params.yaml."""

from dataclasses import dataclass

LOSSES = ("weighted", "focal", "logit_adjusted")


@dataclass(frozen=True)
class TrainConfig:
    """Section `train` of params.yaml, less `augment`."""

    seed: int = 0
    threads: int = 2
    """Of the processor; part of what makes two runs equal."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    epochs: int = 22
    """At most."""
    patience: int = 6
    """Epochs without a better validation loss after which training ends, and the best epoch's weights are kept. 0: all
    epochs are run and the last weights kept, where validation cells are too few to choose by."""
    batch: int = 64
    learning_rate: float = 3e-3
    """The highest of the one-cycle schedule (Smith and Topin, arXiv 1708.07120)."""
    warm_up: float = 0.2
    """Share of the steps over which the learning rate rises."""
    weight_decay: float = 0.01
    class_weight: float = 0.5
    """A class counts (cells of a mean class / its cells) to this power: 0 leaves the imbalance, 1 undoes it."""
    label_smoothing: float = 0.05
    average: float = 0.98
    """Decay of the running average of the weights, which is what is validated and kept; 0 keeps the last weights."""
    loss: str = "weighted"
    """weighted: cross-entropy by class weight; focal: also by how wrong a cell is; logit_adjusted: with the classes'
    priors added to the logits."""
    focal_gamma: float = 2.0
    """How much less a cell that is already right counts; only for the focal loss, where 0 is the weighted one."""
    amp: str = "auto"
    """Mixed precision, on or off; auto: on with CUDA. On the CPU it is bfloat16, which is faster on few of them."""
    initial: str = ""
    """Weights to start from: the .npz of a train or pretrain stage, an artifact's folder, or torchvision's .pth of the
    trunk; empty starts from random ones."""
    initial_sha256: str = ""
    """Their hash, which is how the pipeline sees that they have changed."""

    def __post_init__(self) -> None:
        """Refuse what cannot be trained with. Raises ValueError."""
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}: it is auto, cpu or cuda")
        for name in ("threads", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.patience < 0:
            raise ValueError(f"patience is {self.patience}: it is a number of epochs, or 0 to run them all")
        if self.loss not in LOSSES:
            raise ValueError(f"loss is {self.loss!r}: it is one of {', '.join(LOSSES)}")
        if self.amp not in ("auto", "on", "off"):
            raise ValueError(f'amp is {self.amp!r}: it is auto, "on" or "off", in quotes (YAML reads on as true)')
        if self.focal_gamma < 0:
            raise ValueError(f"focal_gamma is {self.focal_gamma}: it must be at least 0")
        if self.initial_sha256 and not self.initial:
            raise ValueError("initial_sha256 is the hash of no file: set initial too")
        for name in ("warm_up", "label_smoothing", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 0 and below 1")
