"""A learned rule for a part of a network, AdamW for the rest: two optimizers, one backward pass.

    python examples/part_of_a_network.py

A small conv net on handwritten digits. The learned rule moves kernels and matrices, AdamW the
norms and the biases.
"""

import torch
from sklearn.datasets import load_digits
from torch import nn

import l2l_exp

STEPS = 100
images, labels = map(torch.tensor, load_digits(return_X_y=True))
images = images.float().view(-1, 1, 8, 8) / 16

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.GroupNorm(4, 16),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(256, 10),
)
named = list(model.named_parameters())
weights = [(name, parameter) for name, parameter in named if parameter.ndim >= 2]
rest = [parameter for _, parameter in named if parameter.ndim < 2]
learned = l2l_exp.load_optimizer("robust", weights, horizon=STEPS)
adamw = torch.optim.AdamW(rest, lr=3e-3)
print("learned rule:", ", ".join(f"{name} {tuple(p.shape)}" for name, p in weights))

for step in range(STEPS):
    rows = torch.randint(len(images), (128,))
    loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
    for optimizer in (learned, adamw):
        optimizer.zero_grad()
    loss.backward()
    for optimizer in (learned, adamw):
        optimizer.step()
    if step in (0, STEPS - 1):
        print(f"step {step + 1}: loss {loss.item():.3f}")
