"""Settings: what is in force, and what is refused."""

import dataclasses
import tomllib

import pytest

from clotseg.config import AugmentConfig, Config, load_config, plain, to_toml
from clotseg.errors import ConfigError


@pytest.fixture
def toml(tmp_path):
    """Writes a `clotseg.toml` and gives its path."""

    def write(text):
        file = tmp_path / "clotseg.toml"
        file.write_text(text, encoding="utf-8")
        return file

    return write


def refused(file, flags=None):
    """The error that these settings raise."""
    with pytest.raises(ConfigError) as caught:
        load_config(file, flags)
    return caught.value


@pytest.mark.parametrize(
    ("settings", "flips"),
    [
        ({"vertical_flip": 0}, ("horizontal", "vertical")),
        ({"selection": "independent"}, ("horizontal", "vertical")),
        ({"selection": "independent", "vertical_flip": 0}, ("horizontal",)),
        ({"selection": "independent", "horizontal_flip": 0}, ("vertical",)),
        ({"selection": "independent", "horizontal_flip": 0, "vertical_flip": 0}, ()),
        ({"probability": 0}, ()),
    ],
    ids=str,
)
def test_flips_are_those_that_can_be_drawn(settings, flips):
    """The key of eight switches a flip whatever its own probability."""
    assert AugmentConfig(**settings).flips == flips


def test_without_a_file_the_default_settings_are_in_force(tmp_path):
    config = load_config(tmp_path / "clotseg.toml")
    assert (config.split.train_perc, config.split.val_perc, config.split.seed) == (0.6, 0.2, 1)
    assert (config.slice.cta_window_hu, config.slice.ncct_window_hu) == ((-50, 450), (0, 100))
    assert config.feed.size == config.network.filters == config.network.depth == "auto"
    assert (config.augment.probability, config.augment.brightness_limit) == (0.8, (-0.1, 0.1))
    assert config.train.batch_size == config.train.epochs == "auto"
    assert (config.network.dropout, config.train.learning_rate) == (0.1, 2e-3)
    assert config.train.dice_smooth == 1
    assert config.test.threshold == config.test.smallest_component == "auto"


def test_the_file_overrides_defaults_and_flags_override_the_file(toml):
    file = toml("[train]\nepochs = 7\nbatch_size = 4\n")
    config = load_config(file, {"train.epochs": 3, "split.seed": 9})
    assert (config.train.epochs, config.train.batch_size, config.split.seed) == (3, 4, 9)
    assert config.train.learning_rate == 2e-3


def test_a_flag_that_was_not_given_leaves_the_file_in_force(toml):
    assert load_config(toml("[train]\nepochs = 7\n"), {"train.epochs": None}).train.epochs == 7


def test_numbers_typed_on_the_command_line_become_numbers(tmp_path):
    config = load_config(tmp_path / "absent.toml", {"feed.size": "512", "train.train_samples": "all"})
    assert (config.feed.size, config.train.train_samples) == (512, "all")


@pytest.mark.parametrize(
    ("text", "unknown", "nearest"),
    [
        ("[train]\nepoch = 3\n", "train.epoch", "train.epochs"),
        ("[trian]\nepochs = 3\n", "trian", "train"),
        ("[slice]\ncta_window = [0, 1]\n", "slice.cta_window", "slice.cta_window_hu"),
    ],
)
def test_an_unknown_setting_is_refused_and_the_nearest_is_named(toml, text, unknown, nearest):
    message = str(refused(toml(text)))
    assert f"`{unknown}`" in message
    assert f"did you mean `{nearest}`?" in message
    assert "clotseg.toml" in message


def test_a_setting_like_no_other_is_answered_with_those_there_are(toml):
    message = str(refused(toml("[split]\nzzz = 1\n")))
    assert "train_perc, val_perc, seed" in message


def test_a_section_given_as_a_value_is_refused(toml):
    assert "[train]" in str(refused(toml("train = 3\n")))


def test_all_bad_values_are_listed_at_once_a_line_each(toml):
    error = refused(toml("[train]\nepochs = 0\nbatch_size = 'many'\n[feed]\nsize = -1\n"))
    assert len(error.details) == 3
    for place in ("train.epochs = 0", "train.batch_size = 'many'", "feed.size = -1"):
        assert any(detail.startswith(place) for detail in error.details), place


@pytest.mark.parametrize("name", ["train_perc", "val_perc"])
@pytest.mark.parametrize("value", ["0", "1", "-0.1", "1.5", "nan", "inf"])
def test_a_cohort_share_lies_strictly_between_nothing_and_everything(toml, name, value):
    assert f"split.{name}" in str(refused(toml(f"[split]\n{name} = {value}\n")))


@pytest.mark.parametrize(("train", "validate"), [(0.6, 0.4), (0.9, 0.1), (0.8, 0.7)])
def test_shares_that_leave_no_test_cohort_are_refused(tmp_path, train, validate):
    error = refused(tmp_path / "none", {"split.train_perc": train, "split.val_perc": validate})
    assert "test cohort" in str(error)


@pytest.mark.parametrize("windows", ["[[0, 600]]", "[[-60, 20]]", "[[0, 200], [50, 50]]", "[[80, 30]]"])
def test_further_windows_rise_and_lie_within_that_of_the_slices(toml, windows):
    assert "network.cta_windows_hu" in str(refused(toml(f"[network]\ncta_windows_hu = {windows}\n")))
    wide = load_config(toml("[slice]\ncta_window_hu = [-60, 600]\n[network]\ncta_windows_hu = [[0, 600]]\n"))
    assert wide.network.cta_windows_hu == ((0, 600),)


