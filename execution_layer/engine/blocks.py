"""The pool of KV blocks: how many sequences hold each, and which are kept for their contents though none does."""

from execution_layer.engine.prefix import PrefixCache


class BlockPool:
    """Blocks 1 … n (0 is the null block). A block is free, held by one or more, or idle: cached and held by nobody.

    Idle blocks are given out once no block is free, in the order in which they were released.
    """

    def __init__(self, blocks: int, cache: PrefixCache) -> None:
        self._cache = cache
        self._free = list(range(blocks, 0, -1))
        self._holders: dict[int, int] = {}
        self._idle: dict[int, None] = {}

    @property
    def available(self) -> int:
        """Blocks that nobody holds."""
        return len(self._free) + len(self._idle)

    def can_allocate(self, count: int) -> bool:
        """Return whether `allocate` can be called `count` times."""
        return count <= self.available

    def allocate(self) -> int:
        """Return a block that nobody else holds; what was cached in it is forgotten."""
        assert self.can_allocate(1)
        if self._free:
            block = self._free.pop()
        else:
            block = next(iter(self._idle))
            del self._idle[block]
            self._cache.forget(block)
        self._holders[block] = 1
        return block

    def is_idle(self, block: int) -> bool:
        """Return whether holding this block leaves one fewer available."""
        return block in self._idle

    def hold(self, block: int) -> None:
        """Hold a cached block, along with those that hold it already."""
        if block in self._idle:
            del self._idle[block]
            self._holders[block] = 1
        else:
            self._holders[block] += 1

    def release(self, block: int) -> None:
        """End one hold."""
        assert self._holders.get(block, 0) > 0
        self._holders[block] -= 1
        if self._holders[block]:
            return
        del self._holders[block]
        if block in self._cache:
            self._idle[block] = None
        else:
            self._free.append(block)

    def forget(self) -> None:
        """Forget what all blocks hold: nobody may use it again."""
        self._free += self._idle
        self._idle.clear()
        self._cache.clear()
