"""A network that a factory makes: of torchvision, of a package, or one's own."""

from torch import Tensor, nn

from stages.common.core.cli import InputError
from stages.common.network.factories import make_body
from stages.common.network.network import Network


class ImportedNetwork(Network):
    """A factory's module behind the normalization of the pixels.

    ``config`` is ``{"factory": "torchvision:resnet18", "arguments": {}, "classes": 10,
    "image_size": [H, W]}``. The mean is one whole number for the three colours, so that a
    deployed network subtracts one scalar, which INT8 represents exactly; ``std`` is by colour.
    """

    def __init__(self, config: dict):
        super().__init__(config)
        self.body = make_body(config["factory"], config["arguments"], config["classes"])

    def forward(self, pixels: Tensor) -> Tensor:
        return self.body((pixels - self.mean) / self.std)

    def output_layer(self) -> nn.Conv2d | nn.Linear:
        """The last layer with as many outputs as there are classes.

        Raises ``InputError`` where none has.
        """
        classes = self.config["classes"]
        for layer in reversed(list(self.body.modules())):
            if isinstance(layer, nn.Conv2d | nn.Linear) and len(layer.weight) == classes:
                return layer
        raise InputError(
            f"the network {self.config['factory']} has no convolution or linear layer with "
            f"{classes} outputs, one a class"
        )


def give_shapes(body: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give every layer the shapes that its weights have, in place: those that pruning left.

    The values of resized weights are those of ``weights``. Raises ``InputError`` for a layer whose
    weights have another number of dimensions.
    """
    layers = dict(body.named_modules())
    for name, value in weights.items():
        path, _, key = name.rpartition(".")
        layer = layers.get(path)
        own = getattr(layer, key, None)
        if not isinstance(own, Tensor) or own.shape == value.shape:
            continue  # what is missing or too much, load_state_dict says
        if own.dim() != value.dim():
            raise InputError(f"{name} has the shape {tuple(own.shape)}, not {tuple(value.shape)}")
        own.data = value.clone()
        assert layer is not None
        if key == "weight":
            note_shape(layer, value)


def note_shape(layer: nn.Module, weight: Tensor) -> None:
    """Bring the numbers that a layer keeps of its own shape in line with its new weight.

    A depthwise convolution has fewer groups then, another grouped one narrower groups.
    """
    if isinstance(layer, nn.Conv2d):
        if layer.groups == layer.in_channels:
            outputs_each = layer.out_channels // layer.groups
            layer.groups = len(weight) // outputs_each
        layer.out_channels, layer.in_channels = len(weight), weight.shape[1] * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = weight.shape
    elif isinstance(layer, nn.BatchNorm2d):
        layer.num_features = len(weight)
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels = len(weight)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(weight)
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = tuple(weight.shape)
