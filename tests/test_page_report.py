"""The page of studies: what it says of whole, partial, failed and broken ones."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure
from multirun_files import DIVERGES, STUDY, Planned, compared, seeds, write_multirun

from l2l_exp.report import page, sections, sources
from l2l_exp.report.aggregation import aggregate
from l2l_exp.report.answers import grid, number, sentences, short
from l2l_exp.report.captions import caption
from l2l_exp.report.sections import Preset
from l2l_exp.report.sources import Collection

NAN = float("nan")
PRESETS = [
    Preset("mine", "Mine", "Is it mine?", "l2l-train sweeps=mine"),
    Preset("other", "Other", "Is it another?", "l2l-train sweeps=other"),
]


def drawn(study):
    """Stands in for the charts."""
    figure = Figure(figsize=(3, 2))
    figure.subplots().plot([0, 1], [1, 0])
    return {"curves": figure}, {"maps": "it has <no> x axis"}


class Page(HTMLParser):
    """What a reader and a browser see of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


def built(folder: Path, *collections: Collection, render=drawn, presets=PRESETS) -> Page:
    """The page of some studies."""
    path = page.build(sum(collections, Collection()), presets, folder, render)
    told = Page(path.read_text())
    assert told.open == []
    return told


@pytest.fixture
def multirun(tmp_path):
    """Makes multiruns, each in a place of its own."""
    made = []

    def make(runs, jobs=None, name="mine", **changes) -> Collection:
        made.append(name)
        place = tmp_path / f"multirun{len(made)}"
        return sources.from_folders([write_multirun(place, name, runs, jobs, **changes)])

    return make


def test_a_whole_study_is_told_with_numbers_figures_and_provenance(tmp_path, multirun):
    runs = seeds(3)
    told = built(tmp_path / "out", multirun(runs, 3))
    ratios = [compared(one)[0]["paired"]["final"] for one in runs]
    for wanted in (
        "A title", "A question?", "3 of 3 done", "3 min of computing", "0123456789",
        "l2l-train sweeps=mine", "n = 3 meta-seeds, 12 test problems each",
        f"Final, training part: {number(told_ratio(runs))}", ratios[0]["best_baseline"],
        "problems not ok: 0 of 36", "maps: it has <no> x axis",
    ):  # fmt: skip
        assert wanted in told.text, wanted
    assert "Incomplete" not in told.text and "went wrong" not in told.text
    assert "could not be read" not in told.text


def told_ratio(runs) -> float:
    """The geometric mean over runs of their median ratios."""
    import math

    logs = [compared(one)[0]["paired"]["final"]["log_ratio"]["median"] for one in runs]
    return math.exp(sum(logs) / len(logs))


def test_the_page_needs_nothing_but_itself(tmp_path, multirun):
    told = built(tmp_path, multirun(seeds(1)))
    names = {tag for tag, _ in told.tags}
    assert not names & {"script", "iframe", "object", "embed", "video", "audio", "base"}
    text = (tmp_path / "index.html").read_text()
    assert "@import" not in text and "url(" not in text
    for tag, attributes in told.tags:
        if tag in ("img", "link"):
            assert attributes.get("src", attributes.get("href")).startswith("data:")
        href = attributes.get("href", "") if tag == "a" else ""
        assert not href.startswith(("http", "//", "file", "/"))
        if href.startswith("#"):
            assert any(one.get("id") == href[1:] for _, one in told.tags), href
        elif href:
            assert (tmp_path / href).is_file(), href
    ids = [one["id"] for _, one in told.tags if "id" in one]
    assert len(ids) == len(set(ids))


def test_figures_and_tables_lie_beside_the_page(tmp_path, multirun):
    found = multirun(seeds(2))
    told = built(tmp_path, found)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {f"mine-curves.{suffix}" for suffix in ("pdf", "png", "svg")}
    (picture,) = [one["src"] for tag, one in told.tags if tag == "img"]
    kind, _, data = picture.partition(";base64,")
    assert kind == "data:image/svg+xml"
    assert base64.b64decode(data) == (tmp_path / "figures" / "mine-curves.svg").read_bytes()
    criteria = pd.read_csv(tmp_path / "tables" / "mine-criteria.csv", keep_default_na=False)
    assert list(criteria["run_id"]) == list(found.found[0].study.criteria["run_id"])
    answer = pd.read_csv(tmp_path / "tables" / "mine-answer.csv")
    expected = aggregate(found.found[0].study.criteria)
    assert list(answer["log_ratio"]) == pytest.approx(list(expected["log_ratio"]))
    assert len(pd.read_csv(tmp_path / "tables" / "mine-runs.csv")) == 2


