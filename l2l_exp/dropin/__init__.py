"""A trained rule as a torch.optim.Optimizer, for any training loop."""

from l2l_exp.dropin.load import load_optimizer
from l2l_exp.dropin.optimizer import LearnedTorchOptimizer

__all__ = ["LearnedTorchOptimizer", "load_optimizer"]
