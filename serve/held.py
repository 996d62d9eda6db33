"""How many bytes of requests are held in memory at once."""

from __future__ import annotations

from typing import Final

from serve.refusals import TooMuchWork

MOST: Final = 512 * 2**20  # bytes of all requests that an ingress answers, of which a tenant may have half
FREE: Final = 64 * 2**10  # bytes of each request that nobody counts: requests themselves are counted


class Held:
    """Bytes that are held, and how many may be; those of a part are the whole's, too."""

    def __init__(self, most: int = MOST, whole: Held | None = None) -> None:
        self.most, self.whole, self.num = most, whole, 0

    def take(self, num: int) -> None:
        """Holds so many more. Raises TooMuchWork where there is no room, here or in the whole."""
        if self.num + num > self.most:
            raise TooMuchWork
        if self.whole is not None:
            self.whole.take(num)
        self.num += num

    def give(self, num: int) -> None:
        """Holds so many less."""
        if self.whole is not None:
            self.whole.give(num)
        self.num -= num
