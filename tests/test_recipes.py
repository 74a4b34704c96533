"""Recipes: settings to start from, which a project and flags can change."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from clotseg.config import (
    AugmentConfig,
    Config,
    FeedConfig,
    NetworkConfig,
    OfflineConfig,
    TestConfig,
    TrainConfig,
    load_config,
)
from clotseg.errors import ConfigError
from clotseg.recipes import recipe_names

NO_FILE = Path("nowhere/clotseg.toml")


def test_without_a_word_the_default_recipe_holds_and_its_file_says_what_it_is() -> None:
    config = load_config(NO_FILE)
    assert config == load_config(NO_FILE, {"train.recipe": "default"})
    assert config.train == TrainConfig()
    assert config.network == NetworkConfig(fold=2, norm="instance", cta_windows_hu="auto")
    changes = {"selection", "vertical_flip", "brightness_limit", "blur", "clahe", "noise_gaussian"}
    plain, chosen = asdict(AugmentConfig()), asdict(config.augment)
    assert {name for name in plain if plain[name] != chosen[name]} == changes
    assert (config.slice, config.feed) == (Config().slice, Config().feed)
    assert config.test == TestConfig(tta=True)


def test_ct_clotseg_is_the_published_setting() -> None:
    """Section 1 of the reference: batch 20, Adam 5e-4, 100 epochs, soft Dice with smooth 1, L2 1e-4, dropout
    0.1, 32 to 256 filters and a centre, 10 000 and 2 000 samples, key of eight, stop after 10 epochs without
    0.001."""
    config = load_config(NO_FILE, {"train.recipe": "ct-clotseg"})
    assert config.train == TrainConfig(
        recipe="ct-clotseg",
        epochs=100,
        batch_size=20,
        optimizer="adam",
        learning_rate=5e-4,
        schedule="constant",
        warmup_epochs=0,
        clip_norm=0,
        loss="dice",
        dice_smooth=1,
        ema_decay=0,
        clot_share=0,
        train_samples=10_000,
        patience=10,
        min_improvement=0.001,
        precision="float32",
    )
    assert config.network == NetworkConfig(
        filters=32, depth=4, dropout=0.1, l2=1e-4, batch_norm_momentum=0.99, initial_probability=0.5
    )
    assert config.feed == FeedConfig(size=256)
    assert config.augment == AugmentConfig(probability=0.8, selection="key8")
    assert config.offline == OfflineConfig(target_train=10_000, target_val=2_000)
    assert config.test == TestConfig(tta=False)


def test_a_project_changes_its_recipe_and_a_flag_changes_both(tmp_path: Path) -> None:
    file = tmp_path / "clotseg.toml"
    file.write_text('[train]\nrecipe = "ct-clotseg"\nepochs = 7\n')
    published = load_config(NO_FILE, {"train.recipe": "ct-clotseg"})
    assert load_config(file) == replace(published, train=replace(published.train, epochs=7))
    assert load_config(file, {"train.epochs": 3}).train.epochs == 3
    assert load_config(file, {"train.recipe": "default"}).train == TrainConfig(epochs=7)


def test_an_unknown_recipe_is_refused_and_the_known_ones_are_named(tmp_path: Path) -> None:
    assert recipe_names() == ["ct-clotseg", "default"]
    with pytest.raises(ConfigError, match="choose one of ct-clotseg, default"):
        load_config(NO_FILE, {"train.recipe": "../elsewhere"})
    (tmp_path / "clotseg.toml").write_text('[train]\nrecipe = "best"\n')
    with pytest.raises(ConfigError, match="no recipe 'best'"):
        load_config(tmp_path / "clotseg.toml")
