"""Sprites against shapes drawn in float64, and against what their factors promise."""

import functools
import itertools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vae_jax.preprocess import BINARIZE
from vae_jax.sprites import (
    FACTORS,
    factors_of,
    index_of,
    num_images,
    render,
    render_indices,
)

SIZES = tuple(FACTORS.values())
SQUARE, ELLIPSE, HEART = range(3)
SCALES = np.linspace(0.5, 1, 6)
TURN = 39  # steps of the orientation: both its ends are on the grid
grid_points = st.tuples(*(st.integers(0, size - 1) for size in SIZES))

draw = jax.jit(jax.vmap(render))


def images_of(factors) -> np.ndarray:
    """[n, 64, 64], of n rows of factors."""
    return np.asarray(draw(jnp.array(factors)))[..., 0]


def centred(
    shapes: Iterable[int] = range(3),
    scales: Iterable[int] = range(6),
    orientations: Iterable[int] = range(40),
) -> np.ndarray:
    """Images in the middle, [shapes, scales, orientations, 64, 64]."""
    axes = tuple(shapes), tuple(scales), tuple(orientations), (15,), (15,)
    images = images_of(list(itertools.product(*axes)))
    return images.reshape(*map(len, axes[:3]), 64, 64)


def shape_in_float64(shape: int, scale: float, angle: float, size: float = 1.0) -> np.ndarray:
    """What `centred` draws, from the area that the shapes share and nothing else.

    `size` multiplies every length.
    """
    right, up = np.meshgrid(np.arange(64.0) - 31, 31 - np.arange(64.0))
    point = (right + 1j * up) * np.exp(-1j * angle) / (10.5 * scale * size)
    u, v = point.real, point.imag
    if shape == SQUARE:
        return np.maximum(abs(u), abs(v)) <= 1
    if shape == ELLIPSE:
        minor = np.sqrt(4 / (1.5 * np.pi))
        return np.hypot(u / 1.5, v) <= minor
    area, centroid = heart_by_sums()
    p, q = u * np.sqrt(area / 4), v * np.sqrt(area / 4) + centroid
    # The cube root of both sides of the curve: another function of floats for the same heart.
    return p**2 + q**2 - 1 <= np.cbrt(p**2) * q


@functools.cache
def heart_by_sums() -> tuple[float, float]:
    """Its area and the height of its centroid, from the roots q of q^2 - |p|^(2/3) q = 1 - p^2."""
    half = np.linspace(-np.pi / 2, np.pi / 2, 200_001)
    # p = p_max sin^3 makes |p|^(2/3) smooth, and the square-root ends of the chord too.
    widest = largest_p()
    p = widest * np.sin(half) ** 3
    middle = np.cbrt(p**2) / 2
    chord = 2 * np.sqrt(np.maximum(middle**2 + 1 - p**2, 0))
    weight = 3 * widest * np.sin(half) ** 2 * np.cos(half)
    area = float(np.trapezoid(chord * weight, half))
    return area, float(np.trapezoid(middle * chord * weight, half)) / area


def largest_p() -> float:
    """Where the chord shrinks to nothing: s^4 / 4 + 1 = s^6 for s = |p|^(1/3)."""
    roots = np.roots([-1, 0, 0.25, 0, 0, 0, 1])
    (s,) = roots[(abs(roots.imag) < 1e-9) & (roots.real > 0)].real
    return s**3


# The grid


def test_the_grid_is_that_of_dsprites():
    assert list(FACTORS) == ["shape", "scale", "orientation", "x", "y"]
    assert SIZES == (3, 6, 40, 32, 32)
    assert num_images == np.prod(SIZES) == 737_280


def test_every_index_has_its_factors_in_row_major_order():
    indices = jnp.arange(num_images)
    factors = jax.jit(jax.vmap(factors_of))(indices)
    np.testing.assert_array_equal(
        factors, np.indices(SIZES, np.int32).reshape(len(SIZES), -1).T, "the last is fastest"
    )
    np.testing.assert_array_equal(jax.jit(jax.vmap(index_of))(factors), indices)


@given(grid_points)
def test_factors_and_index_round_trip(point):
    index = index_of(jnp.array(point))
    assert int(index) == np.ravel_multi_index(point, SIZES)
    assert tuple(factors_of(index).tolist()) == point
    assert tuple(factors_of(int(index)).tolist()) == point


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32"])
def test_small_integers_do_not_overflow(dtype):
    factors = jnp.array([2, 5, 39, 31, 31], dtype)
    assert int(index_of(factors)) == num_images - 1
    np.testing.assert_array_equal(render(factors), render(factors.astype("int32")))


