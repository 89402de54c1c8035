"""Distributions of theta_0."""

import math

import torch
from torch import Tensor

from l2l_exp.optimizees.spec import ParamSpec, TensorSpec

INITS = ("gaussian", "fan_in")


def init_stds(spec: ParamSpec, init: str, scale: float) -> Tensor:
    """Standard deviation of every coordinate of theta_0, whose mean is zero: (N,) float64.

    Args:
        spec: layout of theta; weights of kind "fc" have the shape (inputs, outputs), those of kind
            "conv" (outputs, inputs, height, width).
        init: "gaussian", `scale` for every coordinate as in the paper; or "fan_in", `scale` over
            the root of the number of inputs for weights, zero for biases and norms.
        scale: > 0; for "fan_in" 1 keeps the variance of linear units, sqrt(2) that of ReLUs
            (He et al. 2015, arXiv:1502.01852).
    """
    if init == "gaussian":
        return torch.full((spec.size,), scale, dtype=torch.float64)
    parts = [torch.full((t.size,), _fan_in_std(t), dtype=torch.float64) for t in spec.tensors]
    return scale * torch.cat(parts)


def _fan_in_std(tensor: TensorSpec) -> float:
    """One over the root of the inputs of a unit; zero where a tensor has no inputs."""
    if tensor.kind == "fc":
        return 1 / math.sqrt(tensor.shape[0])
    if tensor.kind == "conv":
        return 1 / math.sqrt(math.prod(tensor.shape[1:]))
    return 0.0
