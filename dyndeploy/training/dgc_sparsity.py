"""DGC's lasso loss: saliencies that are not needed go to zero."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dyndeploy.errors import DynError
from dyndeploy.ops.dgc.module import DGConv2d
from dyndeploy.training._saliencies import Listener, dgc_layers


class SparsityLoss(Listener):
    """Lasso on the saliencies of all DGConv2d (Su et al., ECCV 2020), as in the official code.

    loss = weight * sum over layers and heads of mean over n, c of g[n, head, c]

    g is the saliency before channels are dropped, so that dropped ones shrink too. The paper divides the sum by
    the number of layers and heads; for that, divide `weight`.

    Forwards are heard through hooks on `DGConv2d.saliency`, from the moment the object is made. Each call takes what
    was heard since the last one: one forward is the rule; several (two views of a batch, a layer that is used twice)
    add up. Forwards in eval mode or under torch.no_grad do not count, nor do those of copies of the model, as
    nn.DataParallel makes them. With gradient checkpointing the recomputed forward counts as one more.

    Args:
        model: any module with DGConv2d in it.
        weight: 1e-5 in the official code.

    Raises:
        DynError: the model has no DGConv2d, or weight is negative.

    Example:
        >>> from dyndeploy.nn import DGConv2d
        >>> layer = DGConv2d(8, 8, 1)
        >>> with SparsityLoss(layer) as sparsity:
        ...     loss = layer(torch.ones(2, 8, 4, 4)).mean() + sparsity()
    """

    def __init__(self, model: nn.Module, weight: float = 1e-5) -> None:
        if not weight >= 0:
            raise DynError(f"SparsityLoss: weight={weight} is negative.")
        super().__init__(dgc_layers(model))
        self.weight = weight
        self._terms: list[Tensor] = []

    def __call__(self) -> Tensor:
        """The loss of the forwards since the last call, a float32 (float64 for a float64 model) scalar with a graph.

        Raises:
            DynError: there was no forward in training mode since then.
        """
        if not self._terms:
            raise DynError(
                "SparsityLoss: no forward since the last call.",
                why="Forwards in eval mode, under torch.no_grad, or of a copy of the model do not count.",
                fix="model.train(); output = model(x); loss = criterion(output, target) + sparsity()",
            )
        total = torch.stack(self._terms).sum() * self.weight
        self.reset()
        return total

    def reset(self) -> None:
        """Forget the forwards since the last call, and with them their graphs, where a batch is given up."""
        self._terms = []

    def remove(self) -> None:
        """Take the hooks away and forget what was heard; the model is as before."""
        super().remove()
        self.reset()

    def _listen(self, layer: DGConv2d, saliency: Tensor) -> None:
        dtype = torch.promote_types(saliency.dtype, torch.float32)  # under autocast it is a half type
        self._terms.append(saliency.mean(dtype=dtype) * layer.heads)
