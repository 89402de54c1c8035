"""Figures of what the microscope sees: functions of its results, rule by rule."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from l2l_exp.evaluation import Floats
from l2l_exp.microscope import (
    EffectiveRates,
    FixedPoint,
    Impulse,
    MemoryFit,
    ScaleResponse,
    Stability,
    sgd_variance,
)
from l2l_exp.report.looks import below, beside, looks_of, sheet, two_sided, zero
from l2l_exp.report.style import DOUBLE, plain_log_ticks

TIMES = "cividis"
MARKERS = "osD^v"
FASTEST = 0.1
"""Time constants below so many steps are drawn there."""
NEAREST = 1e-5
"""Distances below this share of the first one are not shown."""


def answers(
    gradients: Floats, times: Sequence[int], found: Mapping[str, Mapping[str, Floats]]
) -> Figure:
    """Draw updates against the gradient, after histories of gradients.

    Args:
        gradients: (G,) that were asked for, rising.
        times: after so many steps of a history.
        found: rule -> history -> (len(times), G), of `microscope.proposals_after`.

    Returns:
        A figure with a row per rule, a column per history and a line per time. The axis of
        gradients is logarithmic to both sides of 0.
    """
    rules, histories = list(found), list(next(iter(found.values())))
    colors = mpl.colormaps[TIMES](np.linspace(0, 0.85, len(times)))
    with sheet(DOUBLE, 1.35 * len(rules) + 0.6) as drawn:
        axes = drawn.subplots(len(rules), len(histories), sharex=True, squeeze=False)
        for row, rule in zip(axes, rules, strict=True):
            for panel, name in zip(row, histories, strict=True):
                for time, color, updates in zip(times, colors, found[rule][name], strict=True):
                    panel.plot(gradients, updates, color=color, label=f"after {time} steps")
                zero(panel)
                panel.axvline(0, color="0.6", linewidth=0.6, zorder=0)
                two_sided(panel, gradients)
            row[0].set_ylabel(f"update of {rule}")
        for panel, name in zip(axes[0], histories, strict=True):
            panel.set_title(f"{name} gradients before")
        for panel in axes[-1]:
            panel.set_xlabel("gradient")
        below(drawn, axes[0, 0], len(times))
    return drawn


def impulses(found: Mapping[str, Impulse]) -> Figure:
    """Draw what one gradient leaves behind, and how long.

    Args:
        found: rule -> response; all to gradients of the same sizes.

    Returns:
        A figure with a panel for each size: by how much the updates differ from what they would
        have been, over the largest difference. Half-lives stand in the legends.
    """
    sizes = next(iter(found.values())).sizes
    looks = looks_of(list(found))
    with sheet(DOUBLE, 1.9 + 0.13 * len(found)) as drawn:
        for place, axes in enumerate(drawn.subplots(1, len(sizes), sharey=True, squeeze=False)[0]):
            for rule, one in found.items():
                response = one.responses[:, place]
                largest = np.abs(response).max()
                told = f"{rule}: half-life {one.half_lives[place]:.2g}, largest {largest:.2g}"
                shown = response / largest if largest > 0 else response
                axes.plot(np.arange(len(shown)), shown, **looks[rule] | {"label": told})
            zero(axes)
            axes.set(xlabel="steps after the gradient", xlim=(0, len(shown) - 1))
            axes.set_title(f"one gradient of {sizes[place]:g}")
            axes.legend(loc="upper left", bbox_to_anchor=(-0.05, -0.3), borderaxespad=0)
            if not place:
                axes.set_ylabel("change of the update,\nover the largest")
    return drawn


def spectra(found: Mapping[str, FixedPoint]) -> Figure:
    """Draw the modes of rules about the states that they come to rest in.

    Args:
        found: rule -> fixed point.

    Returns:
        A figure of the eigenvalues of the state's map, and of their time constants in order. What
        lies in the plane on the circle neither grows nor fades.
    """
    looks = looks_of(list(found))
    with sheet(DOUBLE, 3.2) as drawn:
        plane, order = drawn.subplots(1, 2)
        turn = np.linspace(0, 2 * np.pi, 200)
        plane.plot(np.cos(turn), np.sin(turn), color="0.5", linewidth=0.8)
        for marker, (rule, one) in zip(cycle(MARKERS), found.items(), strict=False):
            color = looks[rule]["color"]
            style: dict[str, Any] = {"color": color, "marker": marker, "markersize": 4}
            rest = "" if one.settled else ", not at rest"
            label = f"{rule}, gradient {one.gradient:g}: update {one.update:.2g}{rest}"
            values = one.eigenvalues
            plane.plot(values.real, values.imag, linestyle="", alpha=0.7, **style)
            times = np.maximum(one.time_constants, FASTEST)
            order.plot(np.arange(1, 1 + len(times)), times, linewidth=0.7, label=label, **style)
        plane.set(aspect="equal", xlabel="real part", ylabel="imaginary part")
        plane.set_title("eigenvalues of the state's map")
        order.set(xscale="log", yscale="log", xlabel="mode, slowest first")
        order.set_ylabel("time constant (steps)")
        order.set_title(f"steps to fall to 1/e; below {FASTEST:g}: drawn there")
        for axis in (order.xaxis, order.yaxis):
            plain_log_ticks(axis)
        below(drawn, order, 2)
    return drawn


def drifts(found: Mapping[str, Floats]) -> Figure:
    """Draw updates while every gradient is 0: rule -> (T,), from the zero state."""
    looks = looks_of(list(found))
    with sheet(0.7 * DOUBLE, 2.1) as drawn:
        axes = drawn.subplots()
        for rule, updates in found.items():
            axes.plot(np.arange(len(updates)), updates, **looks[rule])
        zero(axes)
        axes.set(xlabel="inner step, all gradients 0", ylabel="update")
        beside(axes)
    return drawn


def stabilities(found: Mapping[str, Stability], sgd: Mapping[str, float] | None = None) -> Figure:
    """Draw how near rules come to the minimum of parabolas whose gradients are noisy.

    Args:
        found: rule -> result; all on the same grid.
        sgd: names in `found` -> learning rate, of plain SGD, whose closed form is drawn thinly.

    Returns:
        A figure with a panel for each noise: root mean square distance from the minimum over the
        last half of the steps, against curvature. Crosses: some repetition diverged; rings: the
        distance still grows.
    """
    one = next(iter(found.values()))
    looks = looks_of(list(found))
    with sheet(DOUBLE, 2.9) as drawn:
        panels = drawn.subplots(1, len(one.noises), sharey=True, squeeze=False)[0]
        for place, axes in enumerate(panels):
            for rule, each in found.items():
                distance = np.sqrt(each.mean_square[place])
                bad, unsettled = each.diverged[place] > 0, ~each.settled[place]
                shown = np.where(bad, np.nan, distance)
                axes.plot(each.curvatures, shown, marker=".", markersize=3, **looks[rule])
                growing = unsettled & ~bad
                axes.plot(each.curvatures[growing], distance[growing], "o", **_mark(looks[rule]))
                top = np.full(int(bad.sum()), 0.98)
                over = axes.get_xaxis_transform()
                axes.plot(each.curvatures[bad], top, "x", transform=over, **_mark(looks[rule]))
            for rule, lr in (sgd or {}).items():
                spread = np.sqrt(sgd_variance(lr, one.curvatures, one.noises[place]))
                exact = looks[rule] | {"linestyle": ":", "linewidth": 2.5, "alpha": 0.5}
                exact["label"] = f"{rule}: closed form"
                axes.plot(one.curvatures, np.where(spread > 0, spread, np.nan), **exact)
            axes.axhline(abs(one.start), color="0.6", linewidth=0.6, zorder=0)
            axes.set(xscale="log", yscale="log", xlabel="curvature h")
            axes.set_title(f"gradient noise {one.noises[place]:g}")
        panels[0].set_ylabel("rms distance from the minimum")
        for axes in panels:
            low, high = axes.dataLim.intervaly
            nearest = NEAREST * abs(one.start)
            axes.set_ylim(max(low / 2, nearest), max(2 * high, 100 * nearest))
            plain_log_ticks(axes.xaxis)
            plain_log_ticks(axes.yaxis)
        drawn.suptitle(
            f"f = h theta² / 2 from theta = {one.start:g} (grey line), n = {one.repetitions} draws "
            f"of the noise; x diverged, o still growing",
        )  # fmt: skip
        below(drawn, panels[0], 4)
    return drawn


def scales(found: Mapping[str, ScaleResponse]) -> Figure:
    """Draw sizes of updates against factors on the gradients: rule -> response."""
    looks = looks_of(list(found))
    with sheet(0.7 * DOUBLE, 2.3) as drawn:
        axes = drawn.subplots()
        for rule, one in found.items():
            told = {"label": f"{rule}: slope {one.slope:.3f}"}
            axes.plot(one.scales, one.sizes, **looks[rule] | told)
        axes.set(xscale="log", yscale="log", xlabel="factor on all gradients")
        axes.set_ylabel("rms of the updates")
        beside(axes)
    return drawn


def rates(found: EffectiveRates) -> Figure:
    """Draw the learning rates that updates amount to, and how much of them these say."""
    rules = list(found.rates)
    looks = looks_of(rules)
    with sheet(DOUBLE, 2.5) as drawn:
        rate, cosine = drawn.subplots(1, 2)
        for rule in rules:
            steps = np.arange(len(found.rates[rule]))
            positive = np.where(found.rates[rule] > 0, found.rates[rule], np.nan)
            rate.plot(steps, positive, **looks[rule])
            cosine.plot(steps, found.cosines[rule], **looks[rule])
        rate.set(yscale="log", xlabel="inner step", ylabel="effective learning rate")
        rate.set_title("slope of -update on the gradient (gaps: below 0)")
        cosine.set(xlabel="inner step", ylabel="cosine")
        cosine.set_title("of -update with the gradient")
        zero(cosine)
        plain_log_ticks(rate.yaxis)
        below(drawn, cosine, 4)
    return drawn


def memories(found: Mapping[str, MemoryFit]) -> Figure:
    """Draw how near memories come to the inverse Hessian: rule -> fit, median and quartiles."""
    looks = looks_of(list(found))
    measures: tuple[tuple[str, Callable[[MemoryFit], Floats], str], ...] = (
        ("M with the inverse Hessian", lambda fit: fit.cosine, "cosine"),
        ("|M - inverse| / |inverse|", lambda fit: fit.error, "relative error"),
        ("|M H - I| / |I|", lambda fit: fit.identity_error, "relative error"),
        ("M g with Newton's direction", lambda fit: fit.direction, "cosine"),
    )
    with sheet(DOUBLE, 4.2) as drawn:
        panels = drawn.subplots(2, 2, sharex=True).ravel()
        for axes, (title, measure, label) in zip(panels, measures, strict=True):
            for rule, fit in found.items():
                low, middle, high = np.quantile(measure(fit), (0.25, 0.5, 0.75), axis=1)
                axes.plot(fit.steps, middle, **looks[rule])
                axes.fill_between(
                    fit.steps, low, high, color=looks[rule]["color"], alpha=0.13, lw=0
                )
            axes.set(ylabel=label)
            axes.set_title(title)
            if label == "relative error":
                axes.set_yscale("log")
                plain_log_ticks(axes.yaxis)
        for axes in panels[2:]:
            axes.set_xlabel("inner step")
        n = next(iter(found.values())).loss.shape[1]
        drawn.suptitle(f"median and quartiles over n = {n} problems")
        below(drawn, panels[0], 4)
    return drawn


def _mark(look: Mapping[str, Any]) -> dict[str, Any]:
    """A hollow mark in the colour of a line."""
    return {"color": look["color"], "fillstyle": "none", "markersize": 7, "linestyle": ""}
