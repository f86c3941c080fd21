"""What the README shows runs, and what it links to exists."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.usefixtures("compiled_quickly")

ROOT = Path(__file__).parents[1]
# Every module with an example in it, `compression.container` or `estimator` of its `__init__`.
DOCTESTS = [
    ".".join(path.relative_to(ROOT / "vae_jax").with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "vae_jax").rglob("*.py"))
    if ">>> " in path.read_text("utf-8")
]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"]


def test_the_readmes_example_runs():
    result = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert result.attempted >= 8
    assert result.failed == 0


@pytest.mark.parametrize("module", DOCTESTS)
def test_the_examples_of_docstrings_run(module):
    result = doctest.testmod(importlib.import_module(f"vae_jax.{module}"))
    assert result.attempted >= 1
    assert result.failed == 0


def test_the_modules_with_examples_are_found():
    some = {"evaluation.annealed", "estimator", "sprites", "sweep.members", "data.columns"}
    assert some <= set(DOCTESTS)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", (ROOT / page).read_text("utf-8"), flags=re.DOTALL)
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text) + re.findall(r'src="([^"]+)"', text)
    local = [link for link in links if not link.startswith(("http://", "https://"))]
    missing = [link for link in local if not (ROOT / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_commands_name_modules_that_exist(page):
    text = (ROOT / page).read_text("utf-8")
    for module in re.findall(r"python -m (experiments\.\w+)", text):
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module


def test_the_two_commands_stand_at_the_top():
    top = "\n".join((ROOT / "README.md").read_text("utf-8").splitlines()[:16])
    assert "pip install -e . && python -m experiments.mnist --beta 4\n" in top
    assert "pip install -e '.[test]' && python -m pytest\n" in top
