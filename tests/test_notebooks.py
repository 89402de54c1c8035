"""The notebooks: short, without logic or outputs of their own, and they draw what they promise."""

import ast
import os
from pathlib import Path

import nbformat
import pytest
import test_charts as made
from nbclient import NotebookClient

import l2l_exp
from l2l_exp import checkpoint
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM
from l2l_exp.report import studies

ANALYSIS = Path(__file__).parents[1] / "analysis"
NOTEBOOKS = sorted(path.stem for path in ANALYSIS.glob("*.ipynb"))
MOST_CELLS = 12


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ANALYSIS / f"{name}.ipynb", as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[str]:
    """Sources of the code cells, without the lines that IPython alone understands."""
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return ["\n".join(x for x in one.split("\n") if not x.startswith("%")) for one in cells]


def test_there_are_notebooks():
    assert NOTEBOOKS == ["cost", "microscope", "paper_figures", "transfer_and_horizons"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_short_and_holds_neither_logic_nor_outputs(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= MOST_CELLS
    assert notebook.cells[0].cell_type == "markdown"
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
    for source in code(notebook):
        wrong = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        assert not [node for node in ast.walk(ast.parse(source)) if isinstance(node, wrong)]


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Shipped studies in miniature, of every preset that a notebook names."""
    place = tmp_path_factory.mktemp("results")
    three = made.three
    runs = {
        "fig4_quadratic": three(),
        "fig4_mlp": three(),
        "fig4_mlp_200": three(),
        "fig5_transfer": [*three("variant=wider"), *three("variant=relu")],
        "fig6_architecture": _grid("optimizee.hidden_units", (5, 20), "optimizee.layers", (1, 2)),
        "fig7_subsets": [*three("variant=subset_2"), *three("variant=subset_5")],
        "fig11_updates": three(),
        "generalization_matrix": _grid(
            "optimizee.activation", ("relu", "sigmoid"),
            "optimizer.where.optimizee.activation", ("relu", "sigmoid"),
        ),
        "robustness": _grid("optimizee.gradient_noise", (0, 1), "optimizee.label_noise", (0, 0.1)),
        "long_horizon": three(),
        "training_cost": [*three("training.episodes=10"), *three("training.episodes=20")],
        "meta_tuning": [
            run for lr in (0.001, 0.01) for run in three(f"training.meta_optimizer.lr={lr}")
        ],
        "equal_time": three(),
        "overhead": three("optimizee.hidden_units=5", size=100)
        + three("optimizee.hidden_units=50", size=1000),
    }  # fmt: skip
    for name, members in runs.items():
        studies.write(studies.study({"name": name}, members), place / name)
    return place


def _grid(x: str, columns: tuple, y: str, rows: tuple) -> list:
    """Three runs for each pair of values of two keys."""
    pairs = [(one, other) for one in columns for other in rows]
    return [run for one, other in pairs for run in made.three(f"{x}={one}", f"{y}={other}")]


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """Executes a notebook with some variables set: outputs of its code cells."""

    def execute(name: str, **variables: str) -> list[list[nbformat.NotebookNode]]:
        home = {"IPYTHONDIR": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime")}
        package = str(Path(l2l_exp.__file__).parents[1])
        paths = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])
        for key, value in {**home, "PYTHONPATH": paths, **variables}.items():
            monkeypatch.setenv(key, value)
        notebook = read(name)
        where = {"metadata": {"path": str(ANALYSIS)}}
        NotebookClient(notebook, timeout=280, kernel_name="python3", resources=where).execute()
        return [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]

    return execute


def pictures(outputs: list[nbformat.NotebookNode]) -> int:
    """How many pictures a cell shows."""
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NOTEBOOKS if name != "microscope"])
def test_every_cell_of_a_study_draws(name, executed, results):
    first, *cells = executed(name, L2L_RESULTS=str(results))
    assert "studies:" in first[0].text
    assert [pictures(outputs) for outputs in cells] == [1] * len(cells)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("given", [False, True], ids=["miniature", "given"])
def test_the_microscope_draws_a_rule_that_is_given_and_one_of_its_own(given, executed, tmp_path):
    rule = CoordinatewiseLSTM(hidden_units=3, readout_std=0.5)
    target = "l2l_exp.optimizers.lstm.CoordinatewiseLSTM"
    rule.architecture = {"_target_": target, "hidden_units": 3}
    checkpoint.save(tmp_path / "run" / "checkpoint", rule, {"seed": 3})
    _, told, *cells = executed("microscope", **{"L2L_RULE": str(tmp_path / "run")} if given else {})
    assert "CoordinatewiseLSTM" in told[0].data["text/plain"]
    assert [pictures(outputs) for outputs in cells] == [1] * 9


@pytest.mark.slow
def test_where_nothing_is_there_nothing_is_drawn(executed, tmp_path):
    first, *cells = executed("cost", L2L_RESULTS=str(tmp_path))
    assert first[0].text.strip() == "studies:" and not any(cells)
