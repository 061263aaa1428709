"""The house plan as tests: order of dependence, names, bans. A rule is tried on a sample that breaks it, too."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_SPEC = importlib.util.spec_from_file_location("robopolicy_setup_source", ROOT / "setup.py")
assert _SPEC is not None
ROOTS: dict[str, str] = next(
    ast.literal_eval(node.value)
    for node in ast.parse((ROOT / "setup.py").read_text()).body
    if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ROOTS"
)

# What each room may import besides itself. A room is the longest prefix found here.
FLOOR = {"errors"}
CONTRACTS = FLOOR | {"types", "channels", "robot_parts", "embodiment", "protocols", "seeding", "registry", "goals"}
# How one robot is seen within a mixture of robots: used by the data that train it and by the policy that drives it.
VIEWS = {"slots", "chunk_forms", "resampling", "frames", "embodiment_view", "borrowed_view"}
BASE = CONTRACTS | {"schema", "config", "normalize", "rotations"} | VIEWS
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "types": FLOOR,
    "seeding": FLOOR,
    "goals": FLOOR,
    "rotations": FLOOR,
    "registry": FLOOR,
    "channels": FLOOR,
    "robot_parts": FLOOR | {"channels"},
    "embodiment": FLOOR | {"registry", "channels", "robot_parts"},
    "protocols": FLOOR | {"types", "embodiment"},
    "schema": FLOOR | {"registry"},
    "config": CONTRACTS | {"schema"},
    "normalize": CONTRACTS | {"schema", "config", "rotations"},
    "slots": CONTRACTS,
    "frames": FLOOR,
    "chunk_forms": CONTRACTS | {"rotations"},
    "resampling": CONTRACTS | {"rotations"},
    "embodiment_view": CONTRACTS | {"normalize"} | VIEWS,
    "borrowed_view": CONTRACTS | {"normalize"} | VIEWS,
    "control": BASE,
    "checkpoint": BASE,
    "evaluation": BASE,
    "configs": set(),
    "diffusion": BASE,
    "models": BASE,
    # what says that a folder is an exported policy, for those who may not know policies
    "exported": BASE,
    "export": BASE | {"diffusion", "models", "policies", "exported"},
    "policies": BASE | {"control", "checkpoint", "evaluation", "diffusion", "models"},
    # control: forward kinematics, with which converters repair a recorded pose; normalize: one range per robot
    # evaluation: the style and the blocks of pages
    "data": BASE | {"control", "evaluation"},
    "training": BASE | {"control", "checkpoint", "evaluation", "diffusion", "models", "policies", "data"},
    "sim": BASE | {"control", "evaluation", "data"},
    # evaluation: the record of an episode is the same in simulation and on the arm
    "deploy": BASE | {"control", "checkpoint", "evaluation", "data", "exported"},
    "deploy.drivers": BASE | {"control", "checkpoint", "evaluation", "data", "deploy", "sim"},
}
KNOWS_EVERYTHING = {"cli", "api", "assess", "subject", "demo", "__main__"}
EXCEPTIONS: dict[str, set[str]] = {
    # Builds the policy inside the one process of the daemon that hosts it; imported on the call, never with the module.
    "robopolicy.deploy.policy_source": {"policies", "export"},
}
# The root has only lazy exports, so naming it (for the version) pulls nothing in.
HARMLESS = {""}
BANNED_CALLS = {"eval", "exec"}
BANNED_MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal"}
BANNED_STEMS = {"utils", "util", "common", "misc", "helpers"}


def module_files() -> dict[str, Path]:
    """Dotted name -> file of every module of the project, under the name it is imported by."""
    found: dict[str, Path] = {}
    for package, folder in ROOTS.items():
        base = ROOT / folder
        for path in sorted(base.rglob("*.py")):
            parts = path.relative_to(base).with_suffix("").parts
            name = ".".join([package, *parts]).removesuffix(".__init__")
            if package == "robopolicy" and f"robopolicy.{parts[0]}" in ROOTS:
                continue
            found[name] = path
    return found


MODULES = module_files()
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def room(name: str) -> str:
    rest = name.removeprefix("robopolicy").lstrip(".")
    known = [r for r in MAY_IMPORT if rest == r or rest.startswith(r + ".")]
    return max(known, key=len) if known else rest.split(".")[0]


def imports(tree: ast.AST, module: str, is_package: bool) -> set[str]:
    """Absolute names of everything imported anywhere in the module, typing-only imports included."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")[: len(module.split(".")) - node.level + is_package]
                base = ".".join([*parts, *filter(None, [node.module])])
            found.update(f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names)
    return found