def test_the_same_study_is_the_same_page(tmp_path, multirun):
    found = multirun(seeds(2))
    for name in ("one", "two"):
        built(tmp_path / name, found)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 7
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes(), (
            path
        )


def test_a_large_figure_is_shown_as_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "LARGEST_SVG", 10)
    ((_, figure),) = drawn(None)[0].items()
    assert page.save(figure, tmp_path / "a").startswith("data:image/png;base64,")


def test_missing_runs_are_counted(tmp_path, multirun):
    runs = [Planned(seed, (f"a={a}",)) for a in (1, 2) for seed in (0, 1)]
    told = built(tmp_path, multirun(runs, 6))
    assert "Incomplete: 4 of 6 done, 2 missing" in told.text
    unknown = built(tmp_path, multirun(runs))
    assert "4 done, how many there should be is not known" in unknown.text


def test_failed_runs_are_named_with_what_they_said(tmp_path, multirun):
    broken = Planned(2, status="FAILED", error="MetaTrainingError: <it> burst")
    told = built(tmp_path, multirun([*seeds(2), broken, Planned(3, status="KILLED")], 5))
    assert "2 of 5 done, 1 failed, 1 not finished, 1 missing" in told.text
    assert "seed=2: failed MetaTrainingError: <it> burst" in told.text
    assert "seed=3" not in told.text


def test_diverged_problems_are_infinite_and_counted(tmp_path, multirun):
    runs = [Planned(0), Planned(1), Planned(2, rate=DIVERGES)]
    told = built(tmp_path, multirun(runs, 3))
    assert "∞ [0.00, ∞] times" in told.text
    assert "not ok: 12 of 36" in told.text


def test_one_meta_seed_has_an_interval_over_problems_and_no_verdict(tmp_path, multirun):
    told = built(tmp_path, multirun(seeds(1), 1))
    assert "with a single meta-seed, the interval over 12 problems" in told.text
    assert "n = 1 meta-seed, 12" in told.text and "every seed" not in told.text


def test_a_study_without_a_finished_run_has_no_answer(tmp_path, multirun):
    charts = {**STUDY, "charts": {"curves": {"_target_": "l2l_exp.report.charts.curves"}}}
    told = built(tmp_path, multirun(seeds(1, status="RUNNING"), 3, study=charts))
    assert "there is no answer yet" in told.text and "curves: no run has finished" in told.text
    assert "0 of 3 done, 1 not finished, 2 missing" in told.text


def test_a_chart_that_does_not_exist_is_told(tmp_path, multirun):
    def refuse(study):
        raise ValueError("study.charts.x is no chart")

    assert "study.charts.x is no chart" in built(tmp_path, multirun(seeds(1)), render=refuse).text


def test_presets_that_were_not_run_are_named(tmp_path, multirun):
    told = built(tmp_path, multirun(seeds(1)))
    assert "Is it another?" in told.text and "Is it mine?" not in told.text
    assert "1 preset" in told.text


def test_nothing_at_all_is_a_page_too(tmp_path):
    told = built(tmp_path, Collection(problems=["results/mine cannot be read: <broken>"]))
    assert "There is no study here" in told.text
    assert "results/mine cannot be read: <broken>" in told.text
    assert "Is it mine?" in told.text and "Is it another?" in told.text


def test_what_was_run_here_stands_beside_what_was_shipped(tmp_path, multirun):
    from l2l_exp.report.shipping import ship

    live = multirun(seeds(2), overrides=["smoke=training"])
    ship(multirun(seeds(3)).found, tmp_path / "results")
    told = built(tmp_path / "out", live, sources.from_shipped(tmp_path / "results"))
    keys = [one["id"] for tag, one in told.tags if tag == "section"]
    assert keys == ["mine", "mine-smoke-training-live", "not-run"]
    assert "Run again on this machine" in told.text and "A smoke run" in told.text
    assert "A title (smoke=training)" in told.text


def test_studies_stand_in_the_order_of_the_presets(tmp_path, multirun):
    found = [multirun(seeds(1), name=name) for name in ("zebra", "other", "aardvark", "mine")]
    told = sections.sections(sum(found, Collection()), PRESETS)
    assert [one.study.name for one in told] == ["mine", "other", "aardvark", "zebra"]


