"""log p(x) by annealed importance sampling: from the prior to the posterior in small steps.

It asks nothing of the encoder, so it tells a poor posterior from a poor decoder. Every
function is written for one example; callers `vmap`, and `jit` around it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, Key

from vae_jax.gaussian import standard_log_density
from vae_jax.model import VAE
from vae_jax.types import Nats, Params, PRNGKey, Scalar

# How far the sigmoid of the schedule reaches on either side, as in arXiv 1611.04273's code.
_REACH = 4.0
# Chains that find the step sizes, and how hard their acceptance pulls: enough to follow a
# posterior that narrows, and few enough that the chains that count remain the price.
_PILOTS = 4
_PULL = 0.2
_WANTED_ACCEPTANCE = 0.65


class Annealed(NamedTuple):
    """The annealed estimate of one example.

    Attributes:
        log_likelihood: nats; the log mean of the chains' weights, or for the upper bound
            minus the log mean of their inverses.
        effective_samples: (sum_i w_i)^2 / sum_i w_i^2 of the weights that are averaged, from
            1 to the number of chains; where it is near 1 more temperatures are needed.
        acceptance: mean acceptance probability of the Hamiltonian moves; 0.65 is aimed at.
    """

    log_likelihood: Nats
    effective_samples: Float[Array, ""]
    acceptance: Float[Array, ""]


class Point(NamedTuple):
    """A latent vector with what a move needs of it at every temperature.

    Attributes:
        z: the vector.
        log_lik: log p(x | z), nats.
        slope: its gradient in z.
    """

    z: Float[Array, " latent"]
    log_lik: Nats
    slope: Float[Array, " latent"]


class _Rung(NamedTuple):
    """One temperature of the ladder; with a leading axis, all but the first."""

    number: Int[Array, "*rungs"]
    temperature: Float[Array, "*rungs"]
    rise: Float[Array, "*rungs"]  # above the temperature before
    step_size: Float[Array, "*rungs"]


def annealed_log_likelihood(
    key: PRNGKey,
    vae: VAE,
    params: Params,
    x: Float[Array, "*x"],
    *,
    num_chains: int = 16,
    num_temperatures: int = 500,
    num_leapfrog: int = 10,
    step_size: float = 0.1,
) -> Annealed:
    """Estimate log p(x) of one example by chains from the prior to the posterior.

    log p(x) >= E[log (1 / N) sum_i w_i],  w_i = prod_k p(x | z_{k-1})^(t_k - t_{k-1}),

    where z_0 ~ p(z), and z_k is a Hamiltonian move from z_{k-1} that leaves
    p(z) p(x | z)^(t_k) as it is; the temperatures are those of `temperature_schedule`. The
    weights are unbiased, so the estimate exceeds log p(x) by b nats with probability exp(-b)
    at most, and it rises to log p(x) with more temperatures or chains.

    The step size of each temperature is found beforehand, by four pilot chains that multiply
    it by exp(0.2 (a - 0.65)) where a is their mean acceptance, and that count for nothing
    else. To adapt it to the chains that count is common, and biases their weights a little.

    It needs the gradient of log p(x | z) in z: where that is not finite no move is accepted,
    which `acceptance` shows.

    Args:
        key: the key of the chains. The first of more chains are those of fewer.
        vae: the model; its encoder is not used.
        params: its parameters.
        x: one example.
        num_chains: N, all in memory at once.
        num_temperatures: of the schedule, both ends included; 2 is importance sampling from
            the prior.
        num_leapfrog: steps of each move, each one gradient of log p(x | z). The cost is
            (num_chains + 4) (num_temperatures - 1) num_leapfrog of them.
        step_size: of the leapfrog at the start of the pilots.

    Returns:
        The estimate, in nats: a lower bound of log p(x) in expectation.

    Raises:
        ValueError: if there are under 1 chains or leapfrog steps, or under 2 temperatures, or
            the step size is not a positive finite number.

    Reference:
        Neal, Annealed importance sampling (arXiv physics/9803008); Wu et al., On the
        quantitative analysis of decoder-based generative models (arXiv 1611.04273).

    Example:
        A decoder that does not look at z: every weight is p(x).

        >>> from vae_jax.likelihoods import bernoulli
        >>> from vae_jax.types import Normal
        >>> coins = VAE(
        ...     init=lambda key: {},
        ...     encode=lambda params, x: Normal(jnp.zeros(2), jnp.zeros(2)),
        ...     decode=lambda params, z: jnp.zeros((3, 1)),
        ...     likelihood=bernoulli(),
        ...     latent_dim=2,
        ... )
        >>> found = annealed_log_likelihood(
        ...     jax.random.key(0), coins, {}, jnp.ones(3), num_chains=4, num_temperatures=20
        ... )
        >>> round(float(found.log_likelihood / jnp.log(2)), 4)
        -3.0
        >>> round(float(found.effective_samples), 4)
        4.0
    """
    _check(num_chains, num_temperatures, num_leapfrog, step_size)
    point_at = _point_at(vae, params, x)
    key_pilots, key_chains = jax.random.split(key)
    ladder = _ladder(key_pilots, vae, point_at, num_temperatures, num_leapfrog, step_size)

    def chain(key: PRNGKey) -> tuple[Nats, Float[Array, ""]]:
        key_start, key_moves = jax.random.split(key)

        def climb(state: tuple[Point, Nats], rung: _Rung) -> tuple[tuple[Point, Nats], Array]:
            point, log_w = state
            log_w += rung.rise * point.log_lik
            key = jax.random.fold_in(key_moves, rung.number)
            point, acceptance = hamiltonian_move(
                key, point_at, point, rung.temperature, rung.step_size, num_leapfrog
            )
            return (point, log_w), acceptance

        start = point_at(jax.random.normal(key_start, (vae.latent_dim,)))
        (_, log_w), acceptance = jax.lax.scan(climb, (start, jnp.zeros(())), ladder)
        return log_w, jnp.mean(acceptance)

    return _log_mean(*jax.vmap(chain)(_keys(key_chains, num_chains)))


def annealed_upper_bound(
    key: PRNGKey,
    vae: VAE,
    params: Params,
    x: Float[Array, "*x"],
    z: Float[Array, " latent"],
    *,
    num_chains: int = 16,
    num_temperatures: int = 500,
    num_leapfrog: int = 10,
    step_size: float = 0.1,
) -> Annealed:
    """Bound log p(x) from above by the chains of `annealed_log_likelihood` run backwards.

    log p(x) <= E[-log (1 / N) sum_i 1 / w_i],  z ~ p(z | x),

    with chains that go from z down to the prior, and the weights of those that climb. It
    needs an exact sample of the posterior: draw z from the prior and x from p(x | z), and
    z is one. With the lower bound it brackets log p(x) of simulated data (bidirectional Monte
    Carlo); their gap is more than what the lower bound lacks. A sample of q(z | x) will not
    do, and of data that were not simulated there is none.

    Args:
        key: the key of the chains.
        vae: the model; its encoder is not used.
        params: its parameters.
        x: one example.
        z: an exact sample of p(z | x), where all chains begin.
        num_chains: N, all in memory at once.
        num_temperatures: of the schedule, both ends included.
        num_leapfrog: steps of each move.
        step_size: of the leapfrog at the start of the pilots, which climb from the prior, so
            that the step sizes do not depend on z.

    Returns:
        The estimate, in nats: an upper bound of log p(x) in expectation over z too.

    Raises:
        ValueError: as for `annealed_log_likelihood`, or if z is not of the latent dimension.

    Reference:
        Grosse et al., Sandwiching the marginal likelihood using bidirectional Monte Carlo
        (arXiv 1511.02543).
    """
    _check(num_chains, num_temperatures, num_leapfrog, step_size)
    if z.shape != (vae.latent_dim,):
        raise ValueError(f"z of shape {z.shape}: {(vae.latent_dim,)} is needed")
    point_at = _point_at(vae, params, x)
    key_pilots, key_chains = jax.random.split(key)
    ladder = _ladder(key_pilots, vae, point_at, num_temperatures, num_leapfrog, step_size)

    def chain(key: PRNGKey) -> tuple[Nats, Float[Array, ""]]:
        def descend(state: tuple[Point, Nats], rung: _Rung) -> tuple[tuple[Point, Nats], Array]:
            point, log_w = state
            point, acceptance = hamiltonian_move(
                jax.random.fold_in(key, rung.number),
                point_at,
                point,
                rung.temperature,
                rung.step_size,
                num_leapfrog,
            )
            return (point, log_w + rung.rise * point.log_lik), acceptance

        start = (point_at(z), jnp.zeros(()))
        (_, log_w), acceptance = jax.lax.scan(descend, start, ladder, reverse=True)
        return log_w, jnp.mean(acceptance)

    log_w, acceptance = jax.vmap(chain)(_keys(key_chains, num_chains))
    inverse = _log_mean(-log_w, acceptance)
    return inverse._replace(log_likelihood=-inverse.log_likelihood)


def temperature_schedule(num_temperatures: int) -> Float64[np.ndarray, " temperatures"]:
    """Temperatures from 0 to 1 that lie closest together at both ends.

    t_k = (s_k - s_0) / (s_{n-1} - s_0),  s_k = sigmoid(4 (2 k / (n - 1) - 1))

    Args:
        num_temperatures: n.

    Returns:
        The temperatures, ascending; the first is 0 and the last 1.

    Raises:
        ValueError: if there are under 2.

    Reference:
        arXiv 1511.02543, and the code of arXiv 1611.04273.

    Example:
        >>> temperature_schedule(5).round(2).tolist()
        [0.0, 0.1, 0.5, 0.9, 1.0]
    """
    if num_temperatures < 2:
        raise ValueError(f"num_temperatures {num_temperatures}: at least 2 are needed")
    sigmoid = 1 / (1 + np.exp(-np.linspace(-_REACH, _REACH, num_temperatures)))
    return (sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])


def hamiltonian_move(
    key: PRNGKey,
    point_at: Callable[[Float[Array, " latent"]], Point],
    point: Point,
    temperature: Scalar,
    step_size: Scalar,
    num_leapfrog: int,
) -> tuple[Point, Float[Array, ""]]:
    """Move once by Hamiltonian Monte Carlo, which leaves p(z) p(x | z)^t as it is.

    A new momentum v ~ N(0, I), then leapfrog steps of size e along the gradient
    g(z) = -z + t grad log p(x | z),

    v' = v + e/2 g(z),  z' = z + e v',  v'' = v' + e/2 g(z'),

    whose end is accepted with probability min(1, exp(H - H'')), H = |v|^2 / 2 - log p(z)
    - t log p(x | z).

    Args:
        key: the key of the move.
        point_at: `z -> point`.
        point: where the move begins.
        temperature: t.
        step_size: e.
        num_leapfrog: steps of the leapfrog.

    Returns:
        Where the move ends, and the probability with which it was accepted. An end that is
        not a number is not accepted.

    Reference:
        Neal, MCMC using Hamiltonian dynamics (arXiv 1206.1901).
    """
    key_momentum, key_accept = jax.random.split(key)

    def force(point: Point) -> Float[Array, " latent"]:
        return -point.z + temperature * point.slope

    def log_joint(point: Point, momentum: Float[Array, " latent"]) -> Nats:
        log_lik = temperature * point.log_lik
        return standard_log_density(point.z) + log_lik + standard_log_density(momentum)

    def leapfrog(_: Int[Array, ""], state: tuple[Point, Array]) -> tuple[Point, Array]:
        point, momentum = state
        momentum += step_size / 2 * force(point)
        point = point_at(point.z + step_size * momentum)
        return point, momentum + step_size / 2 * force(point)

    momentum = jax.random.normal(key_momentum, point.z.shape)
    end, end_momentum = jax.lax.fori_loop(0, num_leapfrog, leapfrog, (point, momentum))
    log_ratio = log_joint(end, end_momentum) - log_joint(point, momentum)
    probability = jnp.where(jnp.isnan(log_ratio), 0.0, jnp.exp(jnp.minimum(log_ratio, 0.0)))
    accepted = jax.random.uniform(key_accept) < probability
    return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), end, point), probability


def _point_at(
    vae: VAE, params: Params, x: Float[Array, "*x"]
) -> Callable[[Float[Array, " latent"]], Point]:
    def log_lik_of(z: Float[Array, " latent"]) -> Nats:
        return vae.log_lik(params, z, x)

    return lambda z: Point(z, *jax.value_and_grad(log_lik_of)(z))


def _ladder(
    key: PRNGKey,
    vae: VAE,
    point_at: Callable[[Float[Array, " latent"]], Point],
    num_temperatures: int,
    num_leapfrog: int,
    step_size: float,
) -> _Rung:
    """The temperatures above 0, each with the step size that the pilots found there."""
    temperatures = temperature_schedule(num_temperatures)
    key_start, key_moves = jax.random.split(key)

    def adapt(
        state: tuple[Point, Array], rung: tuple[Array, Array]
    ) -> tuple[tuple[Point, Array], Array]:
        points, step_size = state
        number, temperature = rung

        def move(key: PRNGKey, point: Point) -> tuple[Point, Array]:
            return hamiltonian_move(key, point_at, point, temperature, step_size, num_leapfrog)

        keys = jax.random.split(jax.random.fold_in(key_moves, number), _PILOTS)
        points, acceptance = jax.vmap(move)(keys, points)
        step_size *= jnp.exp(_PULL * (jnp.mean(acceptance) - _WANTED_ACCEPTANCE))
        return (points, step_size), step_size

    numbers = jnp.arange(1, num_temperatures)
    above = jnp.asarray(temperatures[1:], float)
    starts = jax.vmap(point_at)(jax.random.normal(key_start, (_PILOTS, vae.latent_dim)))
    _, step_sizes = jax.lax.scan(adapt, (starts, jnp.asarray(step_size, float)), (numbers, above))
    # The differences before the cast: in float32 those near 1 would lose their digits.
    return _Rung(numbers, above, jnp.asarray(np.diff(temperatures), float), step_sizes)


def _keys(key: PRNGKey, num_chains: int) -> Key[Array, " chains"]:
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num_chains))


def _log_mean(log_w: Float[Array, " chains"], acceptance: Float[Array, " chains"]) -> Annealed:
    log_sum = jax.nn.logsumexp(log_w)
    return Annealed(
        log_likelihood=log_sum - jnp.log(len(log_w)),
        effective_samples=jnp.exp(2 * log_sum - jax.nn.logsumexp(2 * log_w)),
        acceptance=jnp.mean(acceptance),
    )


def _check(num_chains: int, num_temperatures: int, num_leapfrog: int, step_size: float) -> None:
    if num_chains < 1:
        raise ValueError(f"num_chains {num_chains}: at least 1 is needed")
    if num_temperatures < 2:
        raise ValueError(f"num_temperatures {num_temperatures}: at least 2 are needed")
    if num_leapfrog < 1:
        raise ValueError(f"num_leapfrog {num_leapfrog}: at least 1 is needed")
    if not 0 < step_size < float("inf"):
        raise ValueError(f"step_size {step_size}: a positive finite number is needed")
