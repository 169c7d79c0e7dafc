"""The optimizers of a training, and what learns in which of its epochs.

'muon' is for networks that are trained from scratch with BatchNorm behind their convolutions (it
keeps every filter bank at a fixed norm): Muon for the filters, SGD for the rest. 'sgd', with
Nesterov's momentum, and 'adamw' take any network.
"""

import torch
from torch import Tensor, nn

from stages.common.network.chain import Chain
from stages.common.network.imported import ImportedNetwork
from stages.common.network.network import Network
from stages.common.training.muon import Muon
from stages.common.training.params import RecipeParams, Schedule


def make_optimizers(
    model: Network, recipe: RecipeParams, precision: torch.dtype
) -> list[torch.optim.Optimizer]:
    """Each parameter group has a 'multiple', of the learning rate of a step.

    Muon's products are of the type of the network's, as its author has them.
    """
    if isinstance(model, Chain):
        return optimizers_of_chain(model, recipe, precision)
    assert isinstance(model, ImportedNetwork)
    if recipe.optimizer == "muon":
        return with_muon(model, recipe, precision)
    groups = parameter_groups(model, recipe)
    if recipe.optimizer == "adamw":
        return [torch.optim.AdamW(groups, lr=0.0)]
    return [torch.optim.SGD(groups, lr=0.0, momentum=recipe.sgd_momentum, nesterov=True)]


def optimizers_of_chain(
    model: Chain, recipe: RecipeParams, precision: torch.dtype
) -> list[torch.optim.Optimizer]:
    """Muon for the 3x3 filters; SGD for biases and head, each at its multiple of the rate."""
    parameters = [value for name, value in model.named_parameters() if "whitening" not in name]
    filters = [value for value in parameters if value.requires_grad and value.dim() == 4]
    biases = [value for value in parameters if value.requires_grad and value.dim() == 1]
    sgd_groups = [
        {"params": params, "weight_decay": recipe.weight_decay / rate, "multiple": rate}
        for params, rate in (
            ([model.whitening_bias, *biases], recipe.bias_rate),
            ([model.head.weight], recipe.head_rate),
        )
    ]
    return [
        Muon([{"params": filters, "multiple": 1.0}], recipe.momentum, precision),
        torch.optim.SGD(sgd_groups, lr=0.0, momentum=recipe.sgd_momentum, nesterov=True),
    ]


def with_muon(
    model: ImportedNetwork, recipe: RecipeParams, precision: torch.dtype
) -> list[torch.optim.Optimizer]:
    """Muon for the filters of all convolutions but depthwise ones and the output layer."""
    output = model.output_layer()
    filters = [
        layer.weight
        for layer in model.body.modules()
        if isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer is not output
    ]
    groups = parameter_groups(model, recipe, without=filters)
    muon = [{"params": filters, "multiple": recipe.body_rate}]
    return [
        Muon(muon, recipe.momentum, precision),
        torch.optim.SGD(groups, lr=0.0, momentum=recipe.sgd_momentum, nesterov=True),
    ]


def parameter_groups(
    model: ImportedNetwork, recipe: RecipeParams, without: list[Tensor] | None = None
) -> list[dict]:
    """The output layer at the learning rate, all others at ``recipe.body_rate`` times it; weights
    decay, biases and norms do not.
    """
    excluded = {id(value) for value in without or []}
    output = {id(value) for value in model.output_layer().parameters()}
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for value in model.parameters():
        if id(value) not in excluded:
            multiple = 1.0 if id(value) in output else recipe.body_rate
            decay = recipe.weight_decay if value.dim() > 1 else 0.0
            groups.setdefault((multiple, decay), []).append(value)
    return [
        {"params": values, "weight_decay": decay, "multiple": multiple}
        for (multiple, decay), values in groups.items()
    ]


def set_rate(optimizers: list[torch.optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["multiple"] * rate


def begin_epoch(model: Network, epoch: int, schedule: Schedule, recipe: RecipeParams) -> bool:
    """Put the model into training mode; returns whether all that can learn does in this epoch.

    The chain's first bias learns in the first ``whitening_bias_epochs``. In the first
    ``frozen_epochs`` only the output layer of an imported network learns, and the statistics of
    its BatchNorms stay; with ``recipe.frozen_norms`` they always do.
    """
    model.train()
    if isinstance(model, Chain):
        learns = epoch < schedule.whitening_bias_epochs
        model.whitening_bias.requires_grad_(learns)
        return learns
    frozen = epoch < schedule.frozen_epochs
    if frozen:
        model.eval()
    model.requires_grad_(not frozen)
    if recipe.frozen_norms:
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
    model.output_layer().requires_grad_(True).train()
    return not frozen
