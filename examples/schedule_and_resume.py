"""What surrounds an optimizer in a script: a schedule, mixed precision, a checkpoint, a resume.

    python examples/schedule_and_resume.py

Trains for 60 steps; then once more, stopped after 30 and resumed from a file. The losses are the
same, bit for bit: the rule, its memory and its step count are in the state dict.
"""

import tempfile
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import l2l_exp

STEPS = 60
images, labels = map(torch.tensor, load_digits(return_X_y=True))
images = images.float() / 16


def start():
    """A network, its optimizer, and a schedule of the factor on the rule's own steps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    optimizer = l2l_exp.load_optimizer("lstm", model, horizon=STEPS)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS)
    return model, optimizer, scheduler


def steps(model, optimizer, scheduler, first, last):
    """Losses; parameters stay in float32, bfloat16 needs no scaling of the loss."""
    losses = []
    for step in range(first, last):
        rows = torch.randint(1797, (128,), generator=torch.Generator().manual_seed(step))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


whole = steps(*start(), 0, STEPS)
with tempfile.TemporaryDirectory() as folder:
    parts, path = start(), Path(folder) / "checkpoint.pt"
    before = steps(*parts, 0, STEPS // 2)
    torch.save([part.state_dict() for part in parts], path)
    parts = start()
    for part, saved in zip(parts, torch.load(path, weights_only=True), strict=True):
        part.load_state_dict(saved)
    after = steps(*parts, STEPS // 2, STEPS)
print(f"loss {whole[0]:.3f} -> {whole[-1]:.3f}; resumed: same losses is {before + after == whole}")
