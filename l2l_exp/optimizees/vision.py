"""torchvision, imported when it is needed. The only module that imports it."""

import importlib
import sys
from types import ModuleType

import torch


def torchvision(module: str) -> ModuleType:
    """Import `torchvision.<module>`, also where a CUDA build stands beside a CPU build of torch.

    There the import dies because the operators `nms` and `qnms` are not registered; declaring
    their schemas is enough for everything but those operators.

    Args:
        module: "datasets" or "models".
    """
    name = f"torchvision.{module}"
    try:
        return importlib.import_module(name)
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    for loaded in [loaded for loaded in sys.modules if loaded.startswith("torchvision")]:
        del sys.modules[loaded]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    imported = importlib.import_module(name)
    package = importlib.import_module("torchvision")
    package._l2l_exp_schemas = library  # type: ignore[attr-defined]  # dies with its last reference
    return imported
