"""Meta-training: estimators of the meta-gradient, the meta-loss, the training loop (layer 2)."""
