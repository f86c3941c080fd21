"""The GRU VAE of sentences in PyTorch, from the same weights."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from experiments._peers_torch import import_torch
from vae_jax.types import PAD, Params


class TorchSentences:
    """The model of `vae_jax.text` as a PyTorch user would write it, in training.

    Its noise comes from PyTorch's global generator.

    Args:
        params: of the encoder and decoder in `vae_jax.networks.recurrent`, to start from.
        learning_rate: of Adam.
    """

    def __init__(self, params: Params, learning_rate: float) -> None:
        torch = self._torch = import_torch()
        torch.manual_seed(0)
        reader, writer = (params[name]["params"] for name in ("encoder", "decoder"))
        self._model = torch.nn.ModuleDict(
            {
                "read": _embedding(reader["Embed_0"]),
                "encoder": _gru(reader["GRU_0"], reader["Dense_0"]),
                "posterior": _linear(reader["Dense_1"]),
                "before": _embedding(writer["embed"]),
                "first": _linear(writer["z_first"]),
                "decoder": _gru(writer["gru"], writer["words_in"], writer["z_in"]),
                "logits": _linear(writer["out"]),
            }
        )
        weights = self._model.parameters()
        self._optimizer = torch.optim.Adam(weights, lr=learning_rate, fused=True)

    def loss(self, x: Any, eps: Any) -> Any:
        """The negative ELBO of a minibatch, nats per sentence.

        Args:
            x: tensor [batch, length], int64 tokens.
            eps: tensor [batch, latent], standard normal noise.
        """
        torch, model = self._torch, self._model
        lengths = (x != PAD).sum(1)
        states, _ = model["encoder"](model["read"](x))
        last = states[torch.arange(len(x)), lengths - 1]
        mean, log_var = model["posterior"](last).chunk(2, dim=1)
        z = mean + torch.exp(log_var / 2) * eps
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
        inputs = torch.cat([model["before"](before), z[:, None].expand(-1, x.shape[1], -1)], dim=2)
        states, _ = model["decoder"](inputs, torch.tanh(model["first"](z))[None])
        # What fills up is no word, and has no probability.
        logits, words = model["logits"](states)[..., PAD + 1 :].flatten(0, 1), x.flatten() - PAD - 1
        nats = torch.nn.functional.cross_entropy(logits, words, ignore_index=-1, reduction="sum")
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum()
        return (nats + kl) / len(x)

    def epoch(self, rows: Any, batches: Iterable[Any]) -> None:
        """Train for an epoch, every minibatch cut to its longest sentence.

        Args:
            rows: tensor [n, length], int64 tokens.
            batches: tensors of the rows of each minibatch.
        """
        for batch in batches:
            x = rows[batch]
            x = x[:, : int((x != PAD).sum(1).max())]
            self._optimizer.zero_grad(set_to_none=True)
            self.loss(x, self._noise(x)).backward()
            self._optimizer.step()

    def neg_elbo(self, test: Any) -> float:
        """The held-out negative ELBO, nats per sentence."""
        with self._torch.no_grad():
            return float(self.loss(test, self._noise(test)))

    def _noise(self, x: Any) -> Any:
        return self._torch.randn(len(x), self._model["first"].in_features)


def _embedding(weights: Mapping[str, Any]) -> Any:
    torch = import_torch()
    numbers = torch.from_numpy(np.array(weights["embedding"]))
    return torch.nn.Embedding.from_pretrained(numbers, freeze=False)


def _linear(weights: Mapping[str, Any]) -> Any:
    linear = import_torch().nn.Linear(*weights["kernel"].shape, bias="bias" in weights)
    _fill(linear.weight, np.array(weights["kernel"]).T)
    if "bias" in weights:
        _fill(linear.bias, weights["bias"])
    return linear


def _gru(recurrence: Mapping[str, Any], *inputs: Mapping[str, Any]) -> Any:
    """A GRU whose inputs are side by side what each of these layers reads; the first has a bias.

    PyTorch has gates in the same order, r, u and n, and a second bias for r and u, here 0.
    """
    kernel = np.concatenate([np.array(layer["kernel"]) for layer in inputs])
    hidden = len(recurrence["bias"])
    gru = import_torch().nn.GRU(len(kernel), hidden, batch_first=True)
    _fill(gru.weight_ih_l0, kernel.T)
    _fill(gru.bias_ih_l0, inputs[0]["bias"])
    _fill(gru.weight_hh_l0, np.array(recurrence["kernel"]).T)
    _fill(gru.bias_hh_l0, np.concatenate([np.zeros(2 * hidden), np.array(recurrence["bias"])]))
    return gru


def _fill(tensor: Any, numbers: Any) -> None:
    torch = import_torch()
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(np.array(numbers, np.float32)))
