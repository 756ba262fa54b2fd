"""Settings of a run: plain frozen dataclasses. A field's `About` makes it an option and a key of presets and files.

The defaults are the lite preset's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from uflow_cli.errors import UflowError
from uflow_cli.setting import About, Setting, check, settings_of

MIN_HELD_OUT = 8  # METHOD 7.1
FEW_IMAGES = 10  # below this many good images, training warns of what cannot be promised

Tests = Literal["paper", "by-size"]
Coupling = Literal["affine", "uniform"]
DeviceChoice = Literal["auto", "cpu", "cuda"]
Augment = Literal["flips", "rotations", "tilts", "brightness"]
Precision = Literal["auto", "fp32", "bf16"]
Schedule = Literal["one-cycle", "constant", "published"]


@dataclass(frozen=True)
class ModelConfig:
    """What fixes the map from an image to log-NFA values, beside the weights."""

    extractor: Annotated[str, About("Frozen network that computes the features; `uflow backbones` lists them.")] = (
        "efficientnet-lite0"
    )
    strides: Annotated[
        tuple[int, ...] | None,
        About("Pixels per cell of the features, finest first, each twice the one before.", at_least=1, none="auto"),
    ] = None  # the extractor's own
    weights: Annotated[
        tuple[str, ...] | None,
        About("Weights files of the extractor, one per network, or a folder that holds them.", none="auto"),
    ] = None  # from its package, a cache or the hub
    precision: Annotated[
        Precision, About("Of the extractor. auto: bf16 where the device gains by it; a run keeps what it became.")
    ] = "auto"
    input_size: Annotated[int, About("Side in pixels to which images are resized.", at_least=1)] = 448
    tests: Annotated[
        Tests, About("Number of tests: eq. 9 of the paper, or the same budget split evenly over region sizes.")
    ] = "by-size"  # METHOD 7.4
    architecture: Annotated[
        str,
        About(
            "Form of the flow: u, average (scales side by side) or single:N (scale N alone, 1 the finest).",
            pattern=r"u|average|single:[1-9][0-9]?",
            form="u, average or single:N",
        ),
    ] = "u"  # the others are the ablations of the paper's Table 6
    coupling: Annotated[
        Coupling, About("uniform: scaling, and so the log-determinant, does not depend on the input.")
    ] = "affine"  # METHOD 7.5
    flow_steps: Annotated[
        int, About("Flow steps of each scale; the paper's Table 6 compares 4, 6 and 8.", at_least=1, at_most=64)
    ] = 4  # paper 4.3
    kernel_sizes: Annotated[
        tuple[int, ...],
        About("Side in cells, odd, of the convolutions of a flow step: a list, repeated over the steps.", at_least=1),
    ] = (3, 1)  # paper 4.3
    paper_exact: Annotated[
        bool, About("The published procedure, warts included: it selects on the test set. For comparisons only.")
    ] = False  # METHOD 6.5

    def __post_init__(self) -> None:
        check(self)
        if self.paper_exact and self.tests != "paper":
            raise UflowError(
                f"tests = {self.tests!r} does not go with paper_exact, which means 'paper'; drop one of them"
            )
        if even := [size for size in self.kernel_sizes if size % 2 == 0]:
            raise UflowError(f"kernel_sizes: {even[0]} is even; odd sizes are needed, such as 3,1")

    def located(self) -> ModelConfig:
        """The same with absolute paths of weights, as a run remembers them."""
        files = tuple(str(Path(path).expanduser().absolute()) for path in self.weights or ())
        return replace(self, weights=files or None)

    def scales(self, n_scales: int) -> tuple[int, ...]:
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


@dataclass(frozen=True)
class TrainingConfig:
    """How the flow is trained."""

    preset: Annotated[str, About("Settings to start from: lite runs everywhere, paper is the published one.")] = "lite"
    epochs: Annotated[
        int | None,
        About("Passes over the training images; auto: enough for 1600 steps, from 20 to 200.", at_least=1, none="auto"),
    ] = None
    batch_size: Annotated[int, About("Images per step.", at_least=1)] = 8  # METHOD 5
    learning_rate: Annotated[float, About("Peak learning rate.", above=0)] = 1e-3
    weight_decay: Annotated[float, About("Weight decay of Adam.", at_least=0)] = 1e-5  # METHOD 5
    schedule: Annotated[Schedule, About("Learning rate: rise and fall, rise and stay, or the paper's.")] = "one-cycle"
    warm_up: Annotated[
        float, About("Share of all steps over which the rate rises; published has none.", at_least=0, at_most=1)
    ] = 0.1
    gradient_clip: Annotated[
        float, About("Largest norm of the gradient of the loss per dimension; 0: as it comes.", at_least=0)
    ] = 0.0
    patience: Annotated[int, About("Epochs without a better one until training ends; 0: never.", at_least=0)] = 20
    flow_precision: Annotated[
        Precision,
        About("Of convolutions in training steps; auto: bf16 where the device gains by it. All else is fp32."),
    ] = "auto"
    compile: Annotated[
        bool, About("Compile training steps (torch.compile): a minute or two at the start, then faster ones.")
    ] = False
    held_out_fraction: Annotated[
        float, About("Share of the good images that never trains the flow.", at_least=0, below=1)
    ] = 0.15  # METHOD 7.1; 0: none, where something else chooses the epoch
    augment: Annotated[
        tuple[Augment, ...] | None,
        About("Also train on views of the images, a list: flips, rotations (quarter turns), tilts, brightness."),
    ] = None  # see `augmentation`
    views: Annotated[int, About("Views of each image with augment, itself among them.", at_least=2, at_most=1000)] = 4
    fresh_views: Annotated[
        bool, About("Draw new views in every epoch and keep none: as with --no-cache, all features are computed anew.")
    ] = False
    seed: Annotated[
        int, About("Fixes the split, the initial weights and the order of images.", at_least=0, at_most=2**31 - 1)
    ] = 0

    def __post_init__(self) -> None:
        check(self)

    def n_epochs(self, n_images: int) -> int:
        """Epochs for `n_images` training images: as given, or enough for 1600 steps, from 20 to 200."""
        if self.epochs is not None:
            return self.epochs
        steps_per_epoch = math.ceil(n_images / self.batch_size)
        return min(max(round(1600 / steps_per_epoch), 20), 200)


def all_settings() -> dict[str, Setting]:
    """Every setting of a run by name: those of the model, then those of its training."""
    return {**settings_of(ModelConfig), **settings_of(TrainingConfig)}
