"""The models of a run in the form that compresses, and which of them is meant."""

import contextlib
from pathlib import Path

from experiments._run import UsageError, check
from vae_jax.compression import Codec, CodecError, load_codec, model_hash

PROG = "python -m experiments.compress"


def models_of(path: Path) -> dict[str, dict[int, Path]]:
    """The files of a run's models, by name and epoch.

    Raises:
        UsageError: if there are none.
    """
    if not path.is_dir():
        raise UsageError(f"{path}: there is no such run")
    found: dict[str, dict[int, Path]] = {}
    for file in path.glob("models/*/epoch*.npz"):
        with contextlib.suppress(ValueError):
            found.setdefault(file.parent.name, {})[int(file.stem.removeprefix("epoch"))] = file
    if not found:
        raise UsageError(f"{path}: no models in it; {PROG} train leaves them at its end")
    return {name: dict(sorted(found[name].items())) for name in sorted(found)}


def codec_of(path: Path, model: str | None) -> Codec:
    """The codec of a run: of the model's last epoch.

    Raises:
        UsageError: if there is no such model, or it is not said which of several.
        CodecError: if its file is damaged.
    """
    models = models_of(path)
    several = "the run has " + ", ".join(models)
    if model is None:
        check(len(models) == 1, "--model", "(nothing)", several)
        model = next(iter(models))
    check(model in models, "--model", model, several)
    return load_codec(models[model][max(models[model])])


def codec_that_packed(path: Path, wanted: str) -> Codec:
    """The codec of a run, of any model and epoch, whose SHA-256 a container names.

    Args:
        path: the run's folder.
        wanted: the SHA-256 in the container's header.

    Returns:
        The codec.

    Raises:
        UsageError: if there is no such run, or one of its files is damaged and may be the one.
        CodecError: if it is a model of another run.
    """
    damaged = None
    for epochs in models_of(path).values():
        for file in reversed(epochs.values()):  # the last epoch is what `pack` takes
            try:
                codec = load_codec(file)
            except CodecError as error:
                damaged = damaged or error
            else:
                if model_hash(codec) == wanted:
                    return codec
    if damaged is not None:
        raise UsageError(str(damaged))
    raise CodecError(f"packed with model {wanted[:12]}, which {path} does not have")
