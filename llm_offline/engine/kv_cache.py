"""Which sequence owns which block of the KV cache, and which blocks can be shared.

Bookkeeping only, no tensors: the cache is cut into blocks of `size` tokens, a sequence owns a list
of them. A full block is remembered by its content, so that a later prompt that begins the same
way reuses it instead of computing it again (PagedAttention, Kwon et al. 2023). Content is
`(uid of the block before, its tokens)`: compared as it is, so no hash can collide, and one look-up
a block, however long the prefix.

Block 0 belongs to nobody: steps of fixed shape fill themselves up with rows that write there.

Blocks of one sequence lie side by side where there is room: then attention reads them where they
are, and need not collect them first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

Content = tuple[int, tuple[int, ...]]
"""The uid of the block before, and the tokens."""

ROOT = 0
"""Stands for the block before the first one."""


class BlockPool:
    """All blocks: free, owned by sequences, or idle (owned by none, but of known content)."""

    def __init__(self, blocks: int, size: int, *, share: bool = True) -> None:
        """Blocks 1 to `blocks`, of `size` tokens each; `share`: find blocks by their content."""
        self.size = size
        self.blocks = blocks
        self.shares = share
        self._free = bytearray(b"\x00" + b"\x01" * blocks)
        self._free_count = blocks
        self._cursor = 0  # where the next sequence begins
        self._owners = [0] * (blocks + 1)
        self._by_content: dict[Content, int] = {}
        self._content: dict[int, Content] = {}
        self._uid: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # least recently used first
        self._last_uid = ROOT

    @property
    def available(self) -> int:
        """Blocks that `take` can give: free ones, and idle ones, whose content is then lost."""
        return self._free_count + len(self._idle)

    def take(self, after: int | None, span: int) -> int:
        """An empty block, owned by the caller: the one `after` another, if it is free.

        Args:
            after: The last block of the sequence; None begins one.
            span: Blocks that the sequence may come to need: the next one begins behind them.

        Raises:
            KeyError: None is available.
        """
        if not self._free_count:
            self._evict()
        if after is not None and after < self.blocks and self._free[after + 1]:
            block = after + 1
        else:
            block = self._free.find(1, self._cursor)
            if block < 0:
                block = self._free.find(1)
            self._cursor = (block + span) % len(self._free)
        self._free[block] = 0
        self._free_count -= 1
        self._owners[block] = 1
        return block

    def _evict(self) -> None:
        """Forget the content of the least recently used idle blocks: some, to find neighbours."""
        for _ in range(len(self._idle) // 8 + 1):
            block, _ = self._idle.popitem(last=False)
            del self._by_content[self._content.pop(block)], self._uid[block]
            self._free[block] = 1
            self._free_count += 1

    def find(self, content: Content) -> tuple[int, int] | None:
        """The block of this content and its uid, with the caller as one more owner."""
        block = self._by_content.get(content)
        if block is None:
            return None
        self._idle.pop(block, None)
        self._owners[block] += 1
        return block, self._uid[block]

    def remember(self, block: int, content: Content) -> int:
        """Make a full block findable; its uid, or that of another block of the same content."""
        known = self._by_content.get(content)
        if known is not None:
            return self._uid[known]
        self._last_uid += 1
        if self.shares:
            self._by_content[content] = block
            self._content[block] = content
            self._uid[block] = self._last_uid
        return self._last_uid

    def give_back(self, block: int) -> None:
        """One owner less; without owners it is idle if its content is known, else free."""
        self._owners[block] -= 1
        if self._owners[block]:
            return
        if block in self._content:
            self._idle[block] = None
        else:
            self._free[block] = 1
            self._free_count += 1


class BlockTable:
    """The blocks of one sequence, in the order of its tokens."""

    def __init__(self, pool: BlockPool, most_tokens: int = 1) -> None:
        """`most_tokens`: how long the sequence may become."""
        self._pool = pool
        self._span = -(-most_tokens // pool.size)
        self.blocks: list[int] = []
        """Block number of tokens `i * size` to `(i + 1) * size - 1`, for each i."""
        self.is_run = True
        """Whether they lie side by side, in order."""
        self._uids: list[int] = []
        self.reused = 0
        """Tokens that `reuse` found."""

    def reserve(self, tokens: int) -> bool:
        """Own blocks for `tokens` tokens in all; False, and nothing taken, if there are too few."""
        lacking = -(-tokens // self._pool.size) - len(self.blocks)
        if lacking > self._pool.available:
            return False
        for _ in range(lacking):
            last = self.blocks[-1] if self.blocks else None
            self._append(self._pool.take(last, self._span))
        return True

    def next_content(self, tokens: Sequence[int]) -> Content | None:
        """Content of the first block not yet known, if it lies wholly before the last token.

        The last token is always computed: its logits are what the next one is drawn from.
        """
        start = len(self._uids) * self._pool.size
        if start + self._pool.size >= len(tokens):
            return None
        parent = self._uids[-1] if self._uids else ROOT
        return parent, tuple(tokens[start : start + self._pool.size])

    def reuse(self, tokens: Sequence[int]) -> int:
        """Own blocks that hold the beginning of `tokens` already; tokens that they hold.

        Only whole known blocks are followed: call it when nothing else is computed.
        """
        while len(self.blocks) == len(self._uids) and (content := self.next_content(tokens)):
            found = self._pool.find(content)
            if found is None:
                break
            self._append(found[0])
            self._uids.append(found[1])
            self.reused += self._pool.size
        return len(self._uids) * self._pool.size

    def remember(self, tokens: Sequence[int], computed: int) -> None:
        """Make the blocks that `computed` tokens fill findable for others."""
        size = self._pool.size
        while (len(self._uids) + 1) * size <= computed:
            number = len(self._uids)
            parent = self._uids[-1] if self._uids else ROOT
            content = parent, tuple(tokens[number * size : (number + 1) * size])
            self._uids.append(self._pool.remember(self.blocks[number], content))

    def release(self) -> None:
        """Give all back, the deepest first: a prefix outlives what follows it."""
        for block in reversed(self.blocks):
            self._pool.give_back(block)
        self.blocks.clear()
        self.is_run = True
        self._uids.clear()
        self.reused = 0

    def _append(self, block: int) -> None:
        self.is_run = self.is_run and (not self.blocks or block == self.blocks[-1] + 1)
        self.blocks.append(block)
