"""Draw docs/optimizees.png: what tuned Adam does on every optimizee, and docs/photos.png.

Run from the repository: python docs/draw_optimizees.py (about ten minutes on one core).
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from hydra import compose, initialize_config_dir

from l2l_exp.config import build, build_optimizee, build_rule, register, shipped
from l2l_exp.evaluation import EvalRecord, evaluate
from l2l_exp.optimizees.base import Optimizee
from l2l_exp.optimizees.pictures import PHOTOGRAPHS
from l2l_exp.optimizees.seeding import Seed
from l2l_exp.optimizers.baseline import Baseline
from l2l_exp.report.style import STYLE, plain_log_ticks
from l2l_exp.tuning import tune

DOCS = Path(__file__).parent
HORIZON, PROBLEMS, TUNING_PROBLEMS = 100, 16, 8


def names() -> list[str]:
    """Every option of the group `optimizee`."""
    return sorted(path.stem for path in (shipped("conf") / "optimizee").glob("*.yaml"))


def adam_on(name: str) -> tuple[Optimizee, EvalRecord]:
    """An optimizee, and a run of Adam at the rate whose average loss is lowest."""
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        cfg = compose("evaluate", [f"optimizee={name}", "optimizer=adam", "threads=1"])
    optimizee: Optimizee = build_optimizee(cfg)
    adam: Baseline = build_rule(cfg, cfg.optimizer)
    seed = Seed("validation", 0)
    tuned = tune(optimizee, adam, range(TUNING_PROBLEMS), seed, HORIZON, "coarse_to_fine")
    rule = adam.with_rates([tuned.rates["average"]])
    (record,) = evaluate(optimizee, rule, range(PROBLEMS), Seed("test", 0), HORIZON)
    return optimizee, record


def draw_curve(axes: plt.Axes, name: str, optimizee: Optimizee, record: EvalRecord) -> None:
    """Median minibatch loss over problems, and the range of four fifths of them."""
    low, median, high = np.quantile(record.loss, [0.1, 0.5, 0.9], axis=1)
    axes.plot(record.steps, median)
    axes.fill_between(record.steps, low, high, alpha=0.25, linewidth=0)
    axes.set_title(f"{name}, N = {optimizee.spec.size:,}", fontsize="medium")
    if low.min() > 0:
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis)


def draw_optimizees() -> None:
    """One panel per optimizee."""
    rows = -(-len(names()) // 4)
    figure, axes = plt.subplots(rows, 4, figsize=(11, 2.3 * rows), layout="constrained")
    for place, name in zip(axes.flat, names(), strict=False):
        print(name, flush=True)
        draw_curve(place, name, *adam_on(name))
    for place in axes.flat[len(names()) :]:
        place.remove()
    figure.supxlabel("inner step")
    figure.supylabel("minibatch loss")
    figure.suptitle(
        f"Adam at its tuned rate: median and 10 to 90 % range of {PROBLEMS} test problems",
        fontsize="medium",
    )
    figure.savefig(DOCS / "optimizees.png", dpi=150)


def draw_photos(columns: int = 16) -> None:
    """Some tiles of every photograph as they are drawn: jittered in every second row."""
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        images = build(compose("evaluate", ["data=photos"]).data)
    generator = torch.Generator().manual_seed(0)
    figure, axes = plt.subplots(len(PHOTOGRAPHS), 1, figsize=(9, 11), layout="constrained")
    for label, (name, place) in enumerate(zip(PHOTOGRAPHS, axes, strict=True)):
        members = torch.nonzero(images.labels == label).flatten()
        tiles = images.pixels[members[torch.randperm(len(members), generator=generator)[:columns]]]
        draws = 2 * torch.rand(columns, images.jitter.draws, generator=generator) - 1
        both = torch.stack([tiles, images.jitter(tiles, draws)])  # (2, columns, 3, h, w)
        place.imshow(both.permute(0, 3, 1, 4, 2).reshape(2 * 32, columns * 32, 3))
        place.set_title(f"{label}: {name}", fontsize="small", loc="left", pad=2)
        place.axis("off")
    figure.savefig(DOCS / "photos.png", dpi=110)


if __name__ == "__main__":
    register()
    torch.set_num_threads(1)
    with plt.rc_context(dict(STYLE)):
        draw_photos()
        draw_optimizees()
