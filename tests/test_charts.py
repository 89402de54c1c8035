"""Charts of studies: what they say and where their lines lie, and what is refused."""

import inspect
import itertools
import math
import re
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from omegaconf import OmegaConf

from l2l_exp.comparison import Gallery
from l2l_exp.microscope import Followed, Proposals
from l2l_exp.report import charts, frames, paper, pictures, studies, style, updates
from l2l_exp.report.shipping import slim
from l2l_exp.statistics import seeds_interval
from l2l_exp.tracking import NoTracker

INF, NAN = math.inf, math.nan
PROBLEMS, STEPS = 4, np.arange(0, 11)
SWEEPS = sorted((Path(__file__).parents[1] / "sweeps").glob("*.yaml"))
T_TWO = 4.302653  # Student-t of two degrees of freedom, 97.5 %


def table(seed: int, losses: dict, run_id: str) -> pd.DataFrame:
    """Curves by hand: (rule, tuned_for) -> (steps,) or (steps, problems) of losses."""
    parts = []
    for (rule, tuned_for), values in losses.items():
        values = np.asarray(values, dtype=float)
        values = np.broadcast_to(values.reshape(len(STEPS), -1), (len(STEPS), PROBLEMS))
        part = {name: np.nan for name in frames.METRICS}
        measured = np.isin(STEPS, (0, 1, 3, 10))[:, None]
        part |= {
            "problem": np.tile(np.arange(PROBLEMS), len(STEPS)),
            "step": np.repeat(STEPS, PROBLEMS),
            "loss": values.ravel(),
            "running_mean": 2 * values.ravel(),
            "train_loss": np.where(measured, 3 * values, NAN).ravel(),
        }
        made = pd.DataFrame(part).assign(rule=rule, tuned_for=tuned_for, run_id=run_id, seed=seed)
        made["kind"] = "learned" if rule == "learned" else "baseline"
        parts.append(made.assign(lr=0.1, status="ok", schema_version=1))
    return pd.concat(parts)[list(frames.COLUMNS)]


def spread(value: float) -> dict:
    """A criterion of summary.json, null where it is infinite."""
    names = {"mean": 1.1 * value, "median": value, "low": 0.9 * value, "high": 1.2 * value}
    return {key: one if math.isfinite(one) else None for key, one in names.items()}


def rule(final: float, per_step: float = 1e-3, validation: float | None = None, **status) -> dict:
    made = {
        "name": "r", "average": None, "final": spread(final), "held_out": spread(2 * final),
        "status": {"ok": PROBLEMS - sum(status.values()), **status},
        "seconds_per_step": per_step, "gradient_seconds_per_step": 1e-3,
        "state_bytes_per_coordinate": 8.0,
    }  # fmt: skip
    return made if validation is None else made | {"validation": {"final": validation}}


def decay(final: float, start: float = 2.0) -> np.ndarray:
    """Losses that fall from a start to an end, by the same factor at every step."""
    return start * (final / start) ** (STEPS / STEPS[-1])


def run(seed: int, *overrides: str, final: float = 0.1, status: str = "FINISHED", **changes):
    """A run whose learned rule ends at `final`, where nag ends at .2 and adam at .4.

    Args:
        changes: of the summary; `learned` instead of the learned rule's losses; `failed` of its
            problems.
    """
    run_id = f"{'-'.join(overrides)}-{seed}"
    losses = changes.pop("learned", decay(final))
    failed = changes.pop("failed", {})
    ratio = math.log(final / 0.2) if 0 < final < INF else None
    paired = {
        "best_baseline": "nag", "log_ratio": {"median": ratio, "low": ratio, "high": ratio},
    }  # fmt: skip
    summary = {
        "run_id": run_id, "seed": seed, "optimizee": "mlp", "data": "digits", "horizon": 10,
        "n_problems": PROBLEMS, "learned": rule(final, **failed),
        "baselines": {
            "nag": rule(0.2, 1e-4, validation=0.19), "adam": rule(0.4, 2e-4, validation=0.39),
        },
        "paired": {"average": None, "final": paired, "held_out": paired},
        "selection": {"episode": 20, "criterion": "final", "validation": 1.05 * final},
        "validations": [
            {"episode": 10, "seconds": 5.0, "loss": 0.5},
            {"episode": 20, "seconds": 10.0 + seed, "loss": final if final < INF else None},
        ],
        "validated": "hash",
        "cost": {"problems": 100, "seconds": 10.0, "episodes": 20},
        **changes,
    }  # fmt: skip
    if summary["selection"] and not math.isfinite(summary["selection"]["validation"] or INF):
        summary["selection"]["validation"] = None
    curves = table(
        seed,
        {
            ("learned", ""): losses, ("nag", "final+held_out"): decay(0.2),
            ("nag", "average"): decay(1.9), ("adam", "average+final"): decay(0.4),
        },
        run_id,
    )  # fmt: skip
    done = status == "FINISHED"
    return studies.Run(
        run_id, status, seed, (f"seed={seed}", *overrides), summary if done else None,
        (lambda: curves) if done else None, None if done else "it broke",
        extras={
            "updates": lambda: updates_of(run_id, seed),
            "pictures": lambda: pictures_of(run_id, seed),
        } if done else {},
    )  # fmt: skip


def updates_of(run_id: str, seed: int) -> pd.DataFrame:
    """Updates of two coordinates over two steps, and those that four gradients would have led to.

    The learned rule's are the seed plus the number of the coordinate; adam's gradients are halved.
    """
    size = np.arange(2.0)
    made = np.tile(seed + size, (2, 1))
    asked = np.array([[-2.0, -1.0, 1.0, 2.0], [-1.0, 0.0, 1.0, 2.0]])
    would = np.stack([asked, 2 * asked])
    followed = Followed((3, 7), ("w[3]", "b[0]"), size, made, {"learned": made, "adam": made / 2})
    swept = Proposals(
        (3, 7), ("w[3]", "b[0]"), (0, 1), asked, made, {"learned": would, "adam": would / 2}
    )
    return updates.table(run_id, seed, followed, swept)


