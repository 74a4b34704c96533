"""From HU to 8-bit slices: windows against exact arithmetic, and where each voxel goes."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clotseg.config import SliceConfig
from clotseg.prep.cases import Case
from clotseg.prep.slices import mask_slices, window_to_uint8, windowed_slices

WINDOWS = [(-50, 450), (0, 100), (-100, 300), (5, 105), (-1024, 3071)]
EVERY_INT16 = np.arange(-(2**15), 2**15).astype(np.int16)


def exact(hu, low, high):
    """255 · (hu − low) / (high − low) as a fraction, between 0 and 255."""
    scaled = (Fraction(hu) - Fraction(low)) * 255 / (Fraction(high) - Fraction(low))
    return min(max(scaled, Fraction(0)), Fraction(255))


@pytest.mark.parametrize("window", WINDOWS)
def test_every_16_bit_hu_is_rounded_half_to_even_and_never_wraps(window):
    (low, high), hu = window, EVERY_INT16
    expected = np.where(hu < low, 0, 255)
    expected[(hu >= low) & (hu <= high)] = [
        round(exact(inside, low, high)) for inside in range(low, high + 1)
    ]
    windowed = window_to_uint8(hu, window)
    assert windowed.dtype == np.uint8
    np.testing.assert_array_equal(windowed, expected)


@st.composite
def windows(draw):
    """A low and a high end in HU."""
    ends = st.floats(-5000, 5000).map(lambda value: round(value, 3))
    low, high = sorted(draw(st.lists(ends, min_size=2, max_size=2, unique=True)))
    return low, high


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64]),
        (8,),
        elements={"allow_nan": False, "allow_infinity": False},
    ),
    windows(),
)
def test_any_finite_hu_is_within_half_a_grey_level_of_the_exact_value(hu, window):
    for value, grey in zip(hu, window_to_uint8(hu, window), strict=True):
        assert abs(int(grey) - exact(float(value), *window)) <= Fraction(1, 2) + Fraction(1, 10**6)


@given(windows())
def test_the_ends_of_a_window_are_black_and_white_and_beyond_them_nothing_changes(window):
    low, high = window
    hu = np.array(
        [low, np.nextafter(low, -np.inf), -1e4, -1.7e308, high, np.nextafter(high, np.inf), 1e4, 1.7e308]
    )
    assert window_to_uint8(hu, window).tolist() == [0, 0, 0, 0, 255, 255, 255, 255]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64])
def test_the_extremes_of_every_integer_type_saturate(dtype):
    limits = np.iinfo(dtype)
    hu = np.array([limits.min, 50, limits.max], dtype)
    assert window_to_uint8(hu, (0.0, 100.0)).tolist() == [0, 128, 255]


@pytest.fixture
def case(tmp_path):
    """A case in which CTA, NCCT and mask tell row, column and slice apart."""
    row, column, number = np.meshgrid(np.arange(3), np.arange(4), np.arange(5), indexing="ij")
    volumes = {
        "cta": (100 * row + 10 * column + number).astype(np.int16),
        "ncct": (20 * row + 5 * column + number).astype(np.float32),
        "mask": ((row == 1) & (column == 2) & (number == 3)).astype(np.uint8),
    }
    files = {}
    for kind, volume in volumes.items():
        files[kind] = tmp_path / f"{kind}.npy"
        np.save(files[kind], volume)
    return Case(name="a", patient="a", site="", spacing_mm=None, **files)


def test_slices_are_slice_row_column_and_channel_with_cta_before_ncct(case):
    config = SliceConfig(cta_window_hu=(0.0, 255.0), ncct_window_hu=(0.0, 127.5))
    slices = windowed_slices(case, config)
    assert (slices.shape, slices.dtype) == ((5, 3, 4, 2), np.uint8)
    for number, row, column in np.ndindex(5, 3, 4):
        cta, ncct = 100 * row + 10 * column + number, 2 * (20 * row + 5 * column + number)
        assert slices[number, row, column].tolist() == [min(cta, 255), ncct]


def test_each_volume_has_its_own_window(case):
    wide = windowed_slices(case, SliceConfig())
    narrow = windowed_slices(case, SliceConfig(ncct_window_hu=(0.0, 40.0)))
    np.testing.assert_array_equal(wide[..., 0], narrow[..., 0])
    assert (wide[..., 1] != narrow[..., 1]).any()


def test_masks_are_slice_row_and_column(case):
    masks = mask_slices(case)
    assert (masks.shape, masks.dtype) == ((5, 3, 4), np.uint8)
    assert np.argwhere(masks).tolist() == [[3, 1, 2]]


def test_slices_lie_in_memory_as_records_hold_them(case):
    for array in (windowed_slices(case, SliceConfig()), mask_slices(case)):
        assert array.flags.c_contiguous
