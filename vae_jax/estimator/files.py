"""Fitted estimators as `.npz` files, without pickle."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vae_jax.data import Column, fit_encoding

_FORMAT = 1


def write_file(vae: Any, path: str | os.PathLike[str]) -> None:
    """Write a fitted estimator, whole or not at all.

    Args:
        vae: the estimator.
        path: of the file.

    Raises:
        FileNotFoundError: if the folder is not there.
        ValueError: if its random_state is not an integer or None.
    """
    if not Path(path).parent.is_dir() or Path(path).is_dir():
        raise FileNotFoundError(f"{path}: a file in a folder that exists is needed")
    parameters = vae.get_params()
    if not (vae.random_state is None or isinstance(vae.random_state, int | np.integer)):
        raise ValueError(f"random_state {vae.random_state!r}: an integer or None can be saved")
    said = {
        "format": _FORMAT,
        "parameters": parameters,
        "columns": [list(column) for column in vae.encoding_.columns],
        "names": list(getattr(vae, "feature_names_in_", [])),
        "fitted": {
            "offset_": vae.offset_,
            "n_iter_": vae.n_iter_,
            "n_features_in_": vae.n_features_in_,
            "_n_features_out": vae._n_features_out,
            "_batch_size": vae._batch_size,
            "_seed": vae._seed,
            "_model": vae._model,
            "_num_samples": vae._num_samples,
        },
    }
    leaves = {f"params/{i}": leaf for i, leaf in enumerate(jax.tree.leaves(vae.params_))}
    history = {f"history/{name}": values for name, values in vae.history_.items()}
    text = np.frombuffer(json.dumps(said, default=_plain).encode(), np.uint8)
    scaling = {"shift": vae.encoding_.shift, "scale": vae.encoding_.scale}
    temporary = Path(path).with_name(f".{Path(path).name}.tmp")
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, said=text, **scaling, **leaves, **history)
    temporary.replace(path)


def read_file(cls: Any, path: str | os.PathLike[str]) -> Any:
    """Read what `write_file` wrote.

    Args:
        cls: class of the estimator.
        path: of the file.

    Returns:
        The fitted estimator.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file is damaged or not one of these.
    """
    try:
        # Opened here, because np.load leaves a damaged file open.
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        said = json.loads(arrays["said"].tobytes())
        if said["format"] != _FORMAT:
            raise ValueError(f"format {said['format']}, {_FORMAT} is needed")
        # JSON knows no tuples, and the parameter is usually one.
        parameters = {**said["parameters"], "hidden": tuple(said["parameters"]["hidden"])}
        loaded = cls(**parameters)
        columns = [Column(name, kind, tuple(of)) for name, kind, of in said["columns"]]
        empty = np.zeros((1, len(columns)))
        fitted = fit_encoding(empty, columns)
        if arrays["shift"].shape != fitted.shift.shape:
            raise ValueError(f"shift of shape {arrays['shift'].shape}")
        loaded.encoding_ = fitted._replace(shift=arrays["shift"], scale=arrays["scale"])
        loaded._num_samples = int(loaded.num_samples)  # of files that have none of their own
        for name, value in said["fitted"].items():
            setattr(loaded, name, value)
        if said["names"]:
            loaded.feature_names_in_ = np.array(said["names"], object)
        shapes = jax.eval_shape(loaded._program().vae.init, jax.random.key(0))
        leaves, tree = jax.tree.flatten(shapes)
        found = [arrays[f"params/{i}"] for i in range(len(leaves))]
        if any(a.shape != b.shape for a, b in zip(found, leaves, strict=True)):
            raise ValueError("parameters of another model")
        loaded.params_ = jax.tree.unflatten(tree, found)
        names = [name for name in arrays if name.startswith("history/")]
        loaded.history_ = {name.removeprefix("history/"): arrays[name] for name in names}
    except FileNotFoundError:
        raise
    except Exception as error:  # a zip or JSON that is damaged fails in many ways
        # NumPy advises to load what is no array with pickle, which is not an option here.
        why = type(error).__name__ if "pickle" in str(error) else error
        raise ValueError(f"{path}: not a saved VAE, or damaged ({why})") from None
    return loaded


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays as JSON knows them."""
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)
