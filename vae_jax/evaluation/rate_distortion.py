"""Rate and distortion along a setting that is swept, and which settings are worth having."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float


class RateDistortion(NamedTuple):
    """Where the settings of a sweep lie, in rising order of their value.

    Attributes:
        values: of the setting.
        rates: KL(q(z | x) || p(z)) of each repetition, averaged over the data, nats.
        distortions: -E log p(x | z) of each, likewise.
        rate: mean over the repetitions; NaN where none is finite.
        distortion: likewise.
        rate_error: standard error of that mean; NaN for under two repetitions.
        distortion_error: likewise.
        best_from: the least beta, 0 or more, for which distortion + beta rate is smallest at this
            setting, of all settings; NaN where there is none.
        best_to: the largest one.
    """

    values: Float[np.ndarray, " settings"]
    rates: Float[np.ndarray, "settings repeats"]
    distortions: Float[np.ndarray, "settings repeats"]
    rate: Float[np.ndarray, " settings"]
    distortion: Float[np.ndarray, " settings"]
    rate_error: Float[np.ndarray, " settings"]
    distortion_error: Float[np.ndarray, " settings"]
    best_from: Float[np.ndarray, " settings"]
    best_to: Float[np.ndarray, " settings"]

    @property
    def on_hull(self) -> Bool[np.ndarray, " settings"]:
        """Whether the mean lies on the lower convex hull: the best one for some beta."""
        return np.isfinite(self.best_from)


def rate_distortion(
    values: Float[np.ndarray, " settings"],
    rates: Float[np.ndarray, "settings repeats"],
    log_liks: Float[np.ndarray, "settings repeats"],
) -> RateDistortion:
    """Order the models of a sweep along its setting, in the rate-distortion plane.

    R = E KL(q(z | x) || p(z)),  D = -E log p(x | z),  -ELBO = D + R

    A setting is on the lower convex hull if for some beta >= 0 no other setting of the sweep has
    a smaller D + beta R. The betas for which that is so are an interval, [best_from, best_to]:
    from the largest slope (D_i - D_j) / (R_j - R_i) to a setting j with a higher rate to the
    smallest one (D_j - D_i) / (R_i - R_j) to one with a lower rate. That of 1 has the best ELBO.
    Models that were trained well with beta have it in their interval, up to noise.

    Args:
        values: of the setting, `beta`, in any order.
        rates: the KL of each model, nats per example; one that diverged or is missing is NaN.
        log_liks: E_q log p(x | z) of each.

    Returns:
        The curve.

    Raises:
        ValueError: if shapes disagree, or a value is not finite or is given twice.

    Example:
        >>> found = rate_distortion(
        ...     np.array([4.0, 1.0, 2.0]),
        ...     np.array([[1.0, 3.0], [10.0, 10.0], [6.0, 6.0]]),
        ...     np.array([[-100.0, -100.0], [-80.0, -80.0], [-95.0, -95.0]]),
        ... )
        >>> found.rate.tolist(), found.rate_error.tolist()
        ([10.0, 6.0, 2.0], [0.0, 0.0, 1.0])
        >>> found.on_hull.tolist(), found.best_to.tolist()
        ([True, False, True], [2.5, nan, inf])

    Reference:
        Alemi et al., Fixing a broken ELBO (arXiv 1711.00464), section 2.
    """
    shapes = np.shape(values), np.shape(rates), np.shape(log_liks)
    if len(shapes[1]) != 2 or shapes[1] != shapes[2] or shapes[0] != shapes[1][:1]:
        raise ValueError(f"values {shapes[0]}, rates {shapes[1]}, log-likelihoods {shapes[2]}")
    if not np.isfinite(values).all() or len(np.unique(values)) < len(values):
        raise ValueError(f"values {values.tolist()}: finite and different ones are needed")
    order = np.argsort(values)
    finite = np.isfinite(rates) & np.isfinite(log_liks)
    rates, distortions = (
        np.where(finite, numbers, np.nan).astype(np.float64)[order]
        for numbers in (rates, -log_liks)
    )
    (rate, rate_error), (distortion, distortion_error) = map(_mean_and_error, (rates, distortions))
    best = [_best_for(rate, distortion, own) for own in range(len(rate))]
    best_from, best_to = np.array(best, np.float64).reshape(-1, 2).T
    return RateDistortion(
        values=np.asarray(values, np.float64)[order],
        rates=rates,
        distortions=distortions,
        rate=rate,
        distortion=distortion,
        rate_error=rate_error,
        distortion_error=distortion_error,
        best_from=best_from,
        best_to=best_to,
    )


def _mean_and_error(
    numbers: Float[np.ndarray, "settings repeats"],
) -> tuple[Float[np.ndarray, " settings"], Float[np.ndarray, " settings"]]:
    """Over what is finite; NaN where it is none, or too few for an error."""
    count = np.isfinite(numbers).sum(axis=1)
    mean = np.nansum(numbers, axis=1) / np.where(count, count, np.nan)
    squares = np.nansum((numbers - mean[:, None]) ** 2, axis=1)
    error = np.sqrt(squares / np.where(count > 1, (count - 1) * count, np.nan))
    return mean, error


def _best_for(
    rate: Float[np.ndarray, " settings"], distortion: Float[np.ndarray, " settings"], own: int
) -> tuple[float, float]:
    """The betas for which no other setting costs less; two NaN if there are none."""
    least, most = 0.0, np.inf
    if not np.isfinite(rate[own]):
        return np.nan, np.nan
    for other in np.flatnonzero(np.isfinite(rate)):
        more_rate = rate[other] - rate[own]
        more_distortion = distortion[other] - distortion[own]
        if more_rate > 0:
            least = max(least, -more_distortion / more_rate)
        elif more_rate < 0:
            most = min(most, more_distortion / -more_rate)
        elif more_distortion < 0:  # the same rate, and worse
            most = -np.inf
    return (float(least), float(most)) if least <= most else (np.nan, np.nan)
