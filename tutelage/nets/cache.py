"""Where keys and values of a text in the making are kept."""

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


class Room(DynamicLayer):
    """Keys and values of a layer in storage made once for the longest text, where the library's own copies all of it at each token."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length, self.used = length, 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add keys and values `[B, heads, new, width]`; returns all there are."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            shape = (*key_states.shape[:2], self.length)
            self.keys = key_states.new_empty(*shape, key_states.shape[3])
            self.values = value_states.new_empty(*shape, value_states.shape[3])
        before, self.used = self.used, self.used + key_states.shape[2]
        assert self.keys is not None and self.values is not None
        self.keys[:, :, before : self.used] = key_states
        self.values[:, :, before : self.used] = value_states
        return self.keys[:, :, : self.used], self.values[:, :, : self.used]

    def get_seq_length(self) -> int:
        """Tokens so far."""
        return self.used


def roomy_cache(config: Any, length: int) -> DynamicCache:
    """A cache for texts of so many tokens; layers with a sliding window keep the library's own."""
    cache = DynamicCache(config=config)
    cache.layers = [Room(length) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
