"""Work done ahead of need by a few threads, in order, and never more of it than fits in memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

N_THREADS = min(8, os.cpu_count() or 1)


def done_ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, ahead: int = 2 * N_THREADS
) -> Iterator[Result]:
    """`work(item)` for each item, in order, up to `ahead` items before they are asked for; its errors are raised."""
    with ThreadPoolExecutor(N_THREADS) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