# The images


def test_images_are_binary_whole_and_clear_of_the_border():
    rng = np.random.RandomState(0)
    sample = [tuple(row) for row in rng.randint(0, SIZES, (2000, 5))]
    # Every shape, size and angle in all four corners of its range, where a border is nearest.
    extreme = list(itertools.product(range(3), (0, 5), range(40), (0, 31), (0, 31)))
    images = images_of(sample + extreme)
    assert images.dtype == np.uint8
    assert images.shape == (2000 + 3 * 2 * 40 * 4, 64, 64)
    assert set(np.unique(images)) == {0, 255}
    area = (images == 255).sum((1, 2))
    # Sides of 10.5 to 21 pixels, of which counting pixels adds or takes half a one at each end.
    assert area.min() >= 9.5**2
    assert area.max() <= 22**2
    for border in (images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]):
        assert not border.any()


@pytest.mark.parametrize("shape", range(3))
def test_images_are_those_of_float64(shape):
    for orientation, angle in enumerate(np.linspace(0, 2 * np.pi, 40)):
        ours = centred([shape], range(6), [orientation])[0, :, 0]
        for image, scale in zip(ours, SCALES, strict=True):
            np.testing.assert_array_equal(image == 255, shape_in_float64(shape, scale, angle))


def test_no_pixel_stands_so_near_an_edge_that_rounding_decides_it():
    # Twenty times the error of the point in float32, which is some 2e-7 of the size.
    for shape, scale, angle in itertools.product(range(3), SCALES, np.linspace(0, 2 * np.pi, 40)):
        smaller, larger = (shape_in_float64(shape, scale, angle, 1 + e) for e in (-5e-6, 5e-6))
        np.testing.assert_array_equal(smaller, larger)


@given(grid_points, st.sampled_from([(3, 1), (4, 0)]))
def test_a_step_of_position_is_one_pixel(point, moved):
    factor, axis = moved
    steps = [(*point[:factor], k, *point[factor + 1 :]) for k in range(32)]
    images = images_of(steps)
    mass = (images == 255).sum(2 - axis)
    centroids = mass @ np.arange(64) / mass.sum(1)
    # The same image moved, so exactly linear; and it lies where the factor says, up to what
    # the counting of pixels shifts.
    np.testing.assert_allclose(np.diff(centroids), 1, rtol=1e-12)
    np.testing.assert_allclose(centroids, 16 + np.arange(32), atol=0.5)
    for k, image in enumerate(images):
        np.testing.assert_array_equal(image, np.roll(images[0], k, axis))


def test_the_other_position_and_the_orientation_leave_the_centroid():
    images = centred() == 255
    mass = images.sum((-2, -1))
    rows = (images.sum(-1) @ np.arange(64)) / mass
    columns = (images.sum(-2) @ np.arange(64)) / mass
    # A pixel counted or not at one edge moves the centroid by 1 / area of its distance: the
    # edge of the smallest shape, 11 pixels at a distance of 5.5 in an area of 110, by 0.55.
    assert abs(rows - 31).max() < 0.55
    assert abs(columns - 31).max() < 0.55


def test_the_shapes_have_one_area_which_grows_with_the_square_of_the_scale():
    area = (centred(orientations=range(TURN)) == 255).sum((-2, -1))
    exact = np.broadcast_to(((21 * SCALES) ** 2)[:, None], area.shape)
    # No count of pixels errs by more than half of those that the edge crosses.
    assert np.all(abs(area - exact) < 4 * 21 * SCALES[:, None] / 2)
    # Such a pixel errs with variance 1 / 12, and up to eight of them alike by symmetry; 39 angles,
    # no two of them alike to any shape, average it out.
    error = np.sqrt(8 * 4 * 21 * SCALES / 12 / TURN)
    assert np.all(abs(area.mean(-1) - exact[..., 0]) < 4 * error)


# Symmetries


def test_the_first_and_the_last_orientation_coincide():
    images = centred()
    np.testing.assert_array_equal(images[:, :, 0], images[:, :, TURN])


