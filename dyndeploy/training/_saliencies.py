"""Listening to the saliencies of a network: what DGC's loss and its network-wise threshold have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dyndeploy.errors import DynError
from dyndeploy.ops.dgc.module import DGConv2d

if TYPE_CHECKING:
    from typing_extensions import Self


def dgc_layers(model: nn.Module) -> list[DGConv2d]:
    """The DGConv2d of a model, each once.

    Raises:
        DynError: it has none.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, DGConv2d)]
    if not layers:
        raise DynError(f"{type(model).__name__} has no DGConv2d.", fix="model.select = dyndeploy.nn.DGConv2d(…)")
    return layers


class Listener:
    """Forward hooks on the saliency networks of some layers, until `remove` or the end of a `with` block.

    A forward that is not trained with (in eval mode, or under torch.no_grad) is not heard.
    """

    def __init__(self, layers: list[DGConv2d]) -> None:
        self._layer_of: dict[nn.Module, DGConv2d] = {layer.saliency: layer for layer in layers}
        self._hooks = [saliency.register_forward_hook(self._hear) for saliency in self._layer_of]

    def _hear(self, saliency: nn.Module, _inputs: Any, output: Tensor) -> None:
        # A copy of the model (a moving average, say) copies the hook with it, and is not what is trained.
        if saliency in self._layer_of and saliency.training and torch.is_grad_enabled():
            self._listen(self._layer_of[saliency], output)

    def _listen(self, layer: DGConv2d, saliency: Tensor) -> None:
        """Take one layer's saliency [N, heads*C] of one forward."""
        raise NotImplementedError

    def __deepcopy__(self, _memo: Any) -> Self:
        return self  # reached through the hooks of a model that is copied

    def remove(self) -> None:
        """Take the hooks away; the model is as before."""
        for hook in self._hooks:
            hook.remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.remove()
