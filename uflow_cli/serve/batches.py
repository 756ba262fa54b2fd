"""Images of several clients through one model: those that come while a batch is computed make the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor

import numpy as np
from numpy.typing import NDArray

from uflow_cli.detection.prediction import Prediction
from uflow_cli.run.detector import TrainedDetector

Image = NDArray[np.uint8]


class Batches:
    """A model that computes what waits, in batches as large as it likes them, in `pool`; alone images do not wait."""

    def __init__(self, detector: TrainedDetector, pool: Executor, *, on_batch: Callable[[int], None]) -> None:
        self.detector, self.pool, self.on_batch = detector, pool, on_batch
        self._waiting: deque[tuple[Image, asyncio.Future[Prediction]]] = deque()
        self._work: asyncio.Task[None] | None = None

    async def predict(self, image: Image) -> Prediction:
        """What the model says of the RGB `image` (H, W, 3); raises what the model raises."""
        future: asyncio.Future[Prediction] = asyncio.get_running_loop().create_future()
        self._waiting.append((image, future))
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._compute())
        return await future

    async def _compute(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            size = min(len(self._waiting), self.detector.model.batch_size)
            batch = [self._waiting.popleft() for _ in range(size)]
            self.on_batch(size)
            try:
                images = [image for image, _ in batch]
                found = await loop.run_in_executor(self.pool, self.detector.detect_together, images)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), prediction in zip(batch, found, strict=True):
                if not future.done():  # whoever waited may have gone
                    future.set_result(prediction)
