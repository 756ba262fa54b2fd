"""Settings of a run. Each field is also an option of `uflow train` and a key of presets and TOML files.

The defaults are those of the lite preset.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer
from pydantic.config import JsonDict

from uflow_cli.errors import UflowError
from uflow_cli.schema import Setting, Settings, record, settings_of

MIN_HELD_OUT = 8  # docs/method.md, section 5.1
FEW_GROUPS = 5  # below this many held-out groups, the promise for a new one is a guess
FOLDS = 5  # at most, where all groups take turns
FEW_IMAGES = 10  # below this many good images, training warns of what cannot be promised

Tests = Literal["paper", "by-size"]  # eq. 9 of the paper, the same for every region; or its budget split over sizes
Merge = Literal["fused", "min"]
Coupling = Literal["affine", "uniform"]
Fit = Literal["auto", "squash", "letterbox", "tile"]
DeviceChoice = Literal["auto", "cpu", "cuda"]
Runtime = Literal["auto", "torch", "onnx"]
Augment = Literal["flips", "rotations", "tilts", "brightness"]
Precision = Literal["auto", "fp32", "bf16"]
Schedule = Literal["one-cycle", "constant", "published"]

Size = tuple[int, int]  # height and width in pixels


def shown_size(size: Size) -> str:
    """`size` for people: one number where it is square."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]} x {size[1]}"


def plain_size(size: Size) -> int | list[int]:
    """`size` as files hold it: one number where it is square."""
    return size[0] if size[0] == size[1] else list(size)