@pytest.mark.parametrize("window", ["cta_window_hu", "ncct_window_hu"])
@pytest.mark.parametrize("limits", ["[100, 100]", "[100, 0]", "[-inf, 0]", "[0, inf]", "[nan, 5]", "[0]"])
def test_a_window_must_rise_from_one_number_to_another(toml, window, limits):
    assert f"slice.{window}" in str(refused(toml(f"[slice]\n{window} = {limits}\n")))


@pytest.mark.parametrize(
    ("limits", "setting"),
    [
        ("gamma_limit = [0.0, 1.2]", "augment.gamma_limit"),
        ("gamma_limit = [1.2, 0.8]", "augment.gamma_limit"),
        ("brightness_limit = [0.2, -0.2]", "augment.brightness_limit"),
        ("contrast_limit = [0.2, -0.2]", "augment.contrast_limit"),
        ("contrast_limit = [0.2, inf]", "augment.contrast_limit"),
        ("clahe_limit = [0.0, 4.0]", "augment.clahe_limit"),
        ("clahe_limit = [4.0, 1.0]", "augment.clahe_limit"),
        ("scale_limit = [0.0, 1.1]", "augment.scale_limit"),
        ("elastic_period_pixels = [0.0, 9.0]", "augment.elastic_period_pixels"),
        ("noise_gaussian_sd = [4.0, 3.0]", "augment.noise_gaussian_sd"),
        ("noise_poisson_factor = [0.0, 1.0]", "augment.noise_poisson_factor"),
        ("rotation_degrees = [5, -5]", "augment.rotation_degrees"),
        ("shift_pixels = [5, -5]", "augment.shift_pixels"),
        ('selection = "key9"', "augment.selection"),
    ],
)
def test_limits_of_an_augmentation_must_make_sense(toml, limits, setting):
    assert setting in str(refused(toml(f"[augment]\n{limits}\n")))


def test_limits_may_be_one_value(toml):
    assert load_config(toml("[augment]\ngamma_limit = [1.0, 1.0]\n")).augment.gamma_limit == (1, 1)


@pytest.mark.parametrize(
    ("size", "depth", "fits"), [(96, 5, True), (96, 6, False), (252, 2, True), (10, 2, False)]
)
def test_the_slice_must_halve_as_often_as_the_network_does(tmp_path, size, depth, fits):
    flags = {"feed.size": size, "network.depth": depth}
    if fits:
        assert load_config(tmp_path / "none", flags).feed.size == size
    else:
        assert f"multiple of {2**depth}" in str(refused(tmp_path / "none", flags))


def test_a_batch_that_replicas_cannot_share_names_those_that_they_can(tmp_path):
    error = refused(tmp_path / "none", {"train.batch_size": 20, "runtime.replicas": 3})
    assert "18 or 21" in str(error)


def test_all_settings_that_do_not_go_together_are_listed_at_once(toml):
    error = refused(
        toml(
            "[split]\ntrain_perc = 0.9\n[slice]\nncct_window_hu = [9, 1]\n"
            "[feed]\nsize = 100\n[network]\ndepth = 4\n"
        ),
        {"train.batch_size": 3, "runtime.replicas": 2},
    )
    assert len(error.details) == 4


@pytest.mark.parametrize("content", [b"[train\n", b"\xff\xfe", b"[train]\nepochs = 1\nepochs = 2\n"])
def test_a_file_that_is_not_toml_is_named(tmp_path, content):
    file = tmp_path / "clotseg.toml"
    file.write_bytes(content)
    assert str(file) in str(refused(file))


def test_printed_settings_are_a_file_that_gives_the_same_settings(toml, tmp_path):
    flags = {"train.learning_rate": 1e-5, "feed.size": "auto", "split.train_perc": 0.55, "train.seed": 7}
    flags |= {"slice.cta_window_hu": [-100.5, 300.0], "runtime.gpus": 2, "train.train_samples": 10_000}
    config = load_config(tmp_path / "none", flags)
    text = to_toml(config)
    assert load_config(toml(text)) == config
    assert tomllib.loads(text) == plain(config)
    assert tomllib.loads(text)["slice"]["cta_window_hu"] == [-100.5, 300.0]


def test_settings_cannot_be_changed_once_they_are_checked():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.epochs = 5


def test_only_a_configuration_can_be_made_plain():
    for value in ({"split": 1}, Config):
        with pytest.raises(TypeError):
            plain(value)


@pytest.mark.parametrize(
    "text",
    ["[train]\nepochs = true\n", "[slice]\ncta_window_hu = [false, 5]\n", "[runtime]\nworkers = true\n"],
)
def test_true_and_false_are_no_numbers(toml, text):
    error = refused(toml(text))
    assert text.split()[1] in error.details[0]
    assert "true and false are no numbers" in error.details[0]


def test_a_bad_flag_is_not_blamed_on_the_file_nor_the_other_way_round(toml):
    file = toml("[train]\nbatch_size = 4\n")
    assert refused(file, {"train.epochs": 0}).where == "command line"
    bad = toml("[train]\nbatch_size = 0\n")
    assert refused(bad, {"train.epochs": 3}).where == bad


@pytest.mark.parametrize(
    "flags",
    [
        {"split.folds": 1},
        {"split.folds": 3, "split.fold": 4},
        {"split.fold": 2},
        {"split.file": "split.json", "split.folds": 3},
        {"split.file": "split.json", "split.stratify": ["site"]},
        {"split.stratify": ["site", "site"]},
    ],
)
def test_folds_strata_and_a_split_file_must_make_sense_together(tmp_path, flags):
    assert "split." in str(refused(tmp_path / "none", flags))


def test_folds_need_no_share_to_train_on(tmp_path):
    flags = {"split.folds": 4, "split.fold": 4, "split.train_perc": 0.9, "split.val_perc": 0.2}
    assert load_config(tmp_path / "none", flags).split.fold == 4
