"""The convolutional VAE in PyTorch, and its weights in both layouts.

`vae_jax` has images as [height, width, channels] and kernels as [row, column, in, out], PyTorch
has [channels, height, width] and [out, in, row, column].
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from experiments._peers import Problem
from experiments._peers_torch import TorchVAE, Twin, import_torch
from vae_jax.types import Params

# Axes of a kernel here in the order of PyTorch's; of a transposed convolution [in, out, ...].
DOWN, UP = (3, 2, 0, 1), (2, 3, 0, 1)


def torch_conv_vae(params: Params, x_shape: tuple[int, ...]) -> TorchVAE:
    """The PyTorch networks that compute what the convolutional ones here do with weights.

    Args:
        params: of `vae_jax.networks.conv` with ReLU.
        x_shape: height, width and channels of an image; grey ones, of one channel.

    Returns:
        Networks of flat images [n, pixels], each an `nn.Sequential`.

    Raises:
        ValueError: if the images have several channels.
    """
    nn = import_torch().nn
    height, width, depth = x_shape
    if depth != 1:
        raise ValueError(f"images of {depth} channels: the pixels of flat ones are of 1")
    encoder, decoder = (params[name]["params"] for name in ("encoder", "decoder"))
    downs, ups = _named(encoder, "DownConv"), _named(decoder, "UpConv")
    shrink, channels = 2 ** len(downs), downs[-1]["kernel"].shape[-1]
    small = (channels, height // shrink, width // shrink)

    layers = [nn.Unflatten(1, (depth, height, width))]
    for one in downs:
        inputs, outputs = one["kernel"].shape[2:]
        layer = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)
        layers += [_filled(layer, np.transpose(one["kernel"], DOWN), one["bias"]), nn.ReLU()]
    layers.append(nn.Flatten())
    dense = _named(encoder, "Dense")
    for index, one in enumerate(dense):
        kernel = _reordered(one["kernel"], small) if index == 0 else np.array(one["kernel"])
        layers += [_filled(nn.Linear(*kernel.shape), kernel.T, one["bias"]), nn.ReLU()]
    down = nn.Sequential(*layers[:-1])

    layers = []
    dense = _named(decoder, "Dense")
    for index, one in enumerate(dense):
        kernel, bias = np.array(one["kernel"]), np.array(one["bias"])
        if index == len(dense) - 1:
            kernel, bias = _reordered(kernel.T, small).T, _reordered(bias, small)
        layers += [_filled(nn.Linear(*kernel.shape), kernel.T, bias), nn.ReLU()]
    layers.append(nn.Unflatten(1, small))
    for one in ups:
        inputs, outputs = one["kernel"].shape[2:]
        layer = nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
        # linen does not flip the kernel of a transposed convolution, PyTorch does.
        flipped = np.transpose(np.array(one["kernel"])[::-1, ::-1], UP)
        layers += [_filled(layer, flipped, one["bias"]), nn.ReLU()]
    return TorchVAE(down, nn.Sequential(*layers[:-1], nn.Flatten()))


def torch_conv_params(model: TorchVAE) -> Params:
    """The weights of the PyTorch networks, copied into the layout of `vae_jax`."""
    nn = import_torch().nn
    [small] = [one.unflattened_size for one in model.decoder if isinstance(one, nn.Unflatten)]
    behind = next(layer for layer in model.encoder if isinstance(layer, nn.Linear))
    before = [layer for layer in model.decoder if isinstance(layer, nn.Linear)][-1]

    def weights(network: Any) -> Params:
        own: Params = {}
        for layer in network:
            if not hasattr(layer, "weight"):
                continue
            weight, bias = (t.detach().cpu().numpy() for t in (layer.weight, layer.bias))
            if isinstance(layer, nn.Conv2d):
                name, kernel = "DownConv", np.transpose(weight, np.argsort(DOWN))
            elif isinstance(layer, nn.ConvTranspose2d):
                name, kernel = "UpConv", np.transpose(weight, np.argsort(UP))[::-1, ::-1]
            else:
                name, kernel = "Dense", weight.T
                if layer is behind:
                    kernel = _restored(kernel, small)
                elif layer is before:
                    kernel, bias = _restored(weight, small).T, _restored(bias, small)
            number = sum(key.startswith(name) for key in own)
            own[f"{name}_{number}"] = {"kernel": jnp.array(kernel), "bias": jnp.array(bias)}
        return {"params": own}

    return {"encoder": weights(model.encoder), "decoder": weights(model.decoder)}


def _of_problem(problem: Problem) -> TorchVAE:
    return torch_conv_vae(problem.params, problem.images.shape[1:])


CONV = Twin(_of_problem, torch_conv_params)


def _named(layers: Mapping[str, Any], name: str) -> list[dict[str, np.ndarray]]:
    """The weights of the layers of a kind, in order."""
    count = sum(key.startswith(name) for key in layers)
    return [
        {part: np.array(array) for part, array in layers[f"{name}_{i}"].items()}
        for i in range(count)
    ]


def _filled(layer: Any, weight: np.ndarray, bias: np.ndarray) -> Any:
    """A PyTorch layer with these weights."""
    torch = import_torch()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        layer.bias.copy_(torch.from_numpy(np.ascontiguousarray(bias)))
    return layer


def _reordered(rows: np.ndarray, small: tuple[int, ...]) -> np.ndarray:
    """Rows for pixels as [row, column, channel], put in PyTorch's order."""
    channels, height, width = small
    images = rows.reshape(height, width, channels, *rows.shape[1:])
    return np.moveaxis(images, 2, 0).reshape(rows.shape)


def _restored(rows: np.ndarray, small: tuple[int, ...]) -> np.ndarray:
    """The inverse of `_reordered`."""
    return np.moveaxis(rows.reshape(*small, *rows.shape[1:]), 0, 2).reshape(rows.shape)
