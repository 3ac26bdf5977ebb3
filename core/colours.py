"""The main colours of a picture by name, counted from its pixels."""

import numpy as np
from PIL import Image

SAMPLE_PX = 64  # longest side of the copy that is counted
FEWEST = 0.12  # share of the picture from which a colour is named
MOST_NAMED = 3
# Hue in degrees up to which a name holds; red closes the circle.
HUES = (
    (15, "red"),
    (42, "orange"),
    (68, "yellow"),
    (165, "green"),
    (195, "turquoise"),
    (255, "blue"),
    (290, "purple"),
    (345, "pink"),
    (360, "red"),
)


def main_colours(picture: Image.Image) -> tuple[str, ...]:
    """Up to three colour names, the one that covers most first; empty where none stands out."""
    small = picture.convert("RGB")
    small.thumbnail((SAMPLE_PX, SAMPLE_PX))
    names, counts = np.unique(_name_pixels(small), return_counts=True)
    shares = counts / counts.sum()
    ranked = sorted(zip(shares, names, strict=True), key=lambda entry: (-entry[0], entry[1]))
    return tuple(str(name) for share, name in ranked[:MOST_NAMED] if share >= FEWEST)


def _name_pixels(picture: Image.Image) -> np.ndarray:
    """One name per pixel, by hue where there is one, by lightness where there is none."""
    hsv = np.asarray(picture.convert("HSV"), dtype=np.float32).reshape(-1, 3) / 255
    hue, saturation, value = hsv[:, 0] * 360, hsv[:, 1], hsv[:, 2]
    limits = np.array([limit for limit, _ in HUES])
    names = np.array([name for _, name in HUES])[np.searchsorted(limits, hue.clip(0, 359.9))]
    is_warm = (names == "orange") | (names == "red")
    # Wood and fur are dark or pale where an orange flower is bright and strong.
    names[(names == "orange") & ((value < 0.8) | (saturation < 0.4))] = "brown"
    names[(names == "turquoise") & (value < 0.5)] = "green"  # leaves in the shade
    names[(names == "red") & (saturation < 0.45) & (value > 0.7)] = "pink"
    names[is_warm & (saturation < 0.3) & (value > 0.6)] = "beige"
    is_grey = saturation < 0.14
    names[is_grey] = "grey"
    names[is_grey & (value > 0.82)] = "white"
    names[value < 0.2] = "black"
    return names