def pictures_of(run_id: str, seed: int) -> pd.DataFrame:
    """Two problems of 2x2 pixels: grey style, and rules as bright as their loss is low."""
    grey = np.full((2, 2, 2, 3), 0.5)
    losses = {
        "learned": {1: np.array([0.8, 0.6]), 4: np.array([0.2, 0.4])},
        "adam": {1: np.array([1.0, 0.8]), 4: np.array([0.6, 0.8])},
    }
    rules = {
        name: {
            step: np.tile(1 - one[:, None, None, None], (1, 2, 2, 3)) for step, one in by.items()
        }
        for name, by in losses.items()
    }
    return pictures.table(run_id, seed, Gallery({"style": grey}, rules, losses))


def study(*runs, expected: int | None = None, **asked) -> studies.Study:
    return studies.study({"name": "mine", "charts": asked}, list(runs), expected)


def three(*overrides: str, finals=(0.1, 0.05, 0.2), **changes) -> list:
    return [run(seed, *overrides, final=f, **changes) for seed, f in enumerate(finals)]


def drawn(figure: Figure) -> Figure:
    """The figure, laid out and drawn without a single warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.draw_without_rendering()
    return figure


def texts(figure: Figure) -> str:
    """Everything a reader can read, without line breaks."""
    found = [one.get_text() for one in figure.findobj(Text)]
    return " | ".join(" ".join(one.split()) for one in found if one)


def note(figure: Figure) -> str:
    return " ".join(figure.get_suptitle().split())


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def of_color(axes, color: str, gid: str = "data") -> list:
    """The lines of a colour, the thickest last."""
    lines = [one for one in axes.lines if to_hex(one.get_color()) == to_hex(color)]
    return sorted((one for one in lines if one.get_gid() == gid), key=lambda x: x.get_linewidth())


def edges(axes) -> list[tuple[str, float, float]]:
    """Arrows at the edges: marker, x, y."""
    found = [one for one in axes.lines if one.get_gid() == "edge" and one.get_markersize() > 0]
    return [(o.get_marker(), float(o.get_xdata()[0]), float(o.get_ydata()[0])) for o in found]


def spots(axes, marker: str, color: str = "black") -> list[tuple[float, float, str]]:
    """Single markers: x, y, fill style."""
    found = [one for one in axes.lines if one.get_marker() == marker and len(one.get_xdata()) == 1]
    found = [one for one in found if to_hex(one.get_color()) == to_hex(color)]
    found = [one for one in found if one.get_gid() != "edge"]
    return [(float(o.get_xdata()[0]), float(o.get_ydata()[0]), o.get_fillstyle()) for o in found]


# ------------------------------------------------------------------ curves


def test_curves_are_geometric_means_of_medians_with_every_seed_thin():
    figure = drawn(charts.curves(study(*three())))
    (axes,) = figure.axes
    *thin, thick = of_color(axes, "black")
    assert [float(one.get_ydata()[-1]) for one in thin] == pytest.approx([0.1, 0.05, 0.2])
    np.testing.assert_allclose(thick.get_ydata(), decay(0.1)[1:], rtol=1e-6)
    np.testing.assert_array_equal(thick.get_xdata(), STEPS[1:])
    assert thick.get_linewidth() > 3 * thin[0].get_linewidth()
    assert note(figure).startswith("n = 4 fresh test problems each; 3 meta-seeds (0, 1, 2).")
    assert "bands: quartiles" in note(figure) and "geometric mean over meta-seeds" in note(figure)
    assert {"learned rule", "each meta-seed", "nag", "adam", "quartiles"} == set(labels(figure))
    assert axes.get_yscale() == "log" and axes.get_ylabel() == "minibatch loss (nats)"


def test_baselines_are_drawn_once_at_the_rate_tuned_for_the_final_loss():
    (axes,) = charts.curves(study(*three())).axes
    for name, end in (("nag", 0.2), ("adam", 0.4)):
        (line,) = of_color(axes, style.BASELINE_LOOKS[name].color)
        assert float(line.get_ydata()[-1]) == pytest.approx(end)


def test_bands_are_quartiles_over_problems():
    losses = np.outer(decay(0.1), [1.0, 2.0, 4.0, 8.0])
    (axes,) = charts.curves(study(run(0, learned=losses))).axes
    band = axes.collections[0].get_paths()[0].vertices
    last = band[band[:, 0] == 10][:, 1]
    assert [last.min(), last.max()] == pytest.approx([0.1, 0.4])  # inverted cdf of four
    assert float(of_color(axes, "black")[-1].get_ydata()[-1]) == pytest.approx(0.2)


def test_there_is_a_panel_for_each_condition_which_names_what_is_missing_and_what_failed():
    runs = [
        *three("variant=wide"),
        run(0, "variant=deep", failed={"diverged": 3, "worse_than_start": 1}),
        run(1, "variant=deep", status="FAILED"), run(2, "variant=deep", status="KILLED"),
    ]  # fmt: skip
    figure = drawn(charts.curves(study(*runs, expected=9)))
    wide, deep = (axes.get_title() for axes in figure.axes)
    assert wide == "wide"
    assert " ".join(deep.split()) == (
        "deep 1 of 3 meta-seeds; no interval over seeds "
        "learned: 3 of 4 diverged, 1 of 4 worse than start"
    )
    assert "4 of 9 runs; 1 failed (deep seed 1); 1 stopped (deep seed 2); 3 not begun." in note(
        figure
    )
    assert "1 to 3 meta-seeds (0, 1, 2) per condition" in note(figure)


def test_baselines_failures_are_told_by_condition_and_summed_where_there_are_many():
    def one(name: str):
        return run(0, f"v={name}", baselines={"nag": rule(0.2, diverged=1), "adam": rule(0.4)})

    few = note(charts.curves(study(one("a"), run(0, "v=b"))))
    assert "Baselines' failed problems: v a: nag 1 of 4 diverged." in few
    many = note(charts.curves(study(*map(one, "abcd"))))
    assert "Baselines' failed problems: over all conditions: nag 4 of 16 diverged." in many


def test_baselines_that_a_condition_lacks_are_named():
    fewer = table(0, {("learned", ""): decay(0.1), ("nag", "final"): decay(0.2)}, "v=b-0")
    other = studies.Run(**{**vars(run(0, "v=b")), "curves": lambda: fewer})
    told = note(charts.curves(study(run(0, "v=a"), other)))
    assert "Baselines that were not run: v b adam." in told
    assert "not run" not in note(charts.curves(study(run(0, "v=a"), run(0, "v=b"))))


def test_one_seed_is_named_and_has_no_thin_line():
    figure = drawn(charts.curves(study(run(7))))
    assert len(of_color(figure.axes[0], "black")) == 1
    assert "1 meta-seed (7): no interval over seeds" in note(figure)
    assert "each meta-seed" not in labels(figure)


def test_what_is_not_finite_is_an_arrow_at_the_edge_where_it_begins():
    losses = decay(0.1)
    losses[6:] = NAN
    figure = drawn(charts.curves(study(run(0, learned=losses), run(1))))
    (axes,) = figure.axes
    assert edges(axes) == [("^", 6.0, 1.0), ("^", 6.0, 1.0)]  # the seed's, and the mean's
    assert "beyond the axis, or not finite" in labels(figure)
    assert np.isinf(of_color(axes, "black")[-1].get_ydata()[5:]).all()


def test_an_arrow_lies_within_the_axis_that_it_is_on():
    for axes in drawn(charts.validations(study(run(0, final=INF)))).axes:
        left, right = axes.get_xlim()
        assert edges(axes) and all(left < x < right for _, x, _ in edges(axes))


def test_a_chart_can_be_saved_as_the_tracker_does(tmp_path):
    figure = charts.curves(study(*three()))
    for path in NoTracker(tmp_path).figure("curves", figure):
        assert path.stat().st_size > 10_000


def test_a_blow_up_does_not_flatten_the_others_and_a_zero_is_an_arrow_below():
    losses = decay(0.1)
    losses[8], losses[10] = 1e20, 0.0
    (axes,) = drawn(charts.curves(study(run(0, learned=losses)))).axes
    low, high = axes.get_ylim()
    assert high < 30 * 2.2 and low > 0.01
    assert edges(axes) == [("^", 8.0, 1.0), ("v", 10.0, 0.0)]


def test_panels_share_an_axis_of_losses_unless_that_flattens_most():
    same = charts.curves(study(run(0, "v=a"), run(0, "v=b"), run(0, "v=c", final=0.01)))
    assert len({axes.get_ylim() for axes in same.axes}) == 1
    other = charts.curves(study(run(0, "v=a"), run(0, "v=b"), run(0, "v=c", final=1e-12)))
    assert len({axes.get_ylim() for axes in other.axes}) > 1
    assert "axes of losses differ between panels" in note(other)


@pytest.mark.parametrize("name", paper.FIGURES)
def test_the_papers_points_are_markers_that_are_said_to_be_digitised(name):
    losses = np.outer(decay(0.1), [1.0, 2.0, 4.0, 8.0])
    figure = drawn(charts.curves(study(run(0, learned=losses)), paper=name))
    (axes,) = figure.axes
    points = [one for one in axes.lines if one.get_linestyle() == "None" and one.get_gid()]
    assert {one.get_gid() for one in points} == {"shown"} and len(points) == 5
    adam = next(o for o in points if o.get_marker() == style.BASELINE_LOOKS["adam"].marker)
    digitised = paper.FIGURES[name]
    assert list(adam.get_xdata()) == [10]  # the horizon is 10
    assert list(adam.get_ydata()) == [digitised.losses["adam"][0]]
    assert float(of_color(axes, "black")[-1].get_ydata()[-1]) == pytest.approx(0.1 * 15 / 4)
    assert not axes.collections and "quartiles" not in labels(figure)
    assert "digitised" in note(figure) and "means" in note(figure)
    assert ("on MNIST; our lines: digits" in note(figure)) == (name == "fig4_mlp")
    assert "paper's points" in labels(figure)


def test_a_figure_that_the_paper_does_not_have_is_refused():
    with pytest.raises(ValueError, match="paper=fig9 must be one of fig4_quadratic, fig4_mlp"):
        charts.curves(study(run(0)), paper="fig9")


def test_the_papers_tables_are_whole_and_fall():
    for digitised in paper.FIGURES.values():
        for name, losses in digitised.losses.items():
            assert len(losses) == len(digitised.steps), name
            assert list(losses) == sorted(losses, reverse=True), name


def test_a_line_marks_where_training_ended():
    figure = drawn(charts.curves(study(run(0)), trained_horizon=5))
    assert [5, 5] in [list(one.get_xdata()) for one in figure.axes[0].lines]
    assert "trained: 5 steps" in labels(figure)


# ------------------------------------------------------------------ horizons, seconds


def test_rules_that_met_the_same_baselines_share_a_panel_and_failures_are_counted():
    runs = [
        *three("optimizer.source=robust", trained_horizon=20),
        *three("optimizer.source=fig4_mlp", failed={"diverged": 2}, trained_horizon=5),
    ]
    figure = drawn(charts.horizons(study(*runs), trained_horizon=7))
    train, running = figure.axes
    assert [train.get_xscale(), train.get_yscale(), running.get_yscale()] == ["log"] * 3
    np.testing.assert_array_equal(of_color(train, "black")[-1].get_xdata(), [1, 3, 10])
    assert float(of_color(train, "black")[-1].get_ydata()[-1]) == pytest.approx(0.3)
    assert float(of_color(running, "black")[-1].get_ydata()[-1]) == pytest.approx(0.2)
    assert "rule of robust (trained: 20 steps; 0 of 12 failed)" in labels(figure)
    assert "rule of fig4_mlp (trained: 5 steps; 6 of 12 diverged)" in labels(figure)
    assert "nag (0 of 4 failed)" in labels(figure)
    assert "trained: 5, 20 steps" in labels(figure)


def test_rules_that_met_other_baselines_have_panels_of_their_own():
    other = run(0, "v=b")
    worse = {("learned", ""): decay(0.1), ("nag", "final"): decay(0.3)}
    other = studies.Run(**{**vars(other), "curves": lambda: table(0, worse, "v=b-0")})
    figure = charts.horizons(study(run(0, "v=a"), other))
    assert [axes.get_title() for axes in figure.axes] == ["v a", "v a", "v b", "v b"]
    assert len(charts.seconds(study(run(0, "v=a"), other)).axes) == 2
    assert len(charts.seconds(study(run(0, "v=a"), run(0, "v=b"))).axes) == 1


def test_seconds_are_steps_times_the_cost_of_rule_and_gradient():
    slow = run(1)
    slow.summary["learned"]["seconds_per_step"] = 3e-3
    (axes,) = drawn(charts.seconds(study(run(0), slow))).axes
    fast_line, slow_line, mean = of_color(axes, "black")
    assert float(fast_line.get_xdata()[-1]) == pytest.approx(10 * 2e-3)
    assert float(slow_line.get_xdata()[-1]) == pytest.approx(10 * 4e-3)
    assert float(mean.get_xdata()[-1]) == pytest.approx(10 * math.sqrt(8) * 1e-3)
    (nag,) = of_color(axes, style.BASELINE_LOOKS["nag"].color)
    assert float(nag.get_xdata()[-1]) == pytest.approx(10 * 1.1e-3)
    assert axes.get_xlabel() == "seconds"


# ------------------------------------------------------------------ maps and profiles


def cells(axes) -> dict[tuple[int, int], str]:
    return {
        tuple(map(int, one.get_position())): one.get_text()
        for one in axes.texts if "n=" in one.get_text()
    }  # fmt: skip


def test_cells_hold_ratio_and_seeds_in_brackets_where_one_is_not_excluded():
    def at(units: int, *finals: float) -> list:
        return three(f"optimizee.hidden_units={units}", "optimizee.layers=1", finals=finals)

    runs = [
        *at(100, 0.1, 0.1001, 0.0999), *at(20, 0.1, 0.2, 0.3), *at(5, 0.05),
        *at(35, INF, INF, INF), run(0, "optimizee.hidden_units=5", "optimizee.layers=2"),
    ]  # fmt: skip
    figure = drawn(charts.heat_map(study(*runs), x="optimizee.hidden_units", y="optimizee.layers"))
    final = next(axes for axes in figure.axes if axes.get_title().startswith("final, training"))
    mean = (0.5 * 1.0 * 1.5) ** (1 / 3)
    assert cells(final) == {
        (0, 0): "(0.25)\nn=1", (0, 1): "(0.50)\nn=1", (1, 0): f"({mean:.2f})\nn=3",
        (2, 0): "∞\nn=3", (3, 0): "0.50\nn=3",
    }  # fmt: skip
    assert [tick.get_text() for tick in final.get_xticklabels()] == ["5", "20", "35", "100"]
    assert final.get_xlabel() == "hidden units per layer"
    hatched = [one for one in final.patches if isinstance(one, Rectangle) and one.get_hatch()]
    assert sorted(one.get_xy() for one in hatched) == [(0.5, 0.5), (1.5, 0.5), (2.5, 0.5)]
    assert "No finished run: hidden units per layer 100, hidden layers 2; hidden" in note(figure)
    assert "In brackets: the 95 % interval over meta-seeds includes 1, or there is none" in note(
        figure
    )
    assert "best baseline: nag" in texts(figure) and "no run" in labels(figure)


def test_colours_are_centred_at_ratio_one():
    runs = [run(0, f"a={n}", final=f) for n, f in enumerate((0.1, 0.2, 0.4))]
    figure = drawn(charts.heat_map(study(*runs), x="a", y="b"))
    low, middle, high = (np.array(one.get_facecolor()[:3]) for one in figure.axes[0].patches)
    assert middle.min() > 0.93 and low[2] > low[1] and high[0] > high[2]
    assert "(not varied)" in texts(figure)


@pytest.mark.parametrize(
    ("chart", "options"), [("lines", {"x": "a", "panels": "b"}), ("tuning", {"x": "a"})]
)
def test_charts_over_keys_do_not_mix_what_differs_in_another(chart, options):
    with pytest.raises(ValueError, match=r"would mix runs of 'mine', which also differ in c"):
        getattr(charts, chart)(study(run(0, "a=1", "c=1"), run(0, "a=1", "c=2")), **options)


def test_maps_have_a_row_of_panels_for_what_differs_besides():
    runs = [run(0, "a=1", "c=x"), run(0, "a=1", "c=y", final=0.02), run(0, "a=2", "c=x")]
    figure = drawn(charts.heat_map(study(*runs), x="a", y="b"))
    first, _, third, _ = (axes for axes in figure.axes if "part" in axes.get_title())
    assert first.get_title().startswith("c x\n") and third.get_title().startswith("c y\n")
    assert cells(first) == {(0, 0): "(0.50)\nn=1", (1, 0): "(0.50)\nn=1"}
    assert cells(third) == {(0, 0): "(0.10)\nn=1"}
    assert "No finished run: c y, a 2." in note(figure)


def test_profiles_tell_several_rules_apart_beside_the_same_baselines():
    runs = [
        run(0, f"u={u}", "l=1", f"optimizer.source={name}", final=final)
        for u in (5, 20) for name, final in (("one", 0.1), ("two", 0.05))
    ]  # fmt: skip
    figure = drawn(charts.lines(study(*runs), x="u", panels="l", trained_at=20))
    (axes,) = figure.axes
    for look, final in zip(style.rule_looks(2), (0.1, 0.05), strict=True):
        (mean,) = of_color(axes, look.color, "shown")
        assert list(mean.get_ydata()) == pytest.approx([final, final])
    (nag,) = of_color(axes, style.BASELINE_LOOKS["nag"].color)
    assert list(nag.get_xdata()) == [5, 20]
    assert {"rule of one", "rule of two", "nag", "adam"} <= set(labels(figure))


def test_what_cannot_be_read_is_named():
    lost = studies.Run("lost", studies.UNREADABLE_RUN, -1, (), None, error="run.json")
    empty = studies.Run(**{**vars(run(2)), "summary": None})
    mine = study(run(0), run(1), lost, empty)
    for name in ("curves", "tuning", "strips"):
        told = note(charts.CHARTS[name](mine, **OPTIONS.get(name, {})))
        assert "2 of 4 runs; 1 unreadable (run lost); 1 finished but unreadable" in told


def test_what_was_trained_on_is_told_from_what_was_tested_on():
    key = "optimizee.activation"
    runs = [run(0, f"optimizer.where.{key}={a}", f"{key}={b}") for a, b in ("st", "ts", "ss", "tt")]
    figure = charts.heat_map(study(*runs), x=key, y=f"optimizer.where.{key}")
    assert "activation, tested on" in texts(figure) and "activation, trained on" in texts(figure)


def test_profiles_show_every_rule_and_the_architecture_trained_on():
    runs = [
        one
        for units, layers in itertools.product((5, 20), (2, 1))
        for one in three(f"u={units}", f"l={layers}", finals=(0.1 * layers, 0.2 * layers, INF)[:2])
    ]
    runs.append(run(2, "u=5", "l=1", final=INF))
    figure = drawn(charts.lines(study(*runs), x="u", panels="l", trained_at=20))
    one, two = figure.axes
    assert [one.get_title(), two.get_title()] == ["l: 1", "l: 2"]
    (mean,) = of_color(two, "black", "shown")
    np.testing.assert_allclose(mean.get_xdata(), [5, 20])
    np.testing.assert_allclose(mean.get_ydata(), 0.2 * math.sqrt(2))
    (seeds,) = of_color(two, "black")
    assert sorted(seeds.get_ydata()) == pytest.approx([0.2, 0.2, 0.4, 0.4])
    assert edges(one) == [("^", 5.0, 1.0)]
    (nag,) = of_color(one, style.BASELINE_LOOKS["nag"].color)
    assert list(nag.get_ydata()) == pytest.approx([0.2, 0.2])
    assert [20, 20] in [list(line.get_xdata()) for line in one.lines]
    assert [20, 20] not in [list(line.get_xdata()) for line in two.lines]
    level = 0.1 * math.sqrt(2)
    for axes in figure.axes:
        assert any(list(line.get_ydata()) == pytest.approx([level] * 2) for line in axes.lines)
    assert {"trained on", "its loss there"} <= set(labels(figure))


# ------------------------------------------------------------------ meta-training


def test_validations_have_a_line_per_seed_over_episodes_and_seconds():
    figure = drawn(charts.validations(study(*three(finals=(0.1, 0.05, INF)))))
    episodes, seconds = figure.axes
    lines = [line for line in episodes.lines if line.get_gid() == "data"]
    assert [list(line.get_ydata()) for line in lines] == [[0.5, 0.1], [0.5, 0.05], [0.5, INF]]
    assert [list(line.get_xdata()) for line in lines] == [[10, 20]] * 3
    assert edges(episodes) == [("^", 20.0, 1.0)]
    assert [list(o.get_xdata())[1] for o in seconds.lines if o.get_gid() == "data"] == [10, 11, 12]
    assert [o.get_ydata()[0] for o in episodes.lines if o.get_marker() == "*"] == [0.1, 0.05]
    assert {"meta-seed 0", "meta-seed 1", "meta-seed 2", "selected"} <= set(labels(figure))
    assert len({(o.get_linestyle(), o.get_color()) for o in lines}) == 3
    assert "criterion: final" in note(figure)


def test_validations_of_several_conditions_tell_their_seconds():
    runs = [*three("a=1"), run(0, "a=2", validated="another")]
    figure = drawn(charts.validations(study(*runs)))
    assert " ".join(figure.axes[0].get_title().split()) == "a 1 10 to 12 s"
    assert "1 of 3 meta-seeds" in figure.axes[1].get_title()
    assert "losses cannot be compared" in note(figure)


def test_validations_need_no_evaluation():
    alone = {"run_id": "-0", "seed": 0, "validations": [{"episode": 1, "seconds": 1, "loss": 0.3}]}
    one = studies.Run("-0", "FINISHED", 0, ("seed=0",), alone)
    figure = drawn(charts.validations(study(one)))
    assert "1 meta-seed (0)" in note(figure)


def mean_and_interval(axes) -> tuple[list[float], list[float]]:
    """The first diamond, and the ends of the first vertical line."""
    (segment,) = axes.collections[0].get_segments()
    return list(spots(axes, "D")[0][:2]), [float(segment[0][1]), float(segment[1][1])]


def test_tuning_has_the_mean_over_seeds_with_its_t_interval_on_a_log_axis():
    runs = [
        *three("lr=0.01", finals=(0.1, 0.1 * math.e, 0.1 / math.e)),
        run(0, "lr=0.1", final=INF),
    ]
    figure = drawn(charts.tuning(study(*runs), x="lr"))
    final, held_out, validation = figure.axes
    half = T_TWO * 1 / math.sqrt(3)
    (x, mean), ends = mean_and_interval(final)
    assert (x, mean) == pytest.approx((0.01, 0.5)) and final.get_xscale() == "log"
    low, high = final.get_ylim()
    expected = np.clip([0.5 * math.exp(-half), 0.5 * math.exp(half)], low, high)
    assert ends == pytest.approx(expected)
    assert sorted(y for _, y, _ in spots(final, "o")) == pytest.approx(
        [0.5 / math.e, 0.5, 0.5 * math.e]
    )
    assert ("^", 0.1, 1.0) in edges(final)
    assert spots(validation, "D")[0][1] == pytest.approx(0.105)
    assert [axes.get_title() for axes in figure.axes] == [
        "final, training part", "final, held-out part", "validation, at selection",
    ]  # fmt: skip


def test_tuning_over_names_is_not_joined():
    (final, *_) = drawn(charts.tuning(study(run(0, "a=x"), run(0, "a=y")), x="a")).axes
    assert [tick.get_text() for tick in final.get_xticklabels()] == ["x", "y"]
    assert not [o for o in final.lines if o.get_linestyle() == "-" and len(set(o.get_xdata())) > 1
                and list(o.get_ydata()) != [1, 1]]  # fmt: skip


def test_the_same_seed_again_is_no_repetition():
    again = studies.Run(**{**vars(run(0)), "run_id": "again"})
    mine = study(run(0), again)
    assert not spots(charts.tuning(mine, x="a").axes[0], "D")
    assert not spots(charts.strips(mine).axes[0], "D")
    assert "some of them twice: no repetitions" in note(charts.strips(mine))


def test_training_cost_stands_at_what_was_seen_and_at_its_seconds():
    runs = [
        *[run(s, "e=1", cost={"problems": 10, "seconds": t}) for s, t in ((0, 1.0), (1, 4.0))],
        *[run(s, "e=2", final=0.05, cost={"problems": 20, "seconds": 9.0}) for s in (0, 1)],
    ]
    figure = drawn(charts.training_cost(study(*runs)))
    problems, seconds = figure.axes[:2]
    assert [spot[:2] for spot in sorted(spots(problems, "D"))] == [
        pytest.approx((10, 0.5)), pytest.approx((20, 0.25)),
    ]  # fmt: skip
    assert [x for x, *_ in spots(seconds, "D")] == pytest.approx([2.0, 9.0])
    assert [x for x, *_ in spots(seconds, "o")] == pytest.approx([1.0, 4.0, 9.0, 9.0])
    told = [axes.get_xlabel() for axes in figure.axes]
    assert told[2:] == ["problems seen in meta-training", "seconds of meta-training"]
    assert len(figure.axes) == 4


def test_conditions_of_the_same_cost_are_not_pooled():
    figure = charts.training_cost(study(run(0, "a=1"), run(0, "a=2", final=0.05)))
    assert [y for _, y, _ in spots(figure.axes[0], "D")] == pytest.approx([0.5, 0.25])


def test_training_pays_off_after_its_seconds_over_those_saved():
    reached = np.where(STEPS < 4, 1.0, 0.1)  # at step 4, nag at step 10
    figure = drawn(charts.payoff(study(run(0, learned=reached))))
    saved = 10 * 1.1e-3 - 4 * 2e-3
    assert spots(figure.axes[0], "o") == [(10.0, pytest.approx(10.0 / saved), "none")]
    assert "never" not in texts(figure) and figure.axes[0].get_ylabel() == "uses until paid off"


@pytest.mark.parametrize(
    "losses", [np.full(11, 0.3), np.where(STEPS < 9, 1.0, 0.1), np.full(11, NAN)],
    ids=["never there", "slower", "diverged"],
)  # fmt: skip
def test_training_that_never_pays_off_is_an_arrow_and_said(losses):
    figure = drawn(charts.payoff(study(run(0, learned=losses), run(1, final=0.01))))
    assert edges(figure.axes[0]) == [("^", 10.0, 1.0)]
    assert "1 of 2 runs never pay off" in note(figure) and "never" in labels(figure)


# ------------------------------------------------------------------ overhead


def sized(parameters: int, name: str, per_step: float, **changes):
    one = run(0, f"optimizer={name}", f"optimizee.hidden_units={parameters // 10}", **changes)
    one.summary["learned"]["seconds_per_step"] = per_step
    return one


def test_overhead_is_drawn_against_the_number_of_parameters():
    runs = [
        sized(n, name, t * n, size=n)
        for n in (1000, 100) for name, t in (("lstm", 1e-6), ("mlp", 1e-7))
    ]  # fmt: skip
    figure = drawn(charts.overhead(study(*runs)))
    seconds, state = figure.axes
    lstm = next(
        o for o in seconds.lines if to_hex(o.get_color()) == "#000000" and o.get_linestyle() == "-"
    )
    np.testing.assert_allclose(lstm.get_xdata(), [100, 1000])
    np.testing.assert_allclose(lstm.get_ydata(), [1e-4, 1e-3])
    lines = [o for o in state.lines if o.get_linestyle() != "None"]
    np.testing.assert_allclose(lines[0].get_ydata(), [800, 8000])
    assert seconds.get_xlabel() == "parameters of the optimizee"
    assert {"lstm", "mlp", "nag", "adam", "gradient alone"} == set(labels(figure))


def test_overhead_falls_back_on_the_key_that_differs():
    figure = drawn(charts.overhead(study(*[sized(n, "lstm", 1e-4) for n in (100, 200)])))
    assert figure.axes[0].get_xlabel() == "hidden units per layer"
    assert figure.axes[1].get_ylabel() == "bytes of state per coordinate"
    with pytest.raises(ValueError, match="neither the number of parameters nor a numeric key"):
        charts.overhead(study(run(0)))


# ------------------------------------------------------------------ strips, selection


def test_strips_show_every_seed_their_mean_and_the_best_baseline_filled():
    figure = drawn(charts.strips(study(*three())))
    final, held_out = figure.axes
    assert sorted(x for x, *_ in spots(final, "o")) == pytest.approx([0.05, 0.1, 0.2])
    assert spots(final, "D")[0][0] == pytest.approx(0.1)
    assert sorted(x for x, *_ in spots(held_out, "o")) == pytest.approx([0.1, 0.2, 0.4])
    nag, adam = (style.BASELINE_LOOKS[name] for name in ("nag", "adam"))
    ((x, _, fill),) = spots(final, nag.marker, nag.color)
    assert (x, fill) == (pytest.approx(0.2), "full")
    assert spots(final, adam.marker, adam.color)[0][2] == "none"
    interval = seeds_interval(np.log([0.1, 0.05, 0.2]))
    low, high = final.get_xlim()
    (segment,) = final.collections[0].get_segments()
    expected = np.clip(np.exp([interval.low, interval.high]), low, high)
    assert [segment[0][0], segment[1][0]] == pytest.approx(expected)


def test_strips_of_failures_end_in_arrows_and_one_seed_has_no_interval():
    runs = [run(0, "a=1", final=INF), run(0, "a=2"), run(1, "a=2"), run(1, "a=1", status="FAILED")]
    final, _ = drawn(charts.strips(study(*runs))).axes
    assert [(marker, x) for marker, x, _ in edges(final) if marker == ">"] == [(">", 1.0)]
    assert len(spots(final, "D")) == 1
    assert "1 of 2 meta-seeds; no interval over seeds" in " ".join(
        tick.get_text() for tick in final.get_yticklabels()
    )


def test_selection_joins_the_score_at_selection_with_the_test():
    figure = drawn(charts.selection(study(run(0), run(1, final=INF))))
    (axes,) = figure.axes
    assert [(x, fill) for x, _, fill in spots(axes, "o")] == [
        (pytest.approx(0.105), "none"), (pytest.approx(0.11), "full"),
    ]  # fmt: skip
    assert [marker for marker, *_ in edges(axes)] == [">", ">"]
    nag = style.BASELINE_LOOKS["nag"]
    assert [x for x, *_ in spots(axes, nag.marker, nag.color)] == pytest.approx([0.19, 0.22])
    assert "best baseline: nag" in labels(figure)


def test_selection_by_what_is_no_test_criterion_is_refused():
    chosen = {"criterion": "meta_loss", "episode": 1, "validation": -3.0}
    with pytest.raises(ValueError, match="no run with a score at selection and on tests"):
        charts.selection(study(run(0, selection=chosen)))


# ------------------------------------------------------------------ all of them


OPTIONS = {
    "heat_map": {"x": "a", "y": "b"}, "lines": {"x": "a", "panels": "b", "trained_at": 1},
    "tuning": {"x": "a"},
}  # fmt: skip
NOTHING = {
    "empty": [], "failed": [run(0, status="FAILED")],
    "not evaluated": [studies.Run("-0", "FINISHED", 0, ("seed=0",), {"run_id": "-0", "seed": 0})],
}  # fmt: skip
DIVERGED = {"learned": np.full(11, NAN), "failed": {"diverged": 4}, "size": 100}
SOME = {
    "one seed": lambda: [run(0, size=100)],
    "a third missing": lambda: [
        run(s, f"a={a}", status="FAILED" if s == a else "FINISHED", size=100)
        for s in range(3) for a in range(3)
    ],
    "all diverged": lambda: three("a=1", finals=(INF,) * 3, **DIVERGED),
    "extremes": lambda: [
        *three("a=1", finals=(1e-300, 1e300, 0.0), size=100), *three("a=2", size=100)
    ],
}  # fmt: skip


@pytest.fixture(scope="module", params=SOME)
def some(request) -> studies.Study:
    runs = SOME[request.param]()
    return study(*runs, expected=len(runs))


@pytest.mark.parametrize("name", charts.CHARTS)
@pytest.mark.parametrize("runs", NOTHING.values(), ids=NOTHING)
def test_a_study_of_which_nothing_is_there_is_refused_in_one_line(name, runs):
    with pytest.raises(ValueError, match="study 'mine'") as caught:
        charts.CHARTS[name](study(*runs), **OPTIONS.get(name, {}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", charts.CHARTS)
def test_whatever_is_there_is_drawn_at_print_size_with_readable_text(name, some):
    figure = drawn(charts.CHARTS[name](some, **OPTIONS.get(name, {})))
    assert figure.get_figwidth() in (3.3, 6.9)
    shown = [one for one in figure.findobj(Text) if one.get_text().strip()]
    assert min(one.get_fontsize() for one in shown) >= 7
    assert "n = " in note(figure) or "meta-seed" in note(figure)


def test_the_documentation_has_every_chart_with_its_options():
    text = (Path(__file__).parent.parent / "docs" / "studies.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \|([^|]*)\|$", text, re.MULTILINE)
    told = {name: re.findall(r"`(\w+)`", options) for name, options in rows}
    parameters = {n: inspect.signature(one).parameters for n, one in charts.CHARTS.items()}
    known = {name: list(one)[1:] for name, one in parameters.items()}
    assert {name: told.get(name) for name in known} == known


def test_every_chart_gives_a_baseline_the_same_colour():
    mine = study(*three("a=1"), *three("a=2"))
    color = style.BASELINE_LOOKS["nag"].color
    for name in ("curves", "horizons", "seconds", "strips", "lines"):
        axes = charts.CHARTS[name](mine, **OPTIONS.get(name, {})).axes[0]
        assert any(to_hex(line.get_color()) == color for line in axes.lines), name


def test_looks_differ_in_colour_dashes_and_markers():
    every = style.BASELINE_LOOKS.values()
    for part in zip(*every, strict=True):
        assert len(set(part)) == len(every)
    assert style.looks(["mine", "nag", "yours"])["nag"] == style.BASELINE_LOOKS["nag"]
    mine, yours = (style.looks(["mine", "yours"])[name] for name in ("mine", "yours"))
    assert mine != yours


def test_matplotlib_and_the_study_are_left_as_they_were():
    before = dict(mpl.rcParams)
    mine = study(*three("a=1"))
    steps, runs = mine.steps.copy(), mine.runs.copy()
    for name, chart in charts.CHARTS.items():
        if name != "overhead":
            chart(mine, **OPTIONS.get(name, {}))
    assert dict(mpl.rcParams) == before
    pd.testing.assert_frame_equal(mine.steps, steps)
    pd.testing.assert_frame_equal(mine.runs, runs)


# ------------------------------------------------------------------ updates


def test_the_updates_of_one_run_are_drawn():
    mine = study(*three())
    for options, seed in (({}, 0), ({"seed": 2}, 2), ({"seed": 1, "condition": ""}, 1)):
        figure = drawn(charts.updates(mine, **options))
        assert f"learned (meta-seed {seed})" in note(figure)
        first, second = figure.axes[2:4]  # below the gradients
        for axes, made in ((first, seed), (second, seed + 1)):
            shown = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
            assert shown["learned"] == [made] * 2 and shown["adam"] == [made / 2] * 2
        assert [axes.get_title() for axes in figure.axes[:2]] == ["w[3]", "b[0]"]
        proposed = [list(line.get_ydata()) for line in figure.axes[4].lines]
        assert [-2, -1, 1, 2] in proposed


@pytest.mark.parametrize("options", [{"seed": 7}, {"condition": "a=1"}])
def test_updates_of_a_run_that_is_not_there_are_refused(options):
    with pytest.raises(ValueError, match="updates of the meta-seeds 0, 1, 2, and none of seed="):
        charts.updates(study(*three()), **options)


def test_updates_are_written_and_read(tmp_path):
    mine = study(*three())
    studies.write(mine, tmp_path)
    pd.testing.assert_frame_equal(studies.read(tmp_path).extras["updates"], mine.extras["updates"])
    studies.write(study(), tmp_path / "none")
    assert not studies.read(tmp_path / "none").extras


# ------------------------------------------------------------------ pictures


def test_a_row_of_pictures_for_each_condition_with_the_last_step_of_every_rule():
    mine = study(*three("variant=wide"), *three("variant=deep"), expected=7)
    figure = drawn(charts.pictures(mine, seed=1))
    shown = [float(np.mean(axes.images[0].get_array())) for axes in figure.axes]
    assert shown == pytest.approx(2 * [0.5, 0.8, 0.4], abs=1 / 255)
    assert [axes.get_title() for axes in figure.axes] == ["style", "learned", "adam", "", "", ""]
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "0.2", "0.6"] * 2
    assert [axes.get_ylabel() for axes in figure.axes[::3]] == ["wide", "deep"]
    assert note(figure).startswith("n = 1 test problem each; meta-seed 1 of 3. Below a picture:")
    assert "loss after 4 steps" in note(figure) and "6 of 7 runs; 1 not begun" in note(figure)
    assert len(charts.pictures(mine, problems=2).axes) == 12


def test_few_pictures_are_shipped_and_these_are_the_ones_drawn():
    mine = study(*three("variant=wide"), *three("variant=deep"))
    few = slim(mine)
    assert len(few.extras["pictures"]) == 2 * 3 < len(mine.extras["pictures"])
    pd.testing.assert_frame_equal(few.extras["updates"], mine.extras["updates"])
    whole, rest = ([a.images[0].get_array() for a in charts.pictures(one).axes]
                   for one in (mine, few))  # fmt: skip
    np.testing.assert_array_equal(whole, rest)


def test_pictures_of_a_run_that_is_not_there_are_refused():
    with pytest.raises(ValueError, match="pictures of the meta-seeds 0, 1, 2, and none of seed=7"):
        charts.pictures(study(*three()), seed=7)


# ------------------------------------------------------------------ render


def node(name: str, **options) -> dict:
    return {"_target_": f"l2l_exp.report.charts.{name}", **options}


def test_render_draws_what_is_asked_for_and_says_why_not():
    mine = study(
        *three(), first=node("curves", paper="fig4_mlp"), map=node("heat_map", x="a", y="b"),
        bad=node("curves", papers=1), none=node("overhead"),
    )  # fmt: skip
    figures, reasons = charts.render(mine)
    assert set(figures) == {"first", "map", "seeds"}
    assert all(isinstance(one, Figure) for one in figures.values())
    assert "papers" in reasons["bad"] and "numeric key" in reasons["none"]
    assert not any("\n" in reason for reason in reasons.values())


def test_render_of_nothing_has_reasons_only():
    figures, reasons = charts.render(study(run(0, status="FAILED"), first=node("curves")))
    assert figures == {} and set(reasons) == {"first", "seeds"}


@pytest.mark.parametrize(
    "bad",
    [
        {"_target_": "os.system", "command": "true"},
        {"_target_": "l2l_exp.report.charts.render"},
        {"_target_": "l2l_exp.report.charts.Rendered"},
        {"_target_": "l2l_exp.report.charts.rendering.curves"},
        {"_target_": "l2l_exp.report.charts.rendering._chart"},
        {"_target_": "curves"},
        {"_target_": None},
        {"x": 1},
        "l2l_exp.report.charts.curves",
        None,
    ],
)
def test_render_refuses_what_is_no_chart(bad):
    with pytest.raises(ValueError, match=r"study\.charts\.mine\._target_=.* is no chart"):
        charts.render(study(run(0), mine=bad))


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_preset_asks_for_charts_with_their_options(path):
    about = OmegaConf.to_container(OmegaConf.load(path)).get("study", {})
    _, reasons = charts.render(study(run(0, status="FAILED"), **about.get("charts", {})))
    assert not [reason for reason in reasons.values() if "TypeError" in reason]


# ------------------------------------------------------------------ by step


def test_a_step_where_a_rule_is_nan_on_every_problem_is_infinite_and_not_missing():
    losses = decay(0.1)
    losses[3:] = NAN
    steps = studies.by_step(run(0, learned=losses).curves())
    mine = steps[steps["rule"] == "learned"].set_index("step")
    assert (
        np.isinf(mine.loc[3:, "loss_median"]).all() and np.isfinite(mine.loc[:2, "loss_mean"]).all()
    )
    assert np.isinf(mine.loc[[3, 10], "train_loss_median"]).all()  # taken there, of the baselines
    assert mine.loc[[2, 4], "train_loss_median"].isna().all()
    assert mine["held_out_loss_median"].isna().all()
