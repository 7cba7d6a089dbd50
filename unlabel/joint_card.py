"""What the model card of an encoder of several kinds of data says, and that of one side of it."""

from collections.abc import Sequence

from unlabel.modalities.joint import JointEncoder

_USE = """\
```python
import numpy as np
from unlabel.modalities import JointEncoder

encoder = JointEncoder.from_pretrained("path/to/this/folder")
random = np.random.default_rng(0)
found = {{
{examples}
}}
print(found["{first}"] @ found["{second}"].T)  # cosines: one row a query, one column a document
```

The whole loads with `transformers.AutoModel` once `unlabel.modalities` is imported, and gives the
same vectors by `get_features(side, **inputs)`. Each side's folder is a transformers model of its
own, without its projection into the space."""
_EXAMPLES = {
    "text": '["a red square", "a blue circle"]',
    "series": "random.normal(size=(2, {context}, {channels})).cumsum(axis=1)",
    "frames": "random.integers(0, 256, (2, {size}, {size}, 3), np.uint8)",
    "video": "random.integers(0, 256, (2, {frames}, {size}, {size}, 3), np.uint8)",
    "audio": "list(random.normal(size=(2, {rate})).astype(np.float32)), rate={rate}",
}
_SIZES = ("context", "channels", "size", "frames", "rate")


def about_joint(encoder: JointEncoder) -> tuple[str, str]:
    """What an encoder is, and how it is used."""
    millions = sum(p.numel() for p in encoder.parameters()) / 1e6
    lines = [
        f"- {name}: {type(tower.model).__name__} of {encoder.kinds[name]}, {tower.width} numbers "
        f"before its projection{', locked in training' if name in encoder.locked else ''}"
        for name, tower in encoder.towers.items()
    ]
    what = (
        f"# One space for {said(encoder.sides)}\n\n{len(encoder.sides)} encoders with "
        f"{millions:.1f} million parameters, pretrained together without labels by unlabel. Each "
        f"turns its side of a sample into {encoder.width} numbers of length 1; those of one sample "
        "lie near each other, so one side finds the other by its cosine.\n\n" + "\n".join(lines)
    )
    examples = (
        f'    "{name}": encoder.encode("{name}", {_example(encoder, name)}),'
        for name in encoder.sides
    )
    first, second = encoder.sides[:2]
    use = _USE.format(examples="\n".join(examples), first=first, second=second)
    return what, f"## Use\n\n{use}"


def about_side(encoder: JointEncoder, side: str, *, projected: bool) -> str:
    """What a card says of the one side of an encoder that an export holds."""
    others = said([name for name in encoder.sides if name != side])
    if projected:
        return (
            f"It is the {side} side of a space that it shares with {others}: its last layers are "
            f"the projection into {encoder.width} numbers, and the scaling to length 1."
        )
    return (
        f"It was pretrained together with encoders of {others}, as the {side} side of one space. "
        "Its projection into that space is no part of it: these are its own vectors."
    )


def said(names: Sequence[str]) -> str:
    """Names in a sentence."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _example(encoder: JointEncoder, side: str) -> str:
    tower = encoder.towers[side]
    sizes = {name: getattr(tower, name) for name in _SIZES if hasattr(tower, name)}
    return _EXAMPLES[encoder.kinds[side]].format(**sizes)


__all__ = ["about_joint", "about_side"]
