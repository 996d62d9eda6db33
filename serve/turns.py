"""Who is next: tenants take turns, each one's own come in their order."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Turns(Generic[Item]):
    """A queue in which one tenant's thousand do not hold up another's one. Not for several threads at once."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Item]] = OrderedDict()  # whose turn it is first; nobody waits in vain

    def add(self, item: Item, tenant: str = "") -> None:
        """Puts an item behind its tenant's others."""
        self._waiting.setdefault(tenant, deque()).append(item)

    def take(self) -> Item:
        """The next one of the tenant whose turn it is. Raises IndexError if nothing waits."""
        if not self._waiting:
            raise IndexError("nothing waits")
        tenant, own = next(iter(self._waiting.items()))
        item = own.popleft()
        if own:
            self._waiting.move_to_end(tenant)
        else:
            del self._waiting[tenant]
        return item

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def __iter__(self) -> Iterator[Item]:
        return (item for own in self._waiting.values() for item in own)
