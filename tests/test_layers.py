"""The architecture: every module is parsed, and the import table of the design is held here."""

import ast
import functools
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import l2l_exp
from l2l_exp import checkpoint
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM

PACKAGE = Path(l2l_exp.__file__).parent
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}


class Row(NamedTuple):
    """What the modules of one row of the table may import besides each other."""

    modules: tuple[str, ...]
    ours: tuple[str, ...]
    third_party: frozenset[str]


ZERO = ("optimizees", "optimizers", "examples")
TWO = (
    "meta", "evaluation", "reference", "tuning", "comparison", "statistics", "checkpoint",
    "architecture", "source", "foreign", "imported", "dead", "nested", "provenance", "state",
    "files", "errors", "microscope",
)  # fmt: skip
EDGE_MODULES = (
    "config", "cli", "console", "jobs", "joblist", "record", "resume", "multirun", "hooks",
    "signals", "ui", "reporting", "misspelt",
)  # fmt: skip
CORE = (*ZERO, "unroll", *TWO)
ARRAYS = frozenset({"torch", "numpy"})
PLOTS = frozenset({"numpy", "scipy", "pandas", "pyarrow", "matplotlib", "jinja2"})
EDGE = ARRAYS | PLOTS | {"hydra", "omegaconf", "rich", "filelock", "mlflow", "yaml"}
TABLE = (
    Row(("optimizees.vision",), (), ARRAYS | {"torchvision"}),
    Row(
        ("optimizees.data", "optimizees.pictures", "optimizees.lasso", "optimizees.logistic"),
        ("optimizees",),
        ARRAYS | {"sklearn", "skimage", "PIL"},
    ),
    Row(("optimizees",), (), ARRAYS),
    Row(("examples",), ("optimizees",), ARRAYS | {"sklearn"}),
    Row(("optimizers",), ("optimizees.spec",), frozenset({"torch"})),
    Row(("unroll",), ZERO, frozenset({"torch"})),
    Row(("reference",), (*ZERO, "unroll", "evaluation"), ARRAYS | {"scipy", "threadpoolctl"}),
    Row(TWO, (*ZERO, "unroll"), ARRAYS | {"scipy", "safetensors"}),
    Row(("tracking",), CORE, frozenset({"mlflow", "filelock"})),
    Row(("dropin",), (*CORE, "tracking"), frozenset({"torch"})),
    Row(("rule_cli",), (*CORE, "tracking", "dropin"), frozenset()),
    Row(("report",), (*CORE, "tracking"), PLOTS),
    Row(EDGE_MODULES, (*CORE, "tracking", "report"), EDGE),
)


@functools.cache
def tree(module: str) -> ast.Module:
    """The parsed source of one of our modules."""
    return ast.parse(MODULES[module].read_text())


