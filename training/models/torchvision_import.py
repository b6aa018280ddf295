"""torchvision beside any torch: see docs/adr/0005."""

from types import ModuleType
from typing import Any

_MISSING = "operator torchvision::nms does not exist"
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[Any] = []
"""The library that holds the schemas: they go with it."""


def torchvision_models() -> ModuleType:
    """torchvision.models, also where torch is a build for the CPU and torchvision, from PyPI, one for CUDA.

    Such a torchvision cannot load its compiled operators and then fails over one of them that no classification
    network uses: naming its signature is all that is missing. Raises ImportError for any other reason.
    """
    try:
        from torchvision import models
    except RuntimeError as error:
        if _MISSING not in str(error):
            raise ImportError(f"torchvision cannot be imported ({error}): install the one of this torch") from error
        _define()
        from torchvision import models
    found: ModuleType = models
    return found


def _define() -> None:
    import torch

    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        library.define(schema)
    _kept.append(library)
