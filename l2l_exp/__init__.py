"""l2l_exp: meta-train optimizers, and compare them honestly with hand-designed ones."""

__version__ = "0.1.0"