def within(module: str, packages: tuple[str, ...]) -> bool:
    """Whether a module is one of these, or lies inside one of them."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def row_of(module: str) -> Row:
    """The row of the table that a module belongs to."""
    for row in TABLE:
        if within(module, row.modules):
            return row
    raise AssertionError(f"l2l_exp.{module} has no layer: add it to the table")


def imports(module: str) -> set[str]:
    """Dotted names that a module imports anywhere, by statement or by importlib."""
    names: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"l2l_exp.{module} line {node.lineno}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and called(node).endswith(("import_module", "__import__")):
            names |= {arg.value for arg in node.args if isinstance(arg, ast.Constant)}
    return names


def called(node: ast.Call) -> str:
    """The dotted name of what is called."""
    return ast.unparse(node.func)


def places(module: str, wrong) -> list[str]:
    """Where in a module a predicate of ast nodes holds."""
    return [f"{module}:{node.lineno}" for node in ast.walk(tree(module)) if wrong(node)]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_layer_may(module):
    row = row_of(module)
    for name in imports(module):
        top, _, rest = name.partition(".")
        if top == "l2l_exp":
            assert not rest or rest.startswith("__") or within(rest, row.modules + row.ours), name
        else:
            assert top in sys.stdlib_module_names or top in row.third_party, name


def test_only_the_vision_module_imports_torchvision():
    users = [m for m in MODULES if any(n.split(".")[0] == "torchvision" for n in imports(m))]
    assert users == ["optimizees.vision"]


def test_there_is_one_inner_loop():
    users = [m for m, path in MODULES.items() if "optimizee.loss" in path.read_text()]
    assert users == ["unroll"]


def test_no_module_is_a_junk_drawer():
    names = {part for module in MODULES for part in module.split(".")}
    assert not names & {"utils", "helpers", "misc", "common", "util", "helper"}


def test_procedures_are_functions_and_not_classes():
    for module in MODULES:
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.ClassDef):
                assert not node.name.endswith(("Trainer", "Manager", "Runner")), module


TORCH_DRAWS = {
    "rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson",
    "normal_", "uniform_", "bernoulli_", "random_", "exponential_",
}  # fmt: skip
SEEDED = {"default_rng", "Generator", "Philox", "SeedSequence"}


def draws_from_a_global_generator(node: ast.AST) -> bool:
    """Whether a node draws random numbers that no argument decides."""
    if not isinstance(node, ast.Call):
        return False
    owner, _, function = called(node).rpartition(".")
    if owner in ("np.random", "numpy.random"):
        return function not in SEEDED or not (node.args or node.keywords)
    if owner == "random" or (owner == "torch" and function.endswith("_like")):
        return "rand" in function
    by_torch = owner == "torch" or function.endswith("_")
    generators = {keyword.arg for keyword in node.keywords}
    return by_torch and function in TORCH_DRAWS and "generator" not in generators


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("torch.rand(3)", True),
        ("torch.randn(3, generator=rng)", False),
        ("torch.randn_like(x)", True),
        ("torch.zeros_like(x)", False),
        ("x.normal_()", True),
        ("x.uniform_(generator=rng)", False),
        ("np.random.rand(3)", True),
        ("np.random.default_rng()", True),
        ("np.random.default_rng(seed)", False),
        ("random.randint(0, 1)", True),
        ("rng.standard_normal(3)", False),
    ],
)
def test_a_global_draw_is_recognised(source, wrong):
    assert any(map(draws_from_a_global_generator, ast.walk(ast.parse(source)))) == wrong


def test_every_draw_has_its_generator():
    assert not [place for m in MODULES for place in places(m, draws_from_a_global_generator)]


def is_mutable(value: ast.expr | None) -> bool:
    """Whether an expression makes a list, dict or set."""
    displays = (ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
    makers = ("list", "dict", "set", "defaultdict", "OrderedDict", "deque")
    return isinstance(value, displays) or (
        isinstance(value, ast.Call) and called(value).rpartition(".")[2] in makers
    )


@pytest.mark.parametrize("module", MODULES)
def test_no_module_has_mutable_state(module):
    for node in tree(module).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and is_mutable(node.value):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            assert ast.unparse(target) == "__all__", f"{module}:{node.lineno}"
    assert not places(module, lambda node: isinstance(node, ast.Global))


META_TRAIN = """
import importlib, sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None  # makes an import of it fail
for name in sys.argv[2].split(","):
    importlib.import_module("l2l_exp." + name)

import torch
from l2l_exp.meta.gradients import Replay
from l2l_exp.meta.objective import MetaLoss, Plain, Uniform
from l2l_exp.meta.schedule import Constant
from l2l_exp.meta.train import Plan, train
from l2l_exp.optimizees.quadratic import Quadratic
from l2l_exp.optimizers.lstm import CoordinatewiseLSTM

plan = Plan(horizon=2, truncation=2, episodes=1, problems=2, validation_problems=2)
rule = CoordinatewiseLSTM(2)
print(train(Quadratic(2), rule, Replay(), MetaLoss(Uniform(), Plain()), torch.optim.Adam,
            Constant(), plan).meta_steps)
"""


LOAD = """
import sys
import torch
import l2l_exp

assert "l2l_exp.dropin" not in sys.modules
weight = torch.nn.Parameter(torch.zeros(3))
optimizer = l2l_exp.load_optimizer(sys.argv[1], [weight])
weight.sum().backward()
optimizer.step()
loaded = {name.split(".")[0] for name in sys.modules}
print(weight.count_nonzero().item(), *loaded & set(sys.argv[2].split(",")))
"""


def test_a_trained_rule_is_loaded_and_used_without_the_edge(tmp_path):
    rule = CoordinatewiseLSTM(2, readout_std=0.5)
    target = "l2l_exp.optimizers.lstm.CoordinatewiseLSTM"
    rule.architecture = {"_target_": target, "hidden_units": 2}
    checkpoint.save(tmp_path, rule, {})
    edge = "hydra,omegaconf,mlflow,rich,filelock,matplotlib,pandas,scipy,sklearn"
    command = [sys.executable, "-c", LOAD, str(tmp_path), edge]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=PACKAGE.parent, check=False, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "3"), (done.stdout, done.stderr)


def test_the_core_meta_trains_where_hydra_and_mlflow_are_not_installed():
    edge = "hydra,omegaconf,mlflow,rich,filelock,matplotlib"
    core = ",".join(module for module in MODULES if within(module, CORE))
    command = [sys.executable, "-c", META_TRAIN, edge, core]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=PACKAGE.parent, check=False, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr
