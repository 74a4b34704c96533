"""Settings as data: a recipe, then `clotseg.toml`, then flags; checked once, frozen afterwards.

Sections that decide the bytes of an output (`split`, `slice`, `feed`, `augment`, `network`, `train`, `test`)
stand apart from `runtime`, which only decides how fast it is made and never enters a stage's key.
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from clotseg.errors import ConfigError
from clotseg.recipes import DEFAULT_RECIPE, read_recipe

Fraction = Annotated[float, Field(gt=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Auto = Literal["auto"]
Flip = Literal["horizontal", "vertical"]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
WindowHU = tuple[Finite, Finite]
Limits = tuple[Finite, Finite]
Setting = TypeVar("Setting")


KEY_SLOTS = 8
SLOT_OF = {
    "horizontal_flip": 0,
    "vertical_flip": 1,
    "brightness_contrast": 2,
    "gamma": 5,
    "blur": 6,
    "clahe": 7,
}
"""Which slot of the original's key switches which transform, in order of application; 3 and 4 are idle."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """How patients are shared out: ceil(train_perc · N) train, floor(val_perc · N) validate, rest test.

    `stratify` gives every cohort its share of each site, and of patients with and without a clot. With
    `folds` the patients of fold `fold` (from 1) are the test cohort and train_perc is not used. `file` is a
    split.json to take as it is, relative to the project folder.
    """

    train_perc: Fraction = 0.6
    val_perc: Fraction = 0.2
    seed: Seed = 1
    stratify: tuple[Literal["site", "clot"], ...] = ()
    folds: Annotated[int, Field(ge=0)] = 0
    fold: Count = 1
    file: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceConfig:
    """How HU become 8-bit slices. Windows are [low, high] in HU; `slices_per_shard` rounds to whole cases.

    `slices` says which slices are trained on: all, those with clot, or those and as many without. `context`
    is how many neighbours on each side a slice brings along as channels.
    """

    cta_window_hu: WindowHU = (-50.0, 450.0)
    ncct_window_hu: WindowHU = (0.0, 100.0)
    slices_per_shard: Count = 1024
    slices: Literal["all", "clot", "balanced"] = "all"
    context: Annotated[int, Field(ge=0, le=8)] = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedConfig:
    """The square that slices are centre-padded to, in pixels; `auto` is the smallest that holds them all."""

    size: Count | Auto = "auto"


LIMITS = (
    *("brightness_limit", "contrast_limit", "gamma_limit", "clahe_limit"),
    *("rotation_degrees", "scale_limit", "shift_pixels", "elastic_period_pixels"),
    *("noise_gaussian_sd", "noise_poisson_factor"),
)
"""Of [augment]: the lowest and the highest that is drawn."""
ABOVE_ZERO = (
    "gamma_limit",
    "clahe_limit",
    "scale_limit",
    "elastic_period_pixels",
    "noise_gaussian_sd",
    "noise_poisson_factor",
)
"""Those of them that are of no use at 0 or below."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Augmentation: with `probability` a slice is augmented at all; `selection` then draws the transforms.

    `key8` shuffles k zeros and 8 - k ones, k from 0 to 7 with even odds, over eight slots of which six switch
    a transform each: every transform is on with probability 0.5625, and they tend to be on together.
    `independent` switches each transform by its own probability, and only then are those of use.

    What the original does not have is off by default and, where it is on, is switched by its own probability
    whatever the selection: `warp` turns, scales and moves image and mask about the centre, `elastic` bends
    them along waves of up to `elastic_pixels` with a period of `elastic_period_pixels`, `misregistration`
    moves the NCCT by up to `misregistration_pixels` a direction, `noise_gaussian` adds noise of a standard
    deviation of `noise_gaussian_sd` grey levels, `noise_poisson` noise whose variance is
    `noise_poisson_factor` times the grey level, `drop_modality` blackens CTA or NCCT.
    """

    probability: Probability = 0.8
    selection: Literal["key8", "independent"] = "key8"
    horizontal_flip: Probability = 0.5
    vertical_flip: Probability = 0.5
    brightness_contrast: Probability = 0.5
    brightness_limit: Limits = (-0.2, 0.2)
    contrast_limit: Limits = (-0.2, 0.2)
    gamma: Probability = 0.5
    gamma_limit: Limits = (0.8, 1.2)
    blur: Probability = 0.5
    clahe: Probability = 0.5
    clahe_limit: Limits = (1.0, 4.0)
    warp: Probability = 0.0
    rotation_degrees: Limits = (-10.0, 10.0)
    scale_limit: Limits = (0.9, 1.1)
    shift_pixels: Limits = (-8.0, 8.0)
    elastic: Probability = 0.0
    elastic_pixels: Annotated[float, Field(gt=0, le=32)] = 4.0
    elastic_period_pixels: Limits = (32.0, 128.0)
    misregistration: Probability = 0.0
    misregistration_pixels: Annotated[float, Field(gt=0, le=8)] = 2.0
    noise_gaussian: Probability = 0.0
    noise_gaussian_sd: Limits = (1.0, 8.0)
    noise_poisson: Probability = 0.0
    noise_poisson_factor: Limits = (0.1, 1.0)
    drop_modality: Probability = 0.0

    @property
    def flips(self) -> tuple[Flip, ...]:
        """The flips that slices are trained with."""
        if self.probability == 0:
            return ()
        odds: dict[Flip, float] = {"horizontal": self.horizontal_flip, "vertical": self.vertical_flip}
        return tuple(flip for flip, odd in odds.items() if odd > 0 or self.selection == "key8")


@dataclass(frozen=True, kw_only=True, slots=True)
class OfflineConfig:
    """The offline stage: how many augmented samples are made of the training and of the validation slices.

    Those of the validation cohort are made only where `validation` says so; no score ever rests on them.
    """

    target_train: Count = 10_000
    target_val: Count = 2_000
    validation: bool = False
    seed: Seed = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """The U-Net: `filters` at full resolution, doubled at each of `depth` halvings; `auto` is by the data.

    With `fold` squares of so many pixels a side become channels before the first level, and pixels again
    behind the last, in the place of one or two halvings: most of the arithmetic is at full resolution.

    `cta_windows_hu` and `ncct_windows_hu` are further windows, [low, high] in HU within those of the slices:
    in each of them the network is shown CTA or NCCT once more. It cuts them from the slices it is given.
    With `auto` they are the usual ones, as far as those of the slices reach.

    `norm` instance normalises each channel of each slice by itself (Ulyanov et al. 2016), and batch by the
    batch: with `batch_norm` local by the slices of a replica, synchronised by those of all. Running
    statistics are averaged over replicas either way.
    `initial_probability` is what the untrained network takes each pixel to be clot with. Clots fill far less
    than 1 % of a slice, and from a low value on soft Dice is not lost on the background first (the prior of
    Lin et al. 2017, Focal Loss for Dense Object Detection, section 4.1).
    """

    filters: Count | Auto = "auto"
    depth: Annotated[int, Field(ge=1, le=7)] | Auto = "auto"
    fold: Literal[1, 2, 4] = 1
    cta_windows_hu: tuple[WindowHU, ...] | Auto = ()
    ncct_windows_hu: tuple[WindowHU, ...] | Auto = ()
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    l2: NotNegative = 0.0
    norm: Literal["batch", "instance"] = "batch"
    batch_norm_momentum: Fraction = 0.9
    batch_norm: Literal["local", "synchronised"] = "local"
    initial_probability: Fraction = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """The optimisation. The defaults are those of the recipe `default`; see docs/recipes.md for the others.

    `epochs` and `batch_size` are chosen by the data where they are `auto`.

    An epoch draws `train_samples` slices; `all` is as many as the cohort has. In each batch at least the
    share `clot_share` of the slices hold clot; others give way where there are too few. A step takes
    `accumulate` batches of `batch_size`.

    The learning rate rises over `warmup_epochs` in a straight line to `learning_rate`, and then stays, or
    falls to 0 along half a cosine (Loshchilov & Hutter 2017, SGDR, without restarts) or as
    (1 - part done)^0.9 (`polynomial`, as nnU-Net). Gradients longer than `clip_norm` are cut to it, 0 being
    never. `ema_decay` averages the weights of the steps, and the average is validated and kept; 0 is off.

    After `patience` epochs whose validation Dice is not `min_improvement` above the best before, training
    ends; 0 is never. `source` says whether slices are augmented afresh in every epoch, or were offline.
    `precision` auto is bfloat16 on GPUs that have it. `deterministic` has TensorFlow use no operation whose
    result changes from run to run, on a GPU too.
    """

    recipe: str = DEFAULT_RECIPE
    epochs: Count | Auto = "auto"
    batch_size: Count | Auto = "auto"
    accumulate: Count = 1
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: Positive = 2e-3
    weight_decay: NotNegative = 1e-2
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.99
    schedule: Literal["constant", "cosine", "polynomial"] = "cosine"
    warmup_epochs: NotNegative = 0.5
    clip_norm: NotNegative = 1.0
    loss: Literal["dice", "dice_cross_entropy"] = "dice_cross_entropy"
    dice_smooth: Positive = 1.0
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.995
    clot_share: Annotated[float, Field(ge=0, le=1)] = 0.34
    patience: Annotated[int, Field(ge=0)] = 30
    min_improvement: NotNegative = 0.0
    source: Literal["sliced", "augmented"] = "sliced"
    train_samples: Count | Literal["all"] = "all"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    xla: bool = False
    deterministic: bool = False
    seed: Seed = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class TestConfig:
    """Scoring: a pixel is clot at `threshold` or more; intervals from `bootstrap_samples` resamples.

    With `auto` the threshold, and how many voxels the smallest component has that is kept, are chosen on the
    validation cohort. With a threshold of your own nothing is removed, unless `smallest_component` says so.
    With `tta` each slice is also seen flipped as in training, and the probabilities are averaged.
    """

    __test__ = False

    threshold: Fraction | Auto = "auto"
    smallest_component: Annotated[int, Field(ge=0)] | Auto = "auto"
    tta: bool = False
    bootstrap_samples: Count = 2000
    seed: Seed = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class RuntimeConfig:
    """How fast, not what: devices, logical CPU replicas for trying out distribution, DALI threads.

    `workers` processes prepare data, or the Dask cluster whose scheduler listens at `dask`. The augmentation
    of the first `log_augment` samples of each epoch is written down. A checkpoint is written after every
    epoch, and every `checkpoint_minutes` within one, 0 being never; the last `keep_checkpoints` stay.
    Training ends after `minutes`, 0 being never: the epoch under way is cut short and validated.
    """

    gpus: Annotated[int, Field(ge=0)] | Auto = "auto"
    replicas: Count = 1
    threads: Count | Auto = "auto"
    prefetch: Count = 2
    log_augment: Annotated[int, Field(ge=0)] = 0
    workers: Count | Auto = "auto"
    dask: str = ""
    checkpoint_minutes: NotNegative = 0.0
    minutes: NotNegative = 0.0
    keep_checkpoints: Count = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings of a project."""

    split: SplitConfig = field(default_factory=SplitConfig)
    slice: SliceConfig = field(default_factory=SliceConfig)
    feed: FeedConfig = field(default_factory=FeedConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    offline: OfflineConfig = field(default_factory=OfflineConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    test: TestConfig = field(default_factory=TestConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def load_config(file: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Defaults, then the recipe that the file or an override names, the file itself, and `overrides`.

    Args:
        file: a TOML file; it may be absent.
        overrides: flags by dotted name, such as `{"train.epochs": 5}`; those that are None are left out.

    Raises:
        ConfigError: the file is not TOML, a key is unknown (the nearest is named), a value is not allowed.
    """
    in_file = read_settings(file)
    given = {name: value for name, value in (overrides or {}).items() if value is not None}
    name = given.get("train.recipe", in_file.get("train", {}).get("recipe", DEFAULT_RECIPE))
    settings = _merged(read_recipe(name), in_file)
    settings.setdefault("train", {})["recipe"] = name
    config = _validate(settings, where=file)
    for name, value in given.items():
        section, key = name.split(".")
        settings.setdefault(section, {})[key] = value
    if given:
        config = _validate(settings, where="command line")
    _check_together(config)
    return config


def read_settings(file: Path) -> dict[str, Any]:
    """The settings that a `clotseg.toml` has, by section; none where there is no file.

    Raises:
        ConfigError: it is not TOML, or a key is unknown (the nearest is named).
    """
    settings = _read_toml(file)
    _refuse_unknown(settings, Config(), where=file)
    return settings


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Section by section, what `over` says, and else what `base` says."""
    return {name: {**base.get(name, {}), **over.get(name, {})} for name in {**base, **over}}


def _validate(settings: dict[str, Any], *, where: object) -> Config:
    findings = _truth_values(settings, Config())
    try:
        config: Config = TypeAdapter(Config).validate_python(settings)
    except ValidationError as error:
        findings += _findings(error)
    if findings:
        raise ConfigError("some settings cannot be used", where=where, details=findings)
    return config


def _truth_values(settings: Mapping[str, Any], defaults: Any) -> list[str]:
    """A line for each true or false where neither is asked for; Python would take them for 1 and 0."""
    findings = []
    for section, values in settings.items():
        for key, value in values.items():
            listed = value if isinstance(value, list | tuple) else [value]
            wanted = isinstance(getattr(getattr(defaults, section), key), bool)
            if not wanted and any(isinstance(entry, bool) for entry in listed):
                findings.append(f"{section}.{key} = {value!r}: true and false are no numbers")
    return findings


def settled(value: Setting | Auto) -> Setting:
    """A setting that can no longer be `auto`, as nothing is trained before that is chosen."""
    if value == "auto":
        raise TypeError("a setting is used before it was chosen")
    return value


def to_toml(config: Config) -> str:
    """The settings as the text of a `clotseg.toml`."""
    import tomli_w

    return tomli_w.dumps(plain(config))


def plain(config: object) -> dict[str, Any]:
    """A configuration, or a section of it, as plain dictionaries, lists and scalars."""
    if not is_dataclass(config) or isinstance(config, type):
        raise TypeError(f"not a configuration: {config!r}")
    return {name: _listed(value) for name, value in asdict(config).items()}


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _listed(inner) for name, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _read_toml(file: Path) -> dict[str, Any]:
    if not file.exists():
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"cannot be read as TOML ({error})", where=file) from error


def _refuse_unknown(settings: Mapping[str, Any], defaults: Any, *, where: Path, prefix: str = "") -> None:
    known = [entry.name for entry in fields(defaults)]
    for name, value in settings.items():
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean `{prefix}{nearest[0]}`?" if nearest else f"known here: {', '.join(known)}"
            raise ConfigError(f"unknown setting `{prefix}{name}`", where=where, fix=hint)
        if is_dataclass(getattr(defaults, name)):
            if not isinstance(value, dict):
                raise ConfigError(f"`{name}` must be a section, [{name}]", where=where)
            _refuse_unknown(value, getattr(defaults, name), where=where, prefix=f"{name}.")


def _findings(error: ValidationError) -> list[str]:
    """One line a setting, however many types it could have had."""
    lines: dict[str, list[str]] = {}
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"][:2])
        lines.setdefault(f"{place} = {item['input']!r}", []).append(item["msg"])
    return [f"{place}: {', or '.join(dict.fromkeys(messages))}" for place, messages in lines.items()]


def _check_together(config: Config) -> None:
    """Rules that tie several settings together."""
    problems = []
    if not config.split.folds and config.split.train_perc + config.split.val_perc >= 1:
        problems.append("split: train_perc + val_perc must leave something for the test cohort (below 1)")
    if config.split.folds == 1 or config.split.fold > max(config.split.folds, 1):
        problems.append(
            f"split.fold = {config.split.fold} of split.folds = {config.split.folds}: "
            "there must be 2 folds or more, and fold is one of 1 to folds"
        )
    if config.split.file and (config.split.folds or config.split.stratify):
        problems.append("split.file says who belongs where: it cannot go with split.folds or split.stratify")
    if len(set(config.split.stratify)) != len(config.split.stratify):
        problems.append("split.stratify: names a property twice")
    for name in ("cta_window_hu", "ncct_window_hu"):
        low, high = getattr(config.slice, name)
        if not low < high:
            problems.append(f"slice.{name}: the low end {low} must lie below the high end {high}")
        further = name.replace("window", "windows")
        windows = getattr(config.network, further)
        for first, last in () if windows == "auto" else windows:
            if not low <= first < last <= high:
                window = f"network.{further}: [{first}, {last}]"
                problems.append(f"{window} must rise, and lie within slice.{name} = [{low}, {high}]")
    for name in LIMITS:
        low, high = getattr(config.augment, name)
        if not low <= high:
            problems.append(f"augment.{name}: the low end {low} must not lie above the high end {high}")
    for name in ABOVE_ZERO:
        if getattr(config.augment, name)[0] <= 0:
            problems.append(f"augment.{name}: must be above 0")
    size, depth, batch = config.feed.size, config.network.depth, config.train.batch_size
    step = 2 * config.network.fold if depth == "auto" else 2**depth
    if size != "auto" and size % step:
        times = f"{'at least ' if depth == 'auto' else ''}{step.bit_length() - 1} times"
        problems.append(
            f"feed.size = {size}: slices are halved {times}, so the size must be a multiple of {step}"
        )
    if depth != "auto" and 2**depth <= config.network.fold:
        problems.append(f"network.fold = {config.network.fold} leaves no level of network.depth = {depth}")
    if batch != "auto" and batch % config.runtime.replicas:
        replicas = config.runtime.replicas
        uneven = f"train.batch_size = {batch} cannot be shared evenly by {replicas} replicas"
        problems.append(f"{uneven}; nearest: {nearest_batches(batch, replicas)}")
    if problems:
        raise ConfigError("some settings do not go together", details=problems)


def nearest_batches(batch_size: int, replicas: int) -> str:
    """The batch sizes below and above that replicas can share evenly, for people."""
    below = batch_size // replicas * replicas
    return " or ".join(str(size) for size in (below, below + replicas) if size)