def test_two_studies_with_one_name_have_keys_of_their_own(multirun):
    first = multirun(seeds(1), overrides=["a=1"])
    second = multirun(seeds(1), overrides=["a/1"])
    assert [one.key for one in sections.sections(first + second, [])] == ["mine-a-1", "mine-a-1-2"]


# ------------------------------------------------------------------ the answer


def row(condition="", criterion="final", seed=0, log_ratio=-0.5, half=0.1, **changes) -> dict:
    made = {
        "condition": condition, "seed": seed, "run_id": f"r{seed}", "criterion": criterion,
        "median": 0.2, "best_baseline": "nag", "log_ratio": log_ratio, "low": log_ratio - half,
        "high": log_ratio + half, "n_problems": 50, "not_ok": 0,
    }  # fmt: skip
    return {**made, **changes}


def of_seeds(*ratios, **changes) -> list[dict]:
    return [row(seed=seed, log_ratio=ratio, **changes) for seed, ratio in enumerate(ratios)]


BETTER, WORSE = (-0.5, -0.51, -0.49), (0.5, 0.51, 0.49)
OPEN = (-0.5, 0.5, 0.01)


def test_verdicts_are_those_of_the_aggregate():
    rows = pd.DataFrame(
        of_seeds(*BETTER, condition="a=1") + of_seeds(*WORSE, condition="a=2")
        + of_seeds(*OPEN, condition="a=3") + of_seeds(-0.5, condition="a=4")
        + [row("a=5", best_baseline=None, log_ratio=NAN, low=NAN, high=NAN)]
    )  # fmt: skip
    table = aggregate(rows)
    told = grid(table)
    assert [line.cells[0].verdict for line in told.lines] == [
        "better", "worse", "open", "one meta-seed", "",
    ]  # fmt: skip
    assert told.lines[0].cells[0].value == "0.607" and told.lines[4].cells[0].value == "0.200"
    (sentence,) = sentences(rows, table)
    assert sentence.startswith(
        "Final, training part: of 5 conditions 1 better, 1 worse, 1 undecided, 1 with one "
        "meta-seed only; ratios from "
    )
    assert short(table).startswith("final: of 5 conditions 1 better, 1 worse")


def test_one_condition_is_one_sentence_for_each_criterion():
    rows = pd.DataFrame(of_seeds(*BETTER) + of_seeds(*OPEN, criterion="average"))
    table = aggregate(rows)
    average, final = sentences(rows, table)
    assert "better with 1 of 3" in average and average.startswith("Average over steps: 1.00 [")
    assert "0.607 [" in final and "(nag); better with 3 of 3 meta-seeds." in final
    assert short(table).startswith("final: 0.607 [")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.500"), (1.0, "1.00"), (123.4, "123"), (99999.0, "99999"), (1e-11, "1.00e-11"),
     (float("inf"), "∞"), (float("nan"), "unknown"), (0.0, "0.00")],
)  # fmt: skip
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_a_caption_says_what_is_shown_and_of_how_many(multirun):
    (section,) = sections.sections(multirun(seeds(3), 3), PRESETS)
    told = caption("my_chart", Figure(), section)
    assert told.startswith("my chart. Of n = 3 meta-seeds, 12 test problems each.")
    assert "quartiles over problems" in told and "over meta-seeds" in told
    named = Figure()
    named.set_label("Losses of all.")
    assert caption("my_chart", named, section).startswith("Losses of all. Of n")
    assert caption("seeds", Figure(), section).startswith("Every meta-seed as a point")


def test_conditions_wider_than_a_title_are_cut(multirun):
    long = multirun(seeds(1), overrides=[f"optimizer={','.join(['lstm'] * 40)}"])
    (section,) = sections.sections(long, [])
    assert (
        len(section.title) < 80 and len(section.key) < 70 and re.fullmatch(r"[\w.-]+", section.key)
    )


def test_conditions_are_called_as_in_the_charts(tmp_path, multirun):
    runs = [Planned(seed, (f"optimizee.hidden_units={u}",)) for u in (5, 20) for seed in (0, 1)]
    told = built(tmp_path, multirun(runs, 4))
    assert "hidden units per layer 20" in told.text
    assert "optimizee.hidden_units" not in told.text
