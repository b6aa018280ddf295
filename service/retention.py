"""Which cells' pixels are kept, and keeping them: decoded, without metadata, for a bounded time."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from service.contract.image import Pixels
from service.contract.pixels import PixelStore
from service.settings import Settings

log = logging.getLogger(__name__)

PURGE_PERIOD_S = 3600.0


class Retention:
    """The rule of the settings over a pixel store."""

    def __init__(self, settings: Settings, pixels: PixelStore) -> None:
        self._mode = settings.image_retention
        self._share = settings.image_sample
        self._days = settings.image_retention_days
        self._pixels = pixels
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="pixels")

    def keeps(self, record_id: str, *, refer: bool, test: bool) -> bool:
        """Whether a cell's pixels are kept. The record's id draws the sample, so that every worker draws the same."""
        if test or self._mode == "none":
            return False
        return self._mode == "all" or refer or int(record_id[:8], 16) / 2**32 < self._share

    async def save(self, pixels: Pixels) -> None:
        """Keeps pixels uint8 [H, W, 3]; they are on the disk on return. Raises StoreUnavailable."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._pixels.save, pixels)

    async def has(self, pixels_sha256: str) -> bool:
        """Whether those pixels are still kept."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._pixels.has, pixels_sha256)

    async def purge_for_ever(self) -> None:
        """Deletes what is older than the settings allow, now and every hour."""
        while True:
            try:
                gone = await asyncio.get_running_loop().run_in_executor(self._threads, self._pixels.purge, self._days)
            except OSError as error:
                log.warning("old pixels cannot be deleted: %s", error.strerror)
            else:
                if gone:
                    log.info("deleted the pixels of %d cells older than %d days", gone, self._days)
            await asyncio.sleep(PURGE_PERIOD_S)

    def close(self) -> None:
        """Lets the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)
