"""HeteroFL's scaler: a narrower layer's outputs are multiplied by how much narrower it is.

Diao, Ding, Tarokh: HeteroFL, ICLR 2021, section 3.3. Their released code has it in training alone, and a small tier
that is then used without it computes something else. Here it is a part of the tier's model, in training and ever after.
"""

from functools import partial

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

__all__ = ["add_scaler"]


def add_scaler(module: nn.Module, full: nn.Module) -> None:
    """Multiply the outputs of each linear and convolution layer of `module` by units in `full` / its own units.

    `full` is the largest tier's model. The head has as many units in all tiers, so it is left as it is; so are
    recurrent and attention layers, whose gates and weights no scaler of the paper touches.
    """
    wide = dict(full.named_modules())
    for name, layer in module.named_modules():
        times = _units(wide.get(name, layer)) / max(_units(layer), 1)
        if times > 1:
            layer.register_forward_hook(partial(_scaled, times))


def _units(layer: nn.Module) -> int:
    match layer:
        case nn.Linear():
            return layer.out_features
        case _ConvNd():
            return layer.out_channels
    return 0


def _scaled(times: float, _layer: nn.Module, _given: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output * times
