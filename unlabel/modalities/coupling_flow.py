"""An invertible encoder of windows and clips, as a transformers model."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from unlabel.couplings import CouplingFlow


class CouplingFlowConfig(PreTrainedConfig):
    """Sizes of a `CouplingFlowModel`.

    Args:
        length: tokens of a sample.
        values: numbers of a token.
        patch_size: steps of a token of series, or rows and columns of one of frames.
        tubelet_size: frames of a token of clips.
        hidden_size: width of the couplings' networks, and of the vectors that come out.
        num_hidden_layers: steps of mixing and coupling.
    """

    model_type = "coupling_flow"

    def __init__(
        self,
        *,
        length: int = 16,
        values: int = 12,
        patch_size: int = 12,
        tubelet_size: int = 1,
        hidden_size: int = 128,
        num_hidden_layers: int = 8,
        **kwargs: Any,
    ):
        self.length, self.values = length, values
        self.patch_size, self.tubelet_size = patch_size, tubelet_size
        self.hidden_size, self.num_hidden_layers = hidden_size, num_hidden_layers
        super().__init__(**kwargs)


@dataclass
class CouplingFlowOutput(ModelOutput):
    """What the model gives back.

    Attributes:
        last_hidden_state: one vector a token, from all couplings' networks, `(batch, length,
            hidden_size)`.
        hidden_states: the input, then what each step makes of it; the last is noise, `(batch,
            length, values)` each.
        log_prob: ln p of each sample, in nats, `(batch,)`.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    log_prob: Tensor | None = None


class CouplingFlowModel(PreTrainedModel):
    """A flow from samples to standard normal noise; it starts as the identity.

    Example:
        >>> import torch
        >>> model = CouplingFlowModel(CouplingFlowConfig(length=4, values=6))
        >>> out = model(torch.randn(2, 4, 6))
        >>> model.inverse(out.hidden_states[-1]).shape
        torch.Size([2, 4, 6])
    """

    config_class = CouplingFlowConfig
    base_model_prefix = "model"
    main_input_name = "values"

    def __init__(self, config: CouplingFlowConfig):
        super().__init__(config)
        self.flow = CouplingFlow(
            config.length,
            config.values,
            steps=config.num_hidden_layers,
            hidden=config.hidden_size,
        )
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        # The flow's own start is the identity.
        pass

    def forward(self, values: Float[Tensor, "batch length values"]) -> CouplingFlowOutput:
        """Noise and density of whole samples.

        Raises:
            ValueError: another number of tokens or values.
        """
        wanted = (self.config.length, self.config.values)
        if tuple(values.shape[1:]) != wanted:
            raise ValueError(
                f"A flow takes whole samples of {wanted[0]} x {wanted[1]} numbers, but "
                f"{values.shape[1]} x {values.shape[2]} came: leave out views that cut samples."
            )
        found = self.flow(values)
        return CouplingFlowOutput(found.hidden, tuple(found.latents), found.log_prob)

    def inverse(self, noise: Float[Tensor, "batch length values"]) -> Tensor:
        """The samples that noise stands for."""
        return self.flow.inverse(noise)

    @torch.no_grad()
    def sample(
        self, count: int, *, seed: int = 0, temperature: float = 1.0
    ) -> Float[Tensor, "count length values"]:
        """New samples, in normalised units.

        Args:
            count: how many.
            seed: of the noise.
            temperature: standard deviation of the noise.
        """
        like = next(self.parameters())
        noise = torch.randn(
            count,
            self.config.length,
            self.config.values,
            generator=torch.Generator().manual_seed(seed),
        )
        return self.inverse(temperature * noise.to(like))


AutoConfig.register(CouplingFlowConfig.model_type, CouplingFlowConfig, exist_ok=True)
AutoModel.register(CouplingFlowConfig, CouplingFlowModel, exist_ok=True)

__all__ = ["CouplingFlowConfig", "CouplingFlowModel", "CouplingFlowOutput"]