def sized_scales(scales: str, height: int) -> str:
    """`scales` with sizes in pixels: in the place of `full` the input's `height`, of `half` half of it."""
    return re.sub(r"\bfull\b", str(height), re.sub(r"\bhalf\b", str(height // 2), scales))


def scales_fit(scales: str | None, input_size: Size) -> bool:
    """Whether an input can be seen at the sizes, full and half, of `scales`: two cells or more, and whole ones."""
    maps = re.findall(r"\b(full|half):(\d+)", scales or "")
    coarsest = max((int(stride) * (2 if size == "half" else 1) for size, stride in maps), default=1)
    return all(side % coarsest == 0 and side >= 2 * coarsest for side in input_size)


def _both_sides(value: Any) -> Any:
    """One side stands for both."""
    if isinstance(value, int):
        return (value, value)
    return (*value, *value) if isinstance(value, tuple) and len(value) == 1 else value


Side = Annotated[int, Field(ge=1)]
InputSize = Annotated[
    tuple[Side, Side],
    Field(json_schema_extra={"form": "one side in pixels or two, height,width"}),
    BeforeValidator(_both_sides),
    PlainSerializer(plain_size, return_type=int | list[int], when_used="json"),
]

AUTO: JsonDict = {"none": "auto"}  # the word for None in files and options


@record
class ModelConfig(Settings):
    """The settings that, beside the weights, fix the map from an image to log-NFA values."""

    extractor: str = Field(
        default="efficientnet-lite0",
        description="Frozen network that computes the features; `uflow backbones` lists them.",
    )
    strides: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None,  # the extractor's own
        min_length=1,
        description="Pixels per cell of the features, finest first, each twice the one before.",
        json_schema_extra=AUTO,
    )
    scales: str | None = Field(
        default=None,  # one size, all strides
        description="Maps of several input sizes, as full:16 | full:32+half:16 | half:32: SIZE:STRIDE, SIZE in pixels, "
        "full (the input's height) or half, + joins, | parts.",
        json_schema_extra=AUTO,
    )
    blocks: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None,  # the middle half
        min_length=1,
        description="Blocks of a plain transformer, from 1, whose mean is its map; auto: the middle half.",
        json_schema_extra=AUTO,
    )
    weights: tuple[str, ...] | None = Field(
        default=None,  # from its package, a cache or the hub
        min_length=1,
        description="Weights files of the extractor, one per network, or a folder that holds them.",
        json_schema_extra=AUTO,
    )
    precision: Precision = Field(
        default="auto",
        description="Number format of the extractor; auto: bf16 where the device gains by it. A run keeps its choice.",
    )
    input_size: InputSize = Field(
        default=(448, 448), description="Height and width in pixels to which images are resized; one number: a square."
    )
    fit: Fit = Field(
        default="auto",
        description="How images get the input size: squash, letterbox (mirrored border), tile (overlapping pieces, "
        "nothing resized); auto: by their size and proportions. A run keeps its choice.",
    )
    tests: Tests = Field(
        default="by-size",  # docs/method.md, section 4.4
        description="Number of tests: eq. 9 of the paper, or the same budget split evenly over region sizes.",
    )
    merge: Merge = Field(
        default="fused",
        description="Scales: their evidence fused before one max-tree, or a tree each and the minimum, as published.",
    )
    gaussian: bool = Field(
        default=False, description="Fuse the evidence of Gaussians over the features with the flow's."
    )
    neighbours: int = Field(
        default=1000,
        ge=0,
        le=100_000,
        description="Patches of good images that are kept, to fuse how far new ones are from the nearest; 0: none.",
    )
    flow_share: float = Field(
        default=0.7,
        gt=0,
        lt=1,
        description="Share of the flow in the fused evidence that judges; the rest is for Gaussians and neighbours.",
    )
    lot: int = Field(
        default=100,
        ge=1,
        description="Good images among which log NFA counts false detections: at 0, one is expected in as many.",
    )
    architecture: str = Field(
        default="u",  # the others are the ablations of the paper's Table 6
        pattern=r"^(u|average|single:[1-9][0-9]?)$",
        description="Form of the flow: u, average (scales side by side) or single:N (scale N alone, 1 the finest).",
        json_schema_extra={"form": "u, average or single:N"},
    )
    coupling: Coupling = Field(
        default="affine",  # docs/method.md, section 2
        description="uniform: scaling, and so the log-determinant, does not depend on the input.",
    )
    flow_steps: int = Field(
        default=4, ge=1, le=64, description="Flow steps of each scale; the paper's Table 6 compares 4, 6 and 8."
    )
    kernel_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(3, 1),
        min_length=1,
        description="Side in cells, odd, of the convolutions of a flow step: a list, repeated over the steps.",
    )
    paper_exact: bool = Field(
        default=False,  # docs/method.md, section 8
        description="The published procedure, warts included: it selects on the test set. For comparisons only.",
    )

    def __post_init__(self) -> None:
        if self.paper_exact and self.tests != "paper":
            raise UflowError(
                f"tests = {self.tests!r} does not go with paper_exact, which means 'paper'; drop one of them"
            )
        if self.paper_exact and self.fit in ("letterbox", "tile"):
            raise UflowError(f"fit = {self.fit!r} does not go with paper_exact, which squashes; drop one of them")
        if even := [size for size in self.kernel_sizes if size % 2 == 0]:
            raise UflowError(f"kernel_sizes: {even[0]} is even; odd sizes are needed, such as 3,1")

    @property
    def is_squashed(self) -> bool:
        """Whether every image becomes one input, whatever its proportions."""
        return self.fit in ("auto", "squash")

    @property
    def is_fused(self) -> bool:
        """Whether one max-tree sees the evidence of all scales."""
        return self.merge == "fused" and not self.paper_exact

    @property
    def has_gaussians(self) -> bool:
        """Whether Gaussians over the features are part of the model."""
        return self.is_fused and self.gaussian

    @property
    def n_patches(self) -> int:
        """Patches of good images that are part of the model, 0 for none."""
        return self.neighbours if self.is_fused else 0

    def source_names(self, n_flow: int, n: int, *, scale: str = "scale") -> list[str]:
        """What `n` sources of evidence are called; the first `n_flow` are scales of the flow, `scale` and a number."""
        patches = ["nearest patch"] if self.n_patches and n > n_flow else []
        gaussians = [f"Gaussian {number}" for number in range(1, n - n_flow - len(patches) + 1)]
        return [*(f"{scale} {number}" for number in range(1, n_flow + 1)), *gaussians, *patches]

    @property
    def log_lot(self) -> float:
        """log10 of the images in a lot; as published, log NFA counts in a single image."""
        return 0.0 if self.paper_exact else math.log10(self.lot)

    def located(self) -> ModelConfig:
        """The same with absolute paths of weights, as a run remembers them."""
        files = tuple(str(Path(path).expanduser().absolute()) for path in self.weights or ())
        return replace(self, weights=files or None)

    def flow_scales(self, n_scales: int) -> tuple[int, ...]:
        """Which of an extractor's `n_scales` scales the flow sees, counted from 0; UflowError if there is no such."""
        kind, _, number = self.architecture.partition(":")
        if kind != "single":
            return tuple(range(n_scales))
        if int(number) > n_scales:
            raise UflowError(
                f"architecture {self.architecture}: {self.extractor} has {n_scales} "
                f"scale{'s' if n_scales > 1 else ''}; use single:1{f' to single:{n_scales}' if n_scales > 1 else ''}"
            )
        return (int(number) - 1,)


