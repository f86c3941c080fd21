import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vae_jax.preprocess import BINARIZE

PIXELS = jnp.array([0, 127, 128, 255], jnp.uint8)


def test_pixels_become_intensities_or_bits(key):
    np.testing.assert_allclose(BINARIZE["none"](key, PIXELS), [0, 127 / 255, 128 / 255, 1])
    np.testing.assert_array_equal(BINARIZE["threshold"](key, PIXELS), [0, 0, 1, 1])
    bits = BINARIZE["dynamic"](key, jnp.repeat(PIXELS[1:2], 10_000))
    assert set(np.unique(bits)) == {0, 1}
    # Four standard errors of 10,000 bits.
    assert float(bits.mean()) == pytest.approx(127 / 255, abs=4 * 0.5 / 100)
    again = BINARIZE["dynamic"](jax.random.key(1), jnp.repeat(PIXELS[1:2], 10_000))
    assert not jnp.array_equal(bits, again)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.uint16, jnp.int32])
@pytest.mark.parametrize("binarize", BINARIZE)
def test_what_may_be_x_already_is_not_divided_by_255(binarize, dtype, key):
    with pytest.raises(TypeError, match="uint8 is needed, 0 to 255; what is x already goes"):
        BINARIZE[binarize](key, PIXELS.astype(dtype))
