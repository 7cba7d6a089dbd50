"""One knob for the dropout of a transformers model."""

from typing import Any

# What the dropout probabilities are called in the configurations of BERT and its kin, of PatchTST
# and of our own models.
_DROPOUTS = (
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "embd_pdrop",
    "attn_pdrop",
    "resid_pdrop",
    "embedding_dropout",
    "mlp_dropout",
    "positional_dropout",
    "path_dropout",
    "ff_dropout",
)


def set_dropout(config: Any, probability: float | None) -> None:
    """Set every dropout probability the configuration has; None leaves them alone.

    Raises:
        ValueError: no probability.
    """
    if probability is None:
        return
    if not 0 <= probability < 1:
        raise ValueError(f"dropout is a probability below 1, but {probability} came.")
    for name in _DROPOUTS:
        if hasattr(config, name):
            setattr(config, name, probability)
