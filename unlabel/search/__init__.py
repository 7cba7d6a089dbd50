"""Search and zero-shot classification in the space of a trained joint encoder."""

from unlabel.search.index import Index
from unlabel.search.space import Space

__all__ = ["Index", "Space"]