@record
class TrainingConfig(Settings):
    """How the flow is trained."""

    preset: str = Field(
        default="lite", description="Settings to start from: lite runs everywhere, paper is the published one."
    )
    epochs: int | None = Field(
        default=None,
        ge=1,
        description="Passes over the training images; auto: enough for --steps, from 20 to 200.",
        json_schema_extra=AUTO,
    )
    steps: int = Field(
        default=640,  # more fit held-out images better and find no more; benchmarks/results/few.md
        ge=1,
        description="Training steps that automatic epochs come to.",
    )
    batch_size: int = Field(default=8, ge=1, description="Images per step.")  # docs/method.md, section 8
    learning_rate: float = Field(default=3e-3, gt=0, description="Peak learning rate.")
    weight_decay: float = Field(default=1e-5, ge=0, description="Weight decay of Adam.")  # docs/method.md, section 8
    feature_noise: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Standard deviation of the noise on normalised features in training steps, against over-fitting.",
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of a coupling's hidden channels left out in training steps, against over-fitting.",
    )
    schedule: Schedule = Field(
        default="one-cycle", description="Learning rate: rise and fall, rise and stay, or the paper's."
    )
    warm_up: float = Field(
        default=0.1, ge=0, le=1, description="Share of all steps over which the rate rises; published has none."
    )
    gradient_clip: float = Field(
        default=0.0, ge=0, description="Largest norm of the gradient of the loss per dimension; 0: no limit."
    )
    patience: int = Field(default=20, ge=0, description="Epochs without a better one until training ends; 0: never.")
    flow_precision: Precision = Field(
        default="auto",
        description="Number format of convolutions in training steps; auto: bf16 where the device gains by it.",
    )
    compile: bool = Field(
        default=False,
        description="Compile training steps (torch.compile): a minute or two at the start, then faster ones.",
    )
    held_out_fraction: float = Field(
        default=0.15,  # docs/method.md, section 5.1; 0: none, where something else chooses the epoch
        ge=0,
        lt=1,
        description="Share of the good images that never trains the flow.",
    )
    groups: str | None = Field(
        default=None,  # those that the data set knows
        min_length=1,
        description="Siblings, held out together: folders, a pattern on file names, FILE.csv of image and group, none.",
        json_schema_extra=AUTO,
    )
    folds: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="Flows that take turns at holding images out, so that all calibrate; auto: 1, more for few groups.",
        json_schema_extra=AUTO,
    )
    augment: tuple[Augment, ...] | None = Field(
        default=None,
        min_length=1,
        description="Also train on views of the images: flips, rotations (quarter turns), tilts, brightness.",
    )
    views: int = Field(
        default=4, ge=2, le=1000, description="Views of each image with --augment, the image itself among them."
    )
    fresh_views: bool = Field(
        default=False,
        description="Draw new views in every epoch and keep none: as with --no-cache, all features are computed anew.",
    )
    seed: int = Field(
        default=0,
        ge=0,
        le=2**31 - 1,
        description="Fixes the split, the initial weights and the order of images.",
    )

    def n_folds(self, n_images: int, *, n_groups: int = 0) -> int:
        """Flows to train on `n_images` images of `n_groups` groups (0: unknown), one of which is kept.

        As given, at most one for every two images and one per group; or as many as `FOLDS` where fewer than
        `FEW_GROUPS` groups would be held out, and 1 elsewhere.
        """
        most = min(n_images // 2, n_groups or n_images)
        if self.folds is not None:
            return max(1, min(self.folds, most))
        few_groups = 0 < self.held_out_fraction * n_groups < FEW_GROUPS
        if self.augment is not None or not few_groups or n_images < 3 * MIN_HELD_OUT:
            return 1
        return max(1, min(FOLDS, n_images // MIN_HELD_OUT, most))

    def n_epochs(self, n_images: int) -> int:
        """Epochs for `n_images` training images: as given, or enough for `steps`, from 20 to 200."""
        if self.epochs is not None:
            return self.epochs
        steps_per_epoch = math.ceil(n_images / self.batch_size)
        return min(max(round(self.steps / steps_per_epoch), 20), 200)


def all_settings() -> dict[str, Setting]:
    """Every setting of a run by name: those of the model, then those of its training."""
    return {**settings_of(ModelConfig), **settings_of(TrainingConfig)}
