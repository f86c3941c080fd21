"""Sprites: squares, ellipses and hearts over the factor grid of dSprites, drawn on the device.

No file is read and none is downloaded: an image is a pure function of its factors, so a
training step can draw its own batch, and the factors behind every image are known to the
measures of disentanglement. The grid and its order are those of dSprites; the pixels are not,
so numbers measured here are not to be compared with numbers measured there.

Reference:
    Matthey, Higgins, Hassabis and Lerchner, dSprites: Disentanglement testing Sprites dataset
    (2017), https://github.com/google-deepmind/dsprites-dataset.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

FACTORS: dict[str, int] = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
"""Each factor and how many values it takes, in the order of dSprites.

The colour of dSprites, which is always white, is left out. Value k of a factor stands for

- shape: square, ellipse, heart;
- scale: linear from 0.5 to 1;
- orientation: linear from 0 to 2 pi, counter-clockwise. As in dSprites both ends are in it, so
  the first and the last value give the same image, and the step is 2 pi / 39. A square looks the
  same after a quarter of a turn and an ellipse after a half; neither is a whole number of steps,
  so their images nearly repeat along the grid, and some do: a square has 30 to 37 images at a
  scale, an ellipse 38 or 39, a heart always 39;
- x: linear from 0 on the left to 1 on the right, one pixel a step;
- y: linear from 0 at the top to 1 at the bottom, one pixel a step.
"""

num_images: int = math.prod(FACTORS.values())
"""How many combinations of the factors there are: 737,280."""

_SIZES = np.array(list(FACTORS.values()), np.int32)
_STRIDES = num_images // np.cumprod(_SIZES)

_SIDE = 64
# The first and the last centre, 16 and 47, lie as far from one border as from the other.
_FIRST_CENTRE = 16
# Half the side of the square at scale 1. The half side is a whole number of pixels at no scale,
# which would put edges on pixel centres, and no orientation brings an edge within 5e-6 of its
# size of one: float32 decides every pixel as real numbers do, on every device.
_HALF_SIDES = np.linspace(5.25, 10.5, FACTORS["scale"], dtype=np.float32)
# Tables, because devices differ in the last bit of a cosine.
_ANGLES = np.linspace(0, 2 * np.pi, FACTORS["orientation"])
_COSINES = np.cos(_ANGLES).astype(np.float32)
_SINES = np.sin(_ANGLES).astype(np.float32)

_SQUARE_AREA = 4.0
_ASPECT = 1.5
_MINOR = math.sqrt(_SQUARE_AREA / (math.pi * _ASPECT))
# Of the curve (p^2 + q^2 - 1)^3 = p^2 q^3; integrated numerically, because neither is elementary.
_HEART_AREA = 3.661972725818
_HEART_CENTROID = 0.293481227280
_HEART_UNIT = math.sqrt(_HEART_AREA / _SQUARE_AREA)


def factors_of(index: Int[Array, ""] | int) -> Int[Array, " factor"]:
    """The factors of an image from its place in dSprites: digits in mixed radix, y fastest.

    Args:
        index: 0 to `num_images` - 1. It is not checked, because it may be traced.

    Returns:
        One value for each of `FACTORS`.

    Example:
        >>> factors_of(33).tolist()
        [0, 0, 0, 1, 1]
        >>> factors_of(num_images - 1).tolist()
        [2, 5, 39, 31, 31]
    """
    return index // jnp.asarray(_STRIDES) % jnp.asarray(_SIZES)


def index_of(factors: Int[Array, " factor"]) -> Int[Array, ""]:
    """The place of an image in dSprites: the inverse of `factors_of`.

    Args:
        factors: one value for each of `FACTORS`. The values are not checked, because they may
            be traced.

    Returns:
        0 to `num_images` - 1.

    Raises:
        ValueError: if there is not one value for each factor.

    Example:
        >>> int(index_of(jnp.array([1, 0, 0, 0, 2])))
        245762
    """
    _check(factors)
    return jnp.sum(factors * jnp.asarray(_STRIDES))


def render(factors: Int[Array, " factor"]) -> UInt8[Array, "64 64 1"]:
    """Draw one image.

    A pixel is 255 where its centre lies in the shape, and 0 elsewhere. With (u, v) that centre
    as the shape sees it, moved, turned and divided by half the side of the square, the shape is

    - square: max(|u|, |v|) <= 1;
    - ellipse: (u / a)^2 + (v / b)^2 <= 1, with a = 1.5 b;
    - heart: (p^2 + q^2 - 1)^3 <= p^2 q^3, with (p, q) = (c u, c v + d), point down at
      orientation 0.

    a, b and c give all three the area of the square, (21 scale)^2 pixels before they are
    counted; d moves the centroid of the heart to its position. No shape reaches the border, and
    one step of x or y moves the image by exactly one pixel.

    Args:
        factors: one value for each of `FACTORS`, from 0. The values are not checked, because
            they may be traced: what is drawn for one outside its range is not defined.

    Returns:
        0 or 255, so that the functions of `vae_jax.preprocess` apply; `binarize_threshold` and
        `intensities` give the same bits.

    Raises:
        ValueError: if there is not one value for each factor.

    Example:
        >>> image = render(jnp.array([0, 5, 0, 0, 31]))  # 21 x 21, in the lower left corner
        >>> int(jnp.sum(image == 255)), image[37:58, 6:27].min().item()
        (441, 255)
    """
    _check(factors)
    shape, scale, orientation, x, y = factors.astype(jnp.int32)
    pixel = jnp.arange(_SIDE)
    right = (pixel - (_FIRST_CENTRE + x))[None, :]
    up = ((_FIRST_CENTRE + y) - pixel)[:, None]
    cos, sin = jnp.asarray(_COSINES)[orientation], jnp.asarray(_SINES)[orientation]
    half_side = jnp.asarray(_HALF_SIDES)[scale]
    u = (cos * right + sin * up) / half_side
    v = (cos * up - sin * right) / half_side
    inside = jax.lax.select_n(shape, _in_square(u, v), _in_ellipse(u, v), _in_heart(u, v))
    return jnp.where(inside, 255, 0).astype(jnp.uint8)[..., None]


def render_indices(indices: Int[Array, " n"]) -> UInt8[Array, "n 64 64 1"]:
    """Draw the images at some places of dSprites.

    Args:
        indices: each 0 to `num_images` - 1, as `factors_of` takes them.

    Returns:
        One image for each, as `render` draws it.

    Example:
        >>> images = jax.jit(render_indices)(jnp.array([0, num_images - 1]))
        >>> images.shape, images.dtype
        ((2, 64, 64, 1), dtype('uint8'))
    """
    return jax.vmap(lambda index: render(factors_of(index)))(indices)


def _in_square(u: Float[Array, "*p"], v: Float[Array, "*p"]) -> Bool[Array, "*p"]:
    return jnp.maximum(abs(u), abs(v)) <= 1


def _in_ellipse(u: Float[Array, "*p"], v: Float[Array, "*p"]) -> Bool[Array, "*p"]:
    return (u / (_ASPECT * _MINOR)) ** 2 + (v / _MINOR) ** 2 <= 1


def _in_heart(u: Float[Array, "*p"], v: Float[Array, "*p"]) -> Bool[Array, "*p"]:
    p, q = _HEART_UNIT * u, _HEART_UNIT * v + _HEART_CENTROID
    return (p**2 + q**2 - 1) ** 3 <= p**2 * q**3


def _check(factors: Int[Array, " factor"]) -> None:
    if factors.shape != (len(FACTORS),):
        names = ", ".join(FACTORS)
        raise ValueError(
            f"factors of shape {factors.shape}: one image has {len(FACTORS)} of them ({names}); "
            "use jax.vmap for several"
        )
