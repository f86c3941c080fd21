"""The command lines of the experiments, called in this process or in one of their own."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from experiments._run import main

ROOT = Path(__file__).resolve().parent.parent


class Done(NamedTuple):
    """A command that ended, and the folder that it was called in."""

    code: object
    out: str
    err: str
    folder: Path

    @property
    def run(self) -> Path:
        """The folder of the run that it made."""
        return run_of(self.folder, self.out)


def run_of(folder: Path, out: str) -> Path:
    """The run's folder, from the second line that a run prints."""
    return folder / out.splitlines()[1]


def call(module: ModuleType, folder: Path, *flags: str) -> Done:
    """A command line in this process: only what starts it differs from the real one."""
    # experiments.compress and experiments.text have several commands, the others have one.
    config = getattr(module, "Command", None) or module.Config
    start = getattr(module, "start", None) or partial(main, config, module.run, module.PROG)
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.chdir(folder)
        patch.setattr(sys, "argv", [f"{module.__name__.rpartition('.')[2]}.py", *flags])
        try:
            start()
        except SystemExit as stop:
            code = stop.code
    return Done(code, out.getvalue(), err.getvalue(), folder)


def command(*flags: str) -> list[str]:
    """The words of `experiments.mnist` as a process of its own."""
    return [sys.executable, "-m", "experiments.mnist", *flags]


def environment() -> dict[str, str]:
    """That of a process that finds this checkout."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def read_json(path: Path) -> dict:
    """What a file holds, which must be JSON to the letter: no NaN, no infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{path.name} holds {constant}, which is not JSON")

    return json.loads(path.read_text("utf-8"), parse_constant=refuse)


@pytest.fixture(scope="module", autouse=True)
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No data, no network (a proxy that refuses), a fresh cache; put back afterwards."""
    before = {
        name: getattr(jax.config, name)
        for name in ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    }
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("VAE_JAX_DATA", "JAX_COMPILATION_CACHE_DIR", "no_proxy", "NO_PROXY"):
            patch.delenv(variable, raising=False)
        for variable in ("http_proxy", "https_proxy"):
            patch.delenv(variable.upper(), raising=False)
            patch.setenv(variable, "http://127.0.0.1:9")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        compilation_cache.reset_cache()
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
