"""A learned rule where torch.optim.AdamW would stand: a small classifier of handwritten digits.

    python examples/digits.py [RULE]

RULE is the name of a bundled rule (default: robust), or whatever else load_optimizer takes. Prints
what it and AdamW at three learning rates come to, on the images they saw and on others.
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

import l2l_exp

STEPS = 100
RULE = sys.argv[1] if len(sys.argv) > 1 else "robust"
images, labels = map(torch.tensor, load_digits(return_X_y=True))
images = images.float() / 16
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
parts = {"training": order[:1200], "held-out": order[1200:]}


def fit(make_optimizer, seed=0):
    """Train a fresh network; its mean loss on each part of the images."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = make_optimizer(model)
    for _ in range(STEPS):
        rows = parts["training"][torch.randint(1200, (128,))]
        loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return {
            name: nn.functional.cross_entropy(model(images[rows]), labels[rows]).item()
            for name, rows in parts.items()
        }


rules = {RULE: lambda model: l2l_exp.load_optimizer(RULE, model, horizon=STEPS)}
for lr in (0.003, 0.01, 0.03):
    rules[f"AdamW, lr={lr}"] = lambda model, lr=lr: torch.optim.AdamW(model.parameters(), lr=lr)
for name, make_optimizer in rules.items():
    losses = fit(make_optimizer)
    print(f"{name:16}", ", ".join(f"{part} loss {loss:.3f}" for part, loss in losses.items()))
