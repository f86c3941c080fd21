"""The house rules of imports: a module imports only from floors below its own."""

import ast
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    {"types", "data", "figures", "sprites"},
    {"gaussian", "likelihoods", "networks", "preprocess"},
    {"model", "objectives"},
    {"train", "evaluation", "compression", "tabular", "two_layer", "text"},
    {"sharding", "wake_sleep", "remedies"},
    {"checkpoint"},
    {"sweep", "estimator"},
]
# `likelihoods` shares one constant with `gaussian`, its elder on the same floor.
SAME_FLOOR = {("likelihoods", "gaussian")}
MODULES = sorted((ROOT / "vae_jax").rglob("*.py"))


def floor_of(name: str) -> int:
    (floor,) = (number for number, names in enumerate(FLOORS) if name in names)
    return floor


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{path.name}: relative imports hide the floor"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def parts(names: set[str], package: str = "vae_jax") -> set[str]:
    """The second part of every dotted name in a package."""
    return {name.split(".")[1] for name in names if name.startswith(package + ".")}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_downward(path):
    relative = path.relative_to(ROOT / "vae_jax").with_suffix("")
    own = relative.parts[0]
    if own == "__init__":
        return
    known = set().union(*FLOORS)
    for other in parts(imports(path)) & known - {own}:
        below = floor_of(other) < floor_of(own)
        assert below or (own, other) in SAME_FLOOR, f"{own} imports {other}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_libraries_stay_where_they_belong(path):
    relative = path.relative_to(ROOT / "vae_jax")
    names, own = imports(path), relative.with_suffix("").parts[0]
    assert "experiments" not in {name.split(".")[0] for name in names}
    if own != "networks":
        assert not any(name.startswith("flax") for name in names), "linen belongs in networks"
    if own in ("data", "figures"):
        assert not any(name.split(".")[0] == "jax" for name in names), "NumPy only"
    if own != "figures":
        assert not any(name.startswith("matplotlib") for name in names)
    if own != "checkpoint":
        assert not any(name.startswith("orbax") for name in names)
    if own != "sharding":
        foreign = [name for name in names if not name.startswith("vae_jax.sharding")]
        assert not any("Mesh" in name or "sharding" in name.lower() for name in foreign)


# Devices are the business of `sharding`; `train` asks whose compiler options it gives.
ASKED = {"devices", "local_devices", "device_count", "local_device_count", "default_backend"}
ASKING = {"sharding": ASKED, "train": {"default_backend"}}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_devices_are_asked_for_in_one_place(path):
    own = path.relative_to(ROOT / "vae_jax").with_suffix("").parts[0]
    found = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "jax"
    }
    assert found & ASKED <= ASKING.get(own, set())


def test_every_module_has_its_floor():
    found = {path.relative_to(ROOT / "vae_jax").with_suffix("").parts[0] for path in MODULES}
    assert found - {"__init__"} <= set().union(*FLOORS)


def test_importing_the_library_leaves_the_heavy_ones_alone():
    heavy = ["matplotlib", "orbax", "tensorflow_datasets", "sklearn", "tensorflow", "tyro", "scipy"]
    # SciPy's linear algebra comes with JAX itself; its statistics do not.
    code = (
        "import sys, vae_jax\n"
        f"print([name for name in {heavy[:-1]!r} + ['scipy.stats'] if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_public_names_are_documented():
    import vae_jax

    assert sorted(vae_jax.__all__, key=str.lower) == sorted(set(vae_jax.__all__), key=str.lower)
    for name in vae_jax.__all__:
        value = getattr(vae_jax, name)
        if callable(value):
            assert (value.__doc__ or "").count("\n") > 3, f"{name} needs a docstring"


def test_importing_the_library_costs_little_more_than_what_it_stands_on():
    """Under 1.5 times `import jax, flax.linen, optax`, medians of alternated starts."""

    def seconds(statement: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True, cwd=ROOT)
        return time.perf_counter() - began

    seconds("import vae_jax")  # writes the bytecode
    pairs = [
        (seconds("import vae_jax"), seconds("import jax, flax.linen, optax")) for _ in range(5)
    ]
    assert statistics.median(ours / theirs for ours, theirs in pairs) < 1.5
