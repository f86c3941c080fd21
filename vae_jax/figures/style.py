"""What every figure shares: colours, fonts, and how it is saved."""

import io
import os
import re
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

DPI = 200
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#B4B4B4"  # Okabe and Ito, and a neutral
# Paul Tol's "muted" scheme and black: under simulated protanopia, deuteranopia and tritanopia
# the nearest two stay 16 units of CIELAB apart (5 to 15 in Matplotlib's default cycle).
CLASS_COLORS = (
    "#CC6677",
    "#332288",
    "#DDCC77",
    "#117733",
    "#88CCEE",
    "#882255",
    "#44AA99",
    "#999933",
    "#AA4499",
    "#000000",
)
_STYLE = {
    "font.size": 8,
    "figure.titlesize": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "grid.color": "0.9",
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
}
styled = matplotlib.style.context(["default", _STYLE])
_NO_GLYPH = r"Glyph (\d+) .* missing from font"  # as Matplotlib says it, for each sign
_SAID: set[str] = set()  # signs that a warning has named


@styled
def save(figure: Figure, path: str | os.PathLike[str], /, **arrays: np.ndarray) -> None:
    """Write a figure as PNG and the arrays behind it as `.npz` beside it.

    Both files are replaced atomically, and neither holds a date or a version: the same arrays
    give the same bytes.

    Args:
        figure: the figure.
        path: where to, ending in `.png`; folders are made as needed.
        **arrays: the arrays behind the figure, under the names to store them by.

    Raises:
        ValueError: if the path does not end in `.png`, or an array holds Python objects.
    """
    path = Path(path)
    if path.suffix != ".png":
        raise ValueError(f"{path}: a name that ends in .png is needed")
    raw, png, npz = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", _NO_GLYPH)
        figure.savefig(raw, format="png", dpi=DPI)
    _warn_of_glyphs(caught)
    # Written anew, Matplotlib's note of its own version is gone from the file.
    image = Image.open(raw).convert("RGB")
    pictures = [np.asarray(shown.get_array()) for axes in figure.axes for shown in axes.images]
    if not any(picture.ndim == 3 for picture in pictures):
        # 256 colours make a third of the bytes: exact on grey, unseen on lines and points.
        image = image.quantize(256, Image.Quantize.MEDIANCUT, kmeans=1, dither=Image.Dither.NONE)
    image.save(png, format="png", optimize=True, dpi=(DPI, DPI))
    np.savez_compressed(npz, allow_pickle=False, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    for target, content in ((path.with_suffix(".npz"), npz), (path, png)):
        temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(content.getvalue())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def _warn_of_glyphs(caught: Sequence[warnings.WarningMessage]) -> None:
    """Say once which signs are not in the font, and everything else as it was said."""
    missing = set()
    for one in caught:
        glyph = re.match(_NO_GLYPH, str(one.message))
        if glyph is None:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        else:
            missing.add(chr(int(glyph[1])))
    if new := missing - _SAID:
        _SAID.update(new)
        words = f"boxes stand for what Matplotlib's font has no sign of: {''.join(sorted(new))}"
        warnings.warn(words, stacklevel=4)  # `styled` is in between


def chart_figure(width: float, height: float, title: str) -> Figure:
    """A figure of a size in inches with its title at the left."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(wrapped(title, width), x=0.005, ha="left")
    return figure


def wrapped(title: str, inches: float) -> str:
    """A title in as many lines as a width takes."""
    return textwrap.fill(title, max(12, int(12.5 * inches)))