def test_turning_the_picture_turns_the_shape():
    """A quarter of a turn is no number of steps, but the pixels can be turned exactly."""
    images = centred()[:, :, :, :63, :63]  # the pixels around the centre at 31, 31
    quarter, half = np.rot90(images, 1, (-2, -1)), np.rot90(images, 2, (-2, -1))
    np.testing.assert_array_equal(images[SQUARE], quarter[SQUARE])
    np.testing.assert_array_equal(images[ELLIPSE], half[ELLIPSE])
    area = (images == 255).sum((-2, -1))
    # An ellipse and its quarter turn share a region of 4 a b atan(b / a): for a = 1.5 b, 75%
    # of each. The heart shares less than 95% of itself with either turn at any angle.
    for shape, turned, least in (
        (ELLIPSE, quarter, 0.3),
        (HEART, quarter, 0.1),
        (HEART, half, 0.1),
    ):
        changed = (images[shape] != turned[shape]).sum((-2, -1))
        assert np.all(changed > least * area[shape])


def test_along_the_grid_a_symmetric_shape_nearly_returns_and_the_heart_does_not():
    images = centred() == 255
    nearly_quarter, nearly_half = images[:, :, 10], images[:, :, 20]  # 92.3 and 184.6 degrees
    first = images[:, :, 0]
    changed_quarter = (first != nearly_quarter).sum((-2, -1))
    changed_half = (first != nearly_half).sum((-2, -1))
    area = first.sum((-2, -1))
    # Turned by e, an edge of length L moves by e L / 2 at its ends, e L^2 / 4 in all.
    assert np.all(changed_quarter[SQUARE] < 0.1 * area[SQUARE])
    assert np.all(changed_half[ELLIPSE] < 0.1 * area[ELLIPSE])
    assert np.all(changed_quarter[ELLIPSE] > 0.3 * area[ELLIPSE])
    assert np.all(changed_quarter[HEART] > 0.2 * area[HEART])
    assert np.all(changed_half[HEART] > 0.2 * area[HEART])


def test_how_many_images_the_orientations_give():
    counts = [[len({image.tobytes() for image in row}) for row in rows] for rows in centred()]
    assert (min(counts[SQUARE]), max(counts[SQUARE])) == (30, 37)
    assert set(counts[ELLIPSE]) == {38, 39}
    assert set(counts[HEART]) == {TURN}


def test_orientation_turns_counter_clockwise_and_the_heart_points_down():
    upright, quarter = centred([HEART], [5], [0, 10])[0, 0] == 255
    rows, columns = np.nonzero(upright)
    # Point down: the bottom row is narrower than the top rows, and the sides are mirrored.
    np.testing.assert_array_equal(upright[:, :63], upright[:, 62::-1])
    assert upright[rows.max()].sum() < upright[rows.min() + 3].sum()
    # A quarter of a turn counter-clockwise takes what is below to the right.
    rows, columns = np.nonzero(quarter)
    assert quarter[:, columns.max()].sum() < quarter[:, columns.min() + 3].sum()
    assert columns.max() - 31 > 31 - columns.min()


# Transforms


def test_one_by_one_equals_vmap():
    indices = jnp.array(np.random.RandomState(1).randint(0, num_images, 24))
    batch = render_indices(indices)
    assert batch.shape == (24, 64, 64, 1)
    compiled = jax.jit(render)
    for index, image in zip(indices, batch, strict=True):
        np.testing.assert_array_equal(render(factors_of(index)), image)
        np.testing.assert_array_equal(compiled(factors_of(index)), image)
    np.testing.assert_array_equal(jax.jit(render_indices)(indices), batch)


def test_other_factors_compile_nothing():
    traces = 0

    def counted(indices):
        nonlocal traces
        traces += 1
        return render_indices(indices)

    compiled = jax.jit(counted)
    first = compiled(jnp.arange(8))
    assert not jnp.array_equal(first, compiled(jnp.arange(8) + 500_000))
    np.testing.assert_array_equal(
        first, compiled(jnp.arange(8)), "the same factors, the same image"
    )
    assert traces == 1


def test_preprocessing_applies(key):
    image = render(factors_of(400_000))
    bits = (np.asarray(image) == 255).astype(np.float32)
    for preprocess in BINARIZE.values():
        np.testing.assert_array_equal(preprocess(key, image), bits)


@pytest.mark.parametrize("function", [render, index_of])
@pytest.mark.parametrize("count", [0, 4, 6])
def test_a_wrong_number_of_factors_is_one_clear_line(function, count):
    with pytest.raises(ValueError, match="one image has 5 of them") as caught:
        function(jnp.zeros(count, int))
    message = str(caught.value)
    assert f"({count},)" in message
    assert ", ".join(FACTORS) in message
    assert "\n" not in message