def forbidden_imports(module: str, tree: ast.AST, is_package: bool = False) -> list[str]:
    here = room(module)
    if here in KNOWS_EVERYTHING | HARMLESS:
        return []
    allowed = MAY_IMPORT.get(here)
    assert allowed is not None, f"{module}: add its room to MAY_IMPORT, in the order of ARCHITECTURE"
    used = {room(n) for n in imports(tree, module, is_package) if n == "robopolicy" or n.startswith("robopolicy.")}
    return sorted(used - allowed - {here} - HARMLESS - EXCEPTIONS.get(module, set()))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_left_only(module: str) -> None:
    is_package = MODULES[module].name == "__init__.py"
    wrong = forbidden_imports(module, TREES[module], is_package)
    assert not wrong, f"{module} must not import {wrong}"


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("robopolicy.sim.x", "from robopolicy.policies import diffusion_policy", ["policies"]),
        ("robopolicy.sim.x", "def f():\n    import robopolicy.training.trainer", ["training"]),
        ("robopolicy.deploy.x", "from robopolicy.sim import env", ["sim"]),
        ("robopolicy.deploy.x", "from ..training import run", ["training"]),
        ("robopolicy.data.x", "from robopolicy.policies import load_policy", ["policies"]),
        ("robopolicy.control.x", "import robopolicy.diffusion.grid", ["diffusion"]),
        ("robopolicy.types", "from robopolicy.registry import registry", ["registry"]),
        ("robopolicy.policies.x", "from robopolicy.cli import main", ["cli"]),
        ("robopolicy.deploy.drivers.sim_panda", "from robopolicy.sim.env import Env", []),
        ("robopolicy.cli.x", "from robopolicy.training import run", []),
    ],
)
def test_the_order_check_catches_a_breach(module: str, source: str, wrong: list[str]) -> None:
    assert forbidden_imports(module, ast.parse(source)) == wrong


def bans(tree: ast.AST) -> list[str]:
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"import {n}" for n in names if n.split(".")[0] in BANNED_MODULES]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            moves = isinstance(node.func, ast.Attribute) and node.func.attr == "cuda"
            # tensors alone: what a file of weights from elsewhere may hold
            tensors = called == "torch.load" and any(
                k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords
            )
            if moves or called in BANNED_CALLS or (called in ("torch.load", "torch.save") and not tensors):
                found.append(called)
            unsafe = [k for k in node.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"]
            found += [f"{called}(allow_pickle)"] * len(unsafe)
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append("bare except")
        elif isinstance(node, ast.Raise) and "NotImplementedError" in ast.unparse(node):
            found.append("NotImplementedError")
    return found


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_pickle_no_eval_no_bare_except(module: str) -> None:
    assert not bans(TREES[module])


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load('x')",
        "torch.load('x', weights_only=False)",
        "model.cuda()",
        "eval('1')",
        "try:\n    f()\nexcept:\n    pass",
        "np.load('x', allow_pickle=True)",
        "raise NotImplementedError",
    ],
)
def test_the_ban_catches_a_breach(source: str) -> None:
    assert bans(ast.parse(source))
    assert not bans(
        ast.parse("model.eval(); safetensors.load('x'); torch.cuda.is_available(); torch.load('x', weights_only=True)")
    )


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_is_documented_and_says_what_it_exports(module: str) -> None:
    tree = TREES[module]
    assert ast.get_docstring(tree), f"{module} has no docstring"
    if MODULES[module].name == "__init__.py" and len(tree.body) == 1:
        return
    exported = [n for n in tree.body if isinstance(n, ast.Assign | ast.AnnAssign) and "__all__" in ast.unparse(n)]
    assert exported, f"{module} has no __all__"


