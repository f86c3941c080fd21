"""The estimator: its parameters and its methods."""

import functools
import os
from collections.abc import Sequence
from typing import Any, no_type_check

import jax
import numpy as np
from jaxtyping import Float, Int
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    OutlierMixin,
    TransformerMixin,
)
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from vae_jax.data import fit_encoding
from vae_jax.estimator.checks import (
    batch_size_of,
    check_parameters,
    check_whole,
    columns_of,
    points,
    validated,
)
from vae_jax.estimator.files import read_file, write_file
from vae_jax.estimator.program import (
    Program,
    by_rows,
    diverged,
    key_of,
    program_of,
    score_rows,
    train_epochs,
)
from vae_jax.evaluation import threshold_at
from vae_jax.types import Hyper

# Rows that the threshold is set by.
_THRESHOLD_ROWS = 10_000


class VAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, OutlierMixin, BaseEstimator):
    """Variational autoencoder of the rows of a table.

    It learns p(x) = E[p(x | z)], z ~ N(0, I), by maximising E_q[log p(x | z)] - beta KL(q || p)
    of its rows. Continuous columns are standardised by the rows it was fitted on; NaN is a
    missing value, which counts nothing. All that is returned is in the units of X.

    Args:
        latent_dim: dimensions of z.
        hidden: widths of the encoder's hidden layers; the decoder's are the reverse. Empty: a
            linear model.
        activation: between layers, a key of `vae_jax.ACTIVATIONS`.
        beta: weight of the KL term; 1 is the evidence lower bound.
        epochs: passes through the rows.
        batch_size: rows in a minibatch; "auto" is 32, and more for tables of many rows. The
            remainder of an epoch that fills none is left out.
        learning_rate: of Adam.
        kinds: what the columns are, one of "continuous", "heavy_tailed", "binary", "count",
            "categorical" and "infer" for all or for each. Categories are the codes 0, 1, 2,
            ...; counts go up to 10,000 and are learned well up to some hundred, larger ones are
            better taken as continuous. "infer" goes by the rows of `fit` and the rules of
            `vae_jax.data.columns.kind_of_numbers`, but that two values are binary only where
            they are 0 and 1; it takes no column as categorical, since no number tells the code
            of a category from a count. A later row that does not fit is refused, such as one
            with a 2 where `fit` saw 0 and 1, and scores under other kinds are not on one
            scale: for cross-validation and searches, give the kinds.
        scale_of: what the spread of a column depends on: "column" learns one for each,
            "row" decodes it from z, "table" learns one for all (with hidden=() this is
            probabilistic PCA).
        contamination: share of the rows that `predict` calls outliers, by which `offset_` is
            set; above 0, at most 0.5.
        num_samples: samples of z behind `score_samples` and `impute`, as it was at `fit`.
        random_state: of the weights, the minibatches, the noise and `sample`.
        verbose: whether to print a line of progress now and then.

    Attributes:
        history_: arrays over epochs, nats per row on the scale that is trained on: `loss`,
            `elbo`, `log_lik` and `kl`. After Ctrl-C they, and the model, are those of the
            whole epochs that were done.
        params_: the parameters, a tree of NumPy arrays.
        encoding_: how rows become features (`vae_jax.data.Encoding`); its `columns` have their
            kinds.
        offset_: the score under which a row is an outlier.
        n_iter_: epochs that were done.
        n_features_in_: columns of X.
        feature_names_in_: their names, where X has some.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.neighbors import KNeighborsClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> model = make_pipeline(VAE(random_state=0), KNeighborsClassifier()).fit(X, y)
        >>> bool(model.score(X, y) > 0.9)
        True

    Reference:
        Kingma and Welling, Auto-Encoding Variational Bayes (arXiv 1312.6114).
    """

    n_features_in_: int
    feature_names_in_: np.ndarray

    # As scikit-learn demands, it is `fit` that checks the parameters.
    @no_type_check
    def __init__(
        self,
        latent_dim: int = 2,
        *,
        hidden: Sequence[int] = (32,),
        activation: str = "relu",
        beta: float = 1.0,
        epochs: int = 200,
        batch_size: int | str = "auto",
        learning_rate: float = 5e-3,
        kinds: str | Sequence[str] = "continuous",
        scale_of: str = "column",
        contamination: float = 0.1,
        num_samples: int = 128,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.activation = activation
        self.beta = beta
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.kinds = kinds
        self.scale_of = scale_of
        self.contamination = contamination
        self.num_samples = num_samples
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> "VAE":
        """Learn the model of some rows.

        Args:
            X: `[rows, columns]`, at least two rows, NaN where a value is missing.
            y: not used.

        Returns:
            This estimator.

        Raises:
            TypeError: if X is sparse.
            ValueError: if a parameter or a value of X is not allowed, or training diverges.
        """
        check_parameters(self)
        # A fit that fails must not leave half of the one before.
        vars(self).pop("offset_", None)
        X = validated(self, X, None)
        columns = columns_of(X, self.kinds, getattr(self, "feature_names_in_", None))
        self.encoding_ = fit_encoding(X, columns)
        self._batch_size = batch_size_of(self.batch_size, len(X))
        # What was fitted stays so, whatever `set_params` says of the next fit.
        hidden = [int(width) for width in self.hidden]
        self._model = [hidden, int(self.latent_dim), self.activation, self.scale_of]
        self._num_samples = int(self.num_samples)  # `offset_` is of scores with so many
        rng = check_random_state(self.random_state)
        self._seed = int(rng.randint(2**31 - 1))
        state, self.history_ = train_epochs(
            self._program(),
            Hyper(self.beta, self.learning_rate),
            X,
            self.encoding_,
            rng,
            seed=self._seed,
            size=self._batch_size,
            epochs=self.epochs,
            verbose=self.verbose,
        )
        self.n_iter_ = len(self.history_["elbo"])
        self.params_ = jax.tree.map(np.asarray, state.params)
        self._n_features_out = self.latent_dim
        some = X
        if len(X) > _THRESHOLD_ROWS:
            some = X[np.sort(rng.choice(len(X), _THRESHOLD_ROWS, replace=False))]
        costs = -self._score(some)
        threshold = np.nan if np.isnan(costs).any() else threshold_at(costs, self.contamination)
        if not np.isfinite(threshold):
            raise diverged(self.learning_rate, self.epochs)
        self.offset_ = -threshold
        return self

    def transform(self, X: Any) -> Float[np.ndarray, "rows latent"]:
        """The means E_q[z] of the posteriors q(z | x).

        Args:
            X: `[rows, columns]`, NaN where a value is missing.

        Returns:
            The means; z has no units.

        Raises:
            NotFittedError: before `fit`.
            TypeError: if X is sparse.
            ValueError: if X has no row, other columns than in `fit` or a value they cannot have.
        """
        X = self._rows(X)
        means = by_rows(self._program().encode, self.params_, self.encoding_.encode(X))
        return means.astype(np.float64)

    def inverse_transform(self, Z: Any) -> Float[np.ndarray, "rows columns"]:
        """What the model expects at points z, E[x | z].

        Args:
            Z: `[rows, latent_dim]`.

        Returns:
            Rows in the units of X; of a binary or categorical column the most probable value.

        Raises:
            NotFittedError: before `fit`.
            ValueError: if Z has another shape or no row, or is not finite.
        """
        check_is_fitted(self)
        Z = points(Z, self._n_features_out)
        return self.encoding_.decode(by_rows(self._program().decode, self.params_, Z))

    def reconstruct(self, X: Any) -> Float[np.ndarray, "rows columns"]:
        """Each row through the mean of its posterior, E[x | z = E_q[z]].

        Args:
            X: `[rows, columns]`, NaN where a value is missing.

        Returns:
            The rows, complete, as `inverse_transform` gives them.

        Raises:
            NotFittedError, TypeError, ValueError: as in `transform`.
        """
        X = self._rows(X)
        means = by_rows(self._program().encode, self.params_, self.encoding_.encode(X))
        return self.encoding_.decode(by_rows(self._program().decode, self.params_, means))

    def sample(
        self, n_samples: int = 1, random_state: Any = None
    ) -> Float[np.ndarray, "n columns"]:
        """Draw new rows from the model: z ~ N(0, I), then x ~ p(x | z).

        Args:
            n_samples: how many.
            random_state: of the draws; the estimator's own without it.

        Returns:
            The rows, in the units of X.

        Raises:
            NotFittedError: before `fit`.
            ValueError: if n_samples is not a whole number of 1 or more.
        """
        check_is_fitted(self)
        check_whole("n_samples", n_samples)
        chosen = self.random_state if random_state is None else random_state
        seed = int(check_random_state(chosen).randint(2**31 - 1))
        numbers = np.arange(n_samples, dtype=np.int32)
        draw = functools.partial(self._program().sample, key_of(seed))
        return self.encoding_.decode(by_rows(draw, self.params_, numbers))

    def impute(self, X: Any) -> Float[np.ndarray, "rows columns"]:
        """Fill the missing values with the mean that the model expects given the others.

        E[x' | x] = sum_k w_k E[x' | z_k] / sum_k w_k, x what was observed, with the weights of
        `score_samples`. For a binary or categorical column it is the most probable value, and
        that of a count is rounded. The same noise is used for every row.

        Args:
            X: `[rows, columns]`, NaN where a value is missing.

        Returns:
            The rows, in the units of X; what was observed is as it was.

        Raises:
            NotFittedError, TypeError, ValueError: as in `transform`.

        Reference:
            Mattei and Frellsen, MIWAE (arXiv 1812.02633), equation 13.
        """
        X = self._rows(X)
        draw = functools.partial(self._program().impute, key_of(self._seed))
        expected = self.encoding_.decode(by_rows(draw, self.params_, self.encoding_.encode(X)))
        counts = [column.kind == "count" for column in self.encoding_.columns]
        expected = np.where(counts, np.rint(expected), expected)
        return np.where(np.isnan(X), expected, X)

    def score_samples(self, X: Any) -> Float[np.ndarray, " rows"]:
        """The log-likelihood of each row, log p(x).

        log (1 / K) sum_k w_k - sum_j log s_j,  w_k = p(f | z_k) p(z_k) / q(z_k | f),  z_k ~ q,

        f the standardised row, K = `num_samples`, s_j what observed column j was divided by: a
        density in the units of X. In expectation it is under log p(x), and rises to it with K.
        A row has noise of its own, by what stands in it to a thousandth of a column's scale: its
        score is the same whoever stands beside it, and the mean over many rows averages the
        noise out.

        Args:
            X: `[rows, columns]`, NaN where a value is missing.

        Returns:
            Nats; those of binary, count and categorical columns are of probabilities.

        Raises:
            NotFittedError, TypeError, ValueError: as in `transform`.

        Reference:
            Burda et al., Importance weighted autoencoders (arXiv 1509.00519), equation 8.
        """
        return self._score(self._rows(X))

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of `score_samples`.

        Args:
            X: `[rows, columns]`, NaN where a value is missing.
            y: not used.

        Returns:
            Nats a row.
        """
        return float(self.score_samples(X).mean())

    def decision_function(self, X: Any) -> Float[np.ndarray, " rows"]:
        """`score_samples` less `offset_`.

        Args:
            X: `[rows, columns]`, NaN where a value is missing.

        Returns:
            Nats, negative for outliers.
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> Int[np.ndarray, " rows"]:
        """Which rows are outliers: where `decision_function` is negative.

        Args:
            X: `[rows, columns]`, NaN where a value is missing.

        Returns:
            -1 for outliers, 1 for what is like the training rows.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted estimator to one `.npz` file, without pickle.

        Args:
            path: of the file, in a folder that exists; what stood there is replaced.

        Raises:
            NotFittedError: before `fit`.
            FileNotFoundError: if there is no such folder, or path is one.
            ValueError: if random_state is not an integer or None.
        """
        check_is_fitted(self)
        write_file(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "VAE":
        """Read an estimator that `save` wrote.

        Args:
            path: of the file.

        Returns:
            The fitted estimator.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if the file is damaged or not one of these.
        """
        return read_file(cls, path)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "offset_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _rows(self, X: Any) -> Float[np.ndarray, "rows columns"]:
        check_is_fitted(self)
        return validated(self, X, self.encoding_.columns)

    def _score(self, X: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, " rows"]:
        features = self.encoding_.encode(X)
        nats = score_rows(self._program(), key_of(self._seed), self.params_, features)
        # The density of what was scaled, turned into one of what was given.
        return nats - np.where(np.isnan(features), 0.0, self.encoding_.log_scale).sum(axis=1)

    def _program(self) -> Program:
        (hidden, *rest), sizes = self._model, (self._batch_size, self._num_samples)
        return program_of(self.encoding_.blocks, tuple(hidden), *rest, *sizes)
