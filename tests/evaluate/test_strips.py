"""Slices of a case for the report: what is shown is what the volume holds, in no more bytes than allowed."""

import io

import numpy as np
import pytest
from PIL import Image

from clotseg.evaluate.strips import bytes_per_case, make_strip


def volumes(shape, *, clot_slices=range(0)):
    """Smooth volumes, brighter towards the last row; a clot of 8 × 8 pixels, predicted 4 pixels aside."""
    rows = np.linspace(0, 100, shape[0])[:, np.newaxis, np.newaxis] * np.ones(shape)
    truth = np.zeros(shape, np.uint8)
    for number in clot_slices:
        truth[8:16, 8:16, number] = 1
    return {
        "cta_hu": 4 * rows,
        "ncct_hu": rows,
        "truth": truth,
        "predicted": np.roll(truth, 4, axis=1),
        "case": "a",
        "spacing_mm": (0.8, 0.4, 1.0),
    }


def marks(strip):
    """The codes [slice, row, column] as a browser reads them."""
    codes = np.asarray(Image.open(io.BytesIO(strip.marks)))
    return codes.reshape(len(strip.slices), strip.rows, strip.columns)


def scan(strip):
    """The grey values [slice, row, CTA then NCCT, column]."""
    grey = np.asarray(Image.open(io.BytesIO(strip.scan)).convert("L"))
    return grey.reshape(len(strip.slices), strip.rows, 2, strip.columns)


def test_a_small_volume_is_shown_whole():
    given = volumes((40, 48, 12), clot_slices=(3, 4, 5))
    strip = make_strip(**given, most_bytes=10**6)
    assert strip.slices == tuple(range(12))
    expected = 85 * given["truth"] + 170 * given["predicted"]
    np.testing.assert_array_equal(marks(strip), np.moveaxis(expected, 2, 0))
    grey = scan(strip)
    assert np.abs(grey[6, :, 1, 20] - np.linspace(0, 255, 40)).max() < 6
    assert np.abs(grey[6, :, 0, 20] - (np.linspace(0, 400, 40) + 50) / 500 * 255).max() < 6
    assert strip.proportion == 2


def test_the_slice_with_most_true_clot_is_shown_first():
    given = volumes((40, 48, 12), clot_slices=(3, 4, 5))
    given["truth"][20:30, 20:30, 4] = 1
    strip = make_strip(**given, most_bytes=10**6)
    assert strip.slices[strip.shown_first] == 4
    assert {3, 4, 5} <= {strip.slices[place] for place in strip.thumbnails}
    assert make_strip(**volumes((40, 48, 12)), most_bytes=10**6).shown_first == 6


def test_of_a_large_volume_slices_with_clot_are_kept_and_no_clot_vanishes():
    strip = make_strip(**volumes((300, 288, 120), clot_slices=(50, 51, 52)), most_bytes=10**6)
    assert {50, 51, 52} <= set(strip.slices)
    assert len(strip.slices) < strip.slices_of_volume == 120
    assert strip.rows < 300
    for place, number in enumerate(strip.slices):
        assert np.any(marks(strip)[place] & 85) == (number in (50, 51, 52))
    assert np.diff(strip.slices).max() <= 10


@pytest.mark.parametrize("most_bytes", [120_000, 40_000, 12_000])
def test_a_strip_fits_the_bytes_it_was_given_whatever_the_noise(most_bytes):
    random = np.random.default_rng(1)
    shape = (96, 96, 24)
    noise = {
        "cta_hu": random.normal(200, 300, shape),
        "ncct_hu": random.normal(40, 40, shape),
        "truth": (random.random(shape) < 0.2).astype(np.uint8),
        "predicted": (random.random(shape) < 0.2).astype(np.uint8),
    }
    strip = make_strip(**noise, case="a", spacing_mm=None, most_bytes=most_bytes)
    assert len(strip.scan) + len(strip.marks) <= most_bytes
    assert len(strip.slices) >= 3


def test_a_report_of_any_number_of_cases_has_a_bound():
    assert all(n * bytes_per_case(n) * 4 / 3 < 12.1e6 for n in (1, 12, 50, 400))
