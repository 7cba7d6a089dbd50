"""Who is whose positive in `contrast`, and what is refused: every check of its arguments."""

import math

import torch
from torch import Tensor


def is_swap(own: Tensor) -> bool:
    """Whether i's positive has i as its positive: then one visit of a pair serves both."""
    return bool((own[own] == torch.arange(len(own), device=own.device)).all())


def _shape(x: Tensor | None) -> str:
    return "None" if x is None else str(tuple(x.shape))


def check_options(
    temperature: float | Tensor,
    tau_plus: float,
    beta: float,
    normalize: bool,
    two_forms: bool,
    reduction: str,
) -> None:
    """Refuses numbers outside their range and options that exclude each other."""
    if isinstance(temperature, Tensor) and temperature.numel() != 1:
        raise ValueError(
            f"temperature has shape {_shape(temperature)}: give a number or a tensor of one."
        )
    value = float(temperature.detach() if isinstance(temperature, Tensor) else temperature)
    if not 0 < value < math.inf:
        raise ValueError(
            f"temperature is {value}: give a positive number (0.05 to 0.5), or learn its logarithm."
        )
    if not 0 <= tau_plus < 1:
        raise ValueError(f"tau_plus is {tau_plus}: it is a share, at least 0 and below 1.")
    if tau_plus and not normalize:
        raise ValueError("tau_plus needs normalize=True: its floor exp(-1/T) is that of cosines.")
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta is {beta}: give 0 (off) or a positive number.")
    if two_forms:
        raise ValueError("flat and decoupled exclude each other: FlatNCE has no denominator.")
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction is {reduction!r}: give 'mean' or 'none'.")


def check_vectors(query: Tensor, keys: Tensor | None, positive: Tensor | None) -> None:
    """Refuses anything but one embedding a row, all of one width."""
    named = {"query": query, "keys": keys}
    if positive is not None and positive.is_floating_point():
        named["positive"] = positive
    for name, x in named.items():
        if x is None:
            continue
        if x.dim() != 2 or not x.is_floating_point() or not x.numel():
            raise ValueError(
                f"{name} has shape {_shape(x)} and type {x.dtype}: give one embedding a row, "
                "(rows, width), of a float type, at least one row and one number in it."
            )
        if x.shape[1] != query.shape[1]:
            raise ValueError(
                f"{name} {_shape(x)} and query {_shape(query)} differ in width: project them to "
                "the same width first."
            )
    if "positive" in named and len(named["positive"]) != len(query):
        raise ValueError(
            f"positive has {len(named['positive'])} vectors for {len(query)} queries: give each "
            "query its own."
        )


def _index(name: str, index: Tensor, n_queries: int, limit: int) -> Tensor:
    if index.shape != (n_queries,) or index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(
            f"{name} has shape {_shape(index)} and type {index.dtype}: give one whole number a "
            f"query, ({n_queries},)."
        )
    low, high = torch.stack(index.aminmax()).tolist()
    if low < 0 or high >= limit:
        raise ValueError(
            f"{name} reaches from {low} to {high}, but the keys are numbered 0 to {limit - 1}."
        )
    return index.long()


def places(
    query: Tensor,
    keys: Tensor | None,
    positive: Tensor | None,
    itself: Tensor | None,
    symmetric: bool,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Each query's positive, as place or vectors, and the places that are no negatives of it."""
    n = len(query)
    m = n if keys is None else len(keys)
    here = torch.arange(n, device=query.device)
    if keys is None and (positive is None or itself is not None or symmetric):
        raise ValueError(
            "without keys the queries are each other's: give positive (no query can be its own), "
            "and leave out itself and symmetric, which are implied."
        )
    if positive is None and n > m:
        raise ValueError(
            f"{n} queries and {m} keys have no diagonal: give positive, each query's place among "
            "the keys."
        )
    self = here if keys is None else None if itself is None else _index("itself", itself, n, m)
    own = here if positive is None else positive
    if own.is_floating_point() and not symmetric:
        return own, () if self is None else (self,)
    if positive is not None:  # the diagonal needs no look, for which the device would be waited for
        own = _index("positive", own, n, m)
    if keys is None and bool((own == here).any()):
        raise ValueError("positive names a query as its own positive: name its partner instead.")
    one_to_one = positive is None or not symmetric or len(own.unique()) == n
    if symmetric and (n != m or itself is not None or not one_to_one):
        raise ValueError(
            f"symmetric needs each of the {m} keys to be the positive of one of the {n} queries "
            "and no itself: queries and keys are two sets of the same samples."
        )
    return own, (own,) if self is None else (own, self)


def ids(
    query: Tensor, keys: Tensor | None, query_id: Tensor | None, key_id: Tensor | None
) -> tuple[Tensor | None, Tensor | None]:
    """The ids of queries and of keys, both or neither."""
    if keys is None:
        if key_id is not None:
            raise ValueError("without keys there is no key_id: query_id is that of both.")
        key_id = query_id
    m = len(query) if keys is None else len(keys)
    if (query_id is None) != (key_id is None) or (
        query_id is not None
        and key_id is not None
        and (query_id.shape != (len(query),) or key_id.shape != (m,))
    ):
        raise ValueError(
            f"query_id {_shape(query_id)} and key_id {_shape(key_id)}: give both, one id for each "
            f"of the {len(query)} queries and {m} keys."
        )
    return query_id, key_id