def test_no_file_is_a_drawer_for_odds_and_ends() -> None:
    assert not [str(p) for p in MODULES.values() if p.stem.strip("_") in BANNED_STEMS]


def test_files_stay_short() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in MODULES.values()}
    long = {name: n for name, n in lengths.items() if n > 300}
    assert max(lengths.values()) <= 480, f"split by responsibility: {long}"
    assert len(long) <= 0.08 * len(lengths), f"more than 8 % of the files are over 300 lines: {long}"


def test_setup_lists_the_packages_on_disk() -> None:
    code = (
        "import runpy, setuptools, json\n"
        "setuptools.setup = lambda **k: print(json.dumps([k['packages'], k['package_dir']]))\n"
        "runpy.run_path('setup.py')"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    packages, folders = ast.literal_eval(done.stdout)
    on_disk = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert set(packages) == on_disk == set(folders)
    without = [
        str(d.relative_to(ROOT))
        for folder in ROOTS.values()
        for d in {p.parent for p in (ROOT / folder).rglob("*.py")}
        if not (d / "__init__.py").is_file()
    ]
    assert not without, f"folders with Python but no __init__.py are not installed: {without}"


def isolated(code: str) -> str:
    """Run code in a new interpreter, from the checkout, and return what it prints."""
    environment = {**os.environ, "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_all_modules_import_all_is_true_and_no_bare_name_is_loaded() -> None:
    names = [n for n in sorted(MODULES) if not n.endswith("__main__")]
    code = f"""
import importlib, sys
for name in {names!r}:
    module = importlib.import_module(name)
    listed = getattr(module, "__all__", [])
    assert len(set(listed)) == len(listed), (name, "has a name twice in __all__")
    for export in listed:
        assert hasattr(module, export), (name, "has no", export)
print([bare for bare in ("data", "sim", "deploy", "configs", "tests") if bare in sys.modules])
"""
    assert isolated(code) == "[]"


HEAVY = ("torch", "mujoco", "zarr", "hydra", "omegaconf", "gymnasium", "diffusers", "robomimic", "scipy", "numpy")


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import robopolicy", ()),
        ("from robopolicy.cli.main import main; main(['--help'])", ()),
        ("from robopolicy.cli.main import main; main(['list', 'tasks'])", ()),
        (
            "import robopolicy.data, robopolicy.deploy, robopolicy.policies, robopolicy.evaluation, robopolicy.configs",
            (),
        ),
        ("import robopolicy.sim", ("gymnasium", "numpy")),
        ("import robopolicy.control, robopolicy.training, robopolicy.models, robopolicy.diffusion", ()),
        ("import robopolicy.config, robopolicy.protocols, robopolicy.embodiment", ("numpy",)),
    ],
)
def test_light_imports_stay_light(code: str, allowed: tuple[str, ...]) -> None:
    report = f"import sys; print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    loaded = ast.literal_eval(isolated(f"{code}\n{report}").rpartition("LOADED ")[2])
    assert set(loaded) <= set(allowed)


def test_the_lightness_check_sees_a_heavy_import() -> None:
    report = f"import sys; print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])"
    assert "numpy" in isolated(f"import robopolicy.types\n{report}")


@pytest.mark.parametrize("module", [m for m in sorted(MODULES) if m.startswith("robopolicy.deploy.realtime")])
def test_the_real_time_process_loads_neither_torch_nor_mujoco(module: str) -> None:
    code = f"import sys, {module}; print([m for m in ('torch', 'mujoco', 'zarr') if m in sys.modules])"
    assert isolated(code) == "[]"
