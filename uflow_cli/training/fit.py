"""One flow and the images that train it: epochs, and what it makes of held-out images. Losses in bits per dimension."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from uflow_cli.cache import FeatureStore
from uflow_cli.config import TrainingConfig
from uflow_cli.detection.fitted import padded
from uflow_cli.features import choose_precision
from uflow_cli.flow import UFlow, bits_per_dimension, negative_log_likelihood
from uflow_cli.images import Layout, Stitcher
from uflow_cli.model import Model
from uflow_cli.training.observer import Observer
from uflow_cli.training.processes import Processes
from uflow_cli.training.roi import CellShares
from uflow_cli.training.steps import adam, batched, compiled, rate_factor


class FlowFit:
    """A flow under training. `rows` are what trains it, as indices of `features`; it is to see them `n_epochs` times.

    `tensors` are those that `copies` gave, to go on from there; without any, training begins. `layouts` are those of
    all images where `features` are of their tiles. `shares` say how much each cell counts; None: all alike.
    """

    def __init__(
        self, model: Model, features: FeatureStore, rows: Sequence[int], config: TrainingConfig, group: Processes,
        observer: Observer, *, n_epochs: int, tensors: Mapping[str, Tensor] | None = None,
        layouts: Sequence[Layout] = (), shares: CellShares | None = None,
    ) -> None:  # fmt: skip
        self.model, self.features, self.rows = model, features, rows
        self.config, self.group, self.observer = config, group, observer
        self.n_epochs, self.layouts, self.shares = n_epochs, layouts, shares
        self.generator = torch.Generator(model.device)  # of noise and dropout
        self.steps_per_epoch = -(-len(rows) // config.batch_size)
        self.optimiser = adam(model.flow.parameters(), weight_decay=config.weight_decay)
        if tensors:
            self.restore(tensors)
        else:
            model.load_state_dict({**model.state_dict(), **group.on_rank_zero(self._fit_statistics)})
        self.half = choose_precision(config.flow_precision, device=model.device) == "bf16"
        flow = group.synchronised(self._training_flow(), device=model.device)
        self.synchronised_model = replace(model, flow=cast(UFlow, flow))  # its gradients are those of all processes

    def _training_flow(self) -> nn.Module:
        if not self.config.compile or self.shares is not None:
            return self.model.flow
        n_images = len(self.group.part(range(self.config.batch_size)))
        with self.model.flow.thinned(self._kept(self.config.batch_size)):
            return compiled(
                self.model.flow, batch_size=n_images, device=self.model.device, half=self.half,
                on_warning=self.observer.on_warning,
            )  # fmt: skip

    def epoch(self, epoch: int, *, rate_share: float) -> float:
        """Mean training loss over one pass; all that is random in it follows from the seed and the epoch's number."""
        self.synchronised_model.flow.train()
        order = np.random.default_rng([self.config.seed, 1, epoch]).permutation(self.rows).tolist()
        self.generator.manual_seed(int(np.random.SeedSequence([self.config.seed, 2, epoch]).generate_state(1)[0]))
        self.features.start_epoch(epoch)
        if self.shares is not None:
            self.shares.start_epoch(epoch)
        total = torch.zeros((), dtype=torch.float64, device=self.model.device)  # stays there: no waiting per step
        seen = (epoch - 1) * len(order)
        for step, batch in enumerate(batched(order, self.config.batch_size), start=(epoch - 1) * self.steps_per_epoch):
            total += self._step(batch, rate_share * self._rate(step))
            seen += len(batch)
            self.observer.on_batch(seen, self.n_epochs * len(order))
        total = self.group.sum(total)
        return bits_per_dimension(float(total) / self._n_counted(order), self.model.flow.n_dimensions)

    def _step(self, batch: Sequence[int], rate: float) -> Tensor:
        """One step on the images `batch`; the sum of this process's negative log-likelihoods, in nats."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        part = self.group.part(batch)
        features = self.features.read(part or batch[:1], device=self.model.device)
        noise, kept = self._noise(len(batch)), self._kept(len(batch))
        shares = self._shares(part or batch[:1])
        autocast = torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.half)
        with autocast, self.model.flow.weighted(shares), self.model.flow.thinned(kept):
            embeddings, log_det_jacobian = self.synchronised_model.embed(features, noise)
        nll = negative_log_likelihood(embeddings, log_det_jacobian, shares).sum()
        if not part:  # fewer images than processes: all must take part in the exchange of gradients
            nll = 0.0 * nll
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(nll / (len(batch) / self.group.size))  # the mean over processes is that over the batch
        if self.config.gradient_clip:
            largest = self.config.gradient_clip * self.model.flow.n_dimensions  # the loss is a sum over dimensions
            torch.nn.utils.clip_grad_norm_(self.model.flow.parameters(), largest)
        self.optimiser.step()
        return nll.detach().double()

    def _noise(self, n_images: int) -> list[Tensor]:
        """What is added to the normalised features of this process's part of a batch of `n_images`; none without noise.

        It is drawn for the whole batch, so that it is the same however many processes share that.
        """
        if not self.config.feature_noise:
            return []
        own, flow = self._own(n_images), self.model.flow
        shapes = [(n_images, c, *grid) for c, grid in zip(flow.channels, flow.grids, strict=True)]
        return [
            self.config.feature_noise * torch.randn(shape, generator=self.generator, device=self.model.device)[own]
            for shape in shapes
        ]

    def _kept(self, n_images: int) -> list[Tensor]:
        """What multiplies the hidden channels of each flow step in this process's part of a batch of `n_images`.

        That is 0 or 1 / (1 - dropout); nothing without dropout. It is drawn for the whole batch, as noise is.
        """
        share = self.config.dropout
        if not share:
            return []
        own = self._own(n_images)
        shapes = [(n_images, step.hidden_channels, 1, 1) for step in self.model.flow.steps]
        drawn = [torch.rand(shape, generator=self.generator, device=self.model.device)[own] for shape in shapes]
        return [(one >= share) / (1 - share) for one in drawn]

    def _own(self, n_images: int) -> list[int]:
        """Which of a batch of `n_images` this process has; the first one where it has none."""
        return list(self.group.part(range(n_images))) or [0]

    def _shares(self, rows: Sequence[int]) -> list[Tensor] | None:
        """How much the cells of `rows` count, (B, 1, H_s, W_s) per scale of the flow."""
        return None if self.shares is None else self.shares.of(rows, self.model.flow.grids, self.model.device)

    def _n_counted(self, rows: Sequence[int]) -> float:
        """The number of `rows`, each by the share of it that counts."""
        return len(rows) if self.shares is None else sum(map(self.shares.mean, rows))

    def _rate(self, step: int) -> float:
        n_steps = self.n_epochs * self.steps_per_epoch
        factor = rate_factor(self.config.schedule, step, n_steps=n_steps, warm_up=self.config.warm_up)
        return self.config.learning_rate * factor

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimiser.param_groups[0]["lr"])

    def _fit_statistics(self) -> dict[str, Tensor]:
        """Fit normalisation and witnesses to the training images, a pass each, and return their tensors by name."""
        model = self.model
        batches = list(batched(self.rows, self.config.batch_size))
        model.normalisation.fit(self.features.read(batch, device=model.device) for batch in batches)

        def one_pass() -> tuple[Iterator[list[Tensor]], Iterator[Tensor | None]]:
            features = (self.features.read(batch, device=model.device) for batch in batches)
            counted = map(self._shares, batches)
            own = ([of_image[scale] for scale in model.scales] for of_image in features)
            return own, (None if shares is None else shares[0] for shares in counted)

        if model.gaussians is not None:
            model.gaussians.fit(*one_pass())
        if model.neighbours is not None:
            model.neighbours.fit(*one_pass(), n_images=len(self.rows), seed=self.config.seed)
        return {key: value for key, value in model.state_dict().items() if not key.startswith("flow.")}

    def copies(self) -> dict[str, Tensor]:
        """Copies on the CPU of all tensors that training changes."""
        moments = self.optimiser.state_dict()["state"]
        adam = {f"adam.{i}.{name}": value for i, values in moments.items() for name, value in values.items()}
        return {name: value.detach().cpu().clone() for name, value in {**self.model.state_dict(), **adam}.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Set all tensors that training changes to those that `copies` gave."""
        self.model.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("adam.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith("adam."):
                _, index, moment = name.split(".")
                moments.setdefault(int(index), {})[moment] = value.clone()
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})

    @torch.inference_mode()
    def loss_and_maps(self, indices: Sequence[int]) -> tuple[float, list[Tensor]]:
        """Loss and U maps (N, H_s, W_s) per source of evidence of the images `indices`, whose tiles are stitched."""
        flow = self.model.flow.eval()
        if not indices:
            return math.nan, [torch.empty(0, 1, 1) for _ in self.model.source_channels]
        total, norms = 0.0, []
        rows = rows_of_images(indices, self.layouts)
        for batch in batched(rows, self.config.batch_size):
            features = self.features.read(batch, device=self.model.device)
            shares = self._shares(batch)
            with flow.weighted(shares):
                embeddings, log_det_jacobian = self.model.embed(features)
            total += float(negative_log_likelihood(embeddings, log_det_jacobian, shares).double().sum())
            norms.append([u.cpu() for u in self.model.evidence(features, embeddings)])
        loss = bits_per_dimension(total / self._n_counted(rows), flow.n_dimensions)
        maps = [torch.cat(of_source) for of_source in zip(*norms, strict=True)]
        return loss, self._stitched(maps, indices) if self.layouts else maps

    def _stitched(self, maps: Sequence[Tensor], indices: Sequence[int]) -> list[Tensor]:
        """U maps of the images `indices` from those of their tiles, filled up to the grid of the largest canvas."""
        tiles = zip(*(u.numpy() for u in maps), strict=True)
        canvas = largest_canvas(self.layouts)
        images = []
        for index in indices:
            stitcher = Stitcher(self.layouts[index])
            for tile in itertools.islice(tiles, len(self.layouts[index].corners)):
                stitcher.add(tile)
            images.append(stitcher.maps())
        grids = [canvas.grid((u.shape[1], u.shape[2])) for u in maps]
        return [
            torch.from_numpy(np.stack([padded(u, grid) for u in of_source]))
            for of_source, grid in zip(zip(*images, strict=True), grids, strict=True)
        ]


def largest_canvas(layouts: Sequence[Layout]) -> Layout:
    """A layout with a canvas that holds those of all `layouts`."""
    canvas = max(layout.canvas[0] for layout in layouts), max(layout.canvas[1] for layout in layouts)
    return replace(layouts[0], canvas=canvas)


def rows_of_images(images: Sequence[int], layouts: Sequence[Layout]) -> list[int]:
    """The rows of features that `images` have: one per tile, or without `layouts` of all images one each."""
    if not layouts:
        return list(images)
    ends = list(itertools.accumulate(len(layout.corners) for layout in layouts))
    return [row for image in images for row in range(ends[image] - len(layouts[image].corners), ends[image])]
