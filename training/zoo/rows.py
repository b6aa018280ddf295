"""The rows of the table: which system, of which reference, and which library each part comes from."""

from collections.abc import Mapping
from dataclasses import dataclass

from service.contract.errors import ConfigError

KINDS = ("ours", "network", "features", "composed", "autoencoder", "classical", "shortcut", "expression")
TIMM = ("mobilenetv1_100", "legacy_xception")
TORCHVISION = (
    "alexnet", "vgg16", "vgg19", "googlenet", "resnet18", "resnet50", "mobilenet_v2", "shufflenet_v2_x1_0",
    "squeezenet1_0",
)  # fmt: skip
NETWORKS = (*TORCHVISION, *TIMM)
"""Names in their libraries."""
TRAINED = "all weights trained"
"""How a row says that no part of its network was frozen."""
HEADS = ("linear", "svm", "forest", "pca_svm", "pca_forest")


@dataclass(frozen=True)
class Row:
    """One system. `networks` are names of NETWORKS; `variant` is what tells rows of a kind apart."""

    title: str
    kind: str
    reference: str
    library: str
    networks: tuple[str, ...] = ()
    head: str = ""
    variant: str = ""
    remark: str = ""
    missing: str = ""
    """Why this system cannot be run here; empty for all others."""


_SKLEARN = "scikit-learn"
_VISION = "torchvision"

ROWS: Mapping[str, Row] = {
    "cnn_gru": Row("CNN-GRU (ours)", "ours", "section 6", "torch", variant="cnn_gru"),
    "cnn_lstm": Row("CNN-LSTM", "ours", "[44]", "torch", variant="cnn_lstm"),
    "cnn_bilstm": Row("CNN-BiLSTM", "ours", "[43]", "torch", variant="cnn_bilstm"),
    "sd_cnn": Row("Stain-deconvolution CNN", "ours", "[42]", "torch", variant="sd_cnn"),
    "sdct": Row(
        "SDCT + auxiliary classifier", "composed", "[41]", "MONAI blocks, scipy DCT", ("sdct",),
        remark="composed after the reference: stain deconvolution, DCT, convolutions, bilinear pooling, auxiliary "
        "classifier; the surer of the two answers",
    ),
    "alexnet": Row("AlexNet", "network", "[31, 36]", _VISION, ("alexnet",)),
    "vgg16": Row("VGG16", "network", "[16, 36]", _VISION, ("vgg16",)),
    "vgg19": Row("VGG19", "network", "[34]", _VISION, ("vgg19",)),
    "googlenet": Row("GoogLeNet", "network", "[36]", _VISION, ("googlenet",)),
    "resnet18": Row("ResNet18", "network", "[36]", _VISION, ("resnet18",)),
    "resnet50": Row("ResNet50", "network", "[34]", _VISION, ("resnet50",)),
    "mobilenet": Row("MobileNet", "network", "[28]", "timm", ("mobilenetv1_100",)),
    "mobilenet_v2": Row("MobileNetV2", "network", "[16, 36]", _VISION, ("mobilenet_v2",)),
    "shufflenet": Row(
        "ShuffleNet", "network", "[34]", _VISION, ("shufflenet_v2_x1_0",),
        remark="version 2: no maintained library has version 1",
    ),
    "xception": Row("Xception", "network", "[34]", "timm", ("legacy_xception",)),
    "nasnet_mobile": Row(
        "NASNet-Mobile", "network", "[34]", "Keras",
        missing="keras.applications.NASNetMobile refuses torch as its backend (\"not available with the torch backend "
        "at this time due to an outstanding bug\", Keras 3.15), and timm has NASNet-A Large alone",
    ),
    "squeezenet": Row("SqueezeNet", "network", "transfer learning", _VISION, ("squeezenet1_0",)),
    "hybrid": Row(
        "ResNet18 + MobileNetV2 hybrid", "composed", "[36]", _VISION, ("resnet18", "mobilenet_v2"),
        remark="trained, it weights each network's probabilities by how sure it is; as frozen trunks, a linear layer "
        "sees the features of both",
    ),
    "squeezenet_svm": Row(
        "SqueezeNet + SVM", "features", "[15]", f"{_VISION}, {_SKLEARN}", ("squeezenet1_0",), "svm"
    ),
    "squeezenet_forest": Row(
        "SqueezeNet + random forest", "features", "[14]", f"{_VISION}, {_SKLEARN}", ("squeezenet1_0",), "forest"
    ),
    "squeezenet_pca_svm": Row(
        "SqueezeNet + PCA + SVM", "features", "[14]", f"{_VISION}, {_SKLEARN}", ("squeezenet1_0",), "pca_svm"
    ),
    "vggf_pca_svm": Row(
        "VGG-f + PCA + SVM (AlexNet)", "features", "[14]", f"{_VISION}, {_SKLEARN}", ("alexnet",), "pca_svm",
        remark="VGG-f is in no maintained library; AlexNet, of the same five convolutions and two dense layers, is the "
        "nearest",
    ),
    "vgg16_svm": Row("VGG16 + SVM", "features", "[16]", f"{_VISION}, {_SKLEARN}", ("vgg16",), "svm"),
    "vgg16_forest": Row(
        "VGG16 + random forest", "features", "[16]", f"{_VISION}, {_SKLEARN}", ("vgg16",), "forest"
    ),
    "mobilenet_v2_svm": Row(
        "MobileNetV2 + SVM", "features", "[16]", f"{_VISION}, {_SKLEARN}", ("mobilenet_v2",), "svm"
    ),
    "mobilenet_v2_forest": Row(
        "MobileNetV2 + random forest", "features", "[16]", f"{_VISION}, {_SKLEARN}", ("mobilenet_v2",), "forest"
    ),
    "autoencoder": Row(
        "Autoencoder features + SVM", "autoencoder", "[23]", f"MONAI, {_SKLEARN}", head="pca_svm",
        remark="its code is learned from each fold's training cells without their labels",
    ),
    "glcm_forest": Row(
        "Watershed + GLCM + PCA + random forest", "classical", "[7]", f"scikit-image, {_SKLEARN}",
        head="pca_forest", variant="glcm",
    ),
    "glrlm_svm": Row(
        "Watershed + GLRLM + SVM", "classical", "[6]", f"scikit-image, {_SKLEARN}", head="svm", variant="glrlm",
        remark="run lengths are counted here: scikit-image has co-occurrence alone",
    ),
    "shortcut_colour": Row(
        "Shortcut: six colour numbers + forest", "shortcut", "baseline", _SKLEARN, variant="colour",
        remark="sees no cell: what the stain alone tells",
    ),
    "shortcut_size": Row(
        "Shortcut: two areas + forest", "shortcut", "baseline", _SKLEARN, variant="size",
        remark="sees no texture: what size alone tells",
    ),
    "golub": Row(
        "Expression DNN", "expression", "[33]", _SKLEARN,
        remark="other patients and other data: genes, no pictures; never compared with the rows above",
    ),
}  # fmt: skip


def row_of(name: str) -> Row:
    """A row by its name. Raises ConfigError naming those there are."""
    if name not in ROWS:
        raise ConfigError(f"the zoo has no row {name!r}: it has {', '.join(ROWS)}")
    return ROWS[name]
