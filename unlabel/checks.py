"""Checks that every room makes of what it is given."""


def check_above_0(**numbers: float | None) -> None:
    """Refuse sizes and counts, by name, with which nothing would be done; None is left out.

    Raises:
        ValueError: one is below 1.
    """
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"{name} is at least 1, but {number} came.")


__all__ = ["check_above_0"]
