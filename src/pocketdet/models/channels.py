"""The channels inside of a block: which of them can be cut out, and the cutting."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pocketdet.errors import SettingsError
from pocketdet.models.backbone import Backbone
from pocketdet.models.blocks import Bneck, ConvBlock, InvertedResidual, SqueezeExcitation
from pocketdet.models.kernel_health import is_depthwise

MIN_CHANNELS = 2  # with one channel a depthwise convolution would be a plain one


class Place(NamedTuple):
    """A depthwise convolution whose channels nobody sees but its own block.

    Args:
        name: Path of the convolution's module.
        before: What the producer reads; ``None`` where that is not known, or more than one reads it.
        producer: Makes the channels.
        depthwise: Filters them one by one.
        excite: Squeeze-and-excitation behind it.
        consumer: The pointwise convolution that mixes them.
        norm: Batch norm of the consumer.
    """

    name: str
    before: ConvBlock | None
    producer: ConvBlock
    depthwise: ConvBlock
    excite: SqueezeExcitation | None
    consumer: nn.Conv2d
    norm: nn.BatchNorm2d


def find_places(network: nn.Module) -> list[Place]:
    """All depthwise convolutions whose channels can be cut, in the order of the network."""
    names = {id(module): name for name, module in network.named_modules()}
    parts = list(_parts(network))
    places = []
    for index, part in enumerate(parts):
        if not (isinstance(part, ConvBlock) and is_depthwise(convolution_of(part))):
            continue
        producer, before = (parts[index - back] if index >= back else None for back in (1, 2))
        behind = parts[index + 1 : index + 4]
        excite = behind[0] if behind and isinstance(behind[0], SqueezeExcitation) else None
        consumer = _consumer(behind[1:] if excite is not None else behind)
        if isinstance(producer, ConvBlock) and not is_depthwise(convolution_of(producer)) and consumer is not None:
            known = before if isinstance(before, ConvBlock) else None
            name = names[id(convolution_of(part))]
            places.append(Place(name, known, producer, part, excite, *consumer))
    return places


def cut(place: Place, kept: Tensor) -> None:
    """Keep only some channels.

    Args:
        place: Changed in place; what the others contributed has to be elsewhere by now.
        kept: ``(n,)`` their indices.
    """
    for block in (place.producer, place.depthwise):
        layer = convolution_of(block)
        _keep(layer, ("weight",), kept)
        layer.out_channels = len(kept)
        norm = norm_of(block)
        _keep(norm, ("weight", "bias", "running_mean", "running_var"), kept)
        norm.num_features = len(kept)
    depthwise = convolution_of(place.depthwise)
    depthwise.in_channels = depthwise.groups = len(kept)
    if place.excite is not None:
        _keep(place.excite.fc1, ("weight",), kept, dim=1)
        _keep(place.excite.fc2, ("weight", "bias"), kept)
        place.excite.fc1.in_channels = place.excite.fc2.out_channels = len(kept)
    _keep(place.consumer, ("weight",), kept, dim=1)
    place.consumer.in_channels = len(kept)


def narrow(network: nn.Module, channels: Mapping[str, int]) -> None:
    """Give a network as built the channels of one from which some were cut.

    Args:
        network: Loses the last channels of each place; its weights are to be loaded afterwards.
        channels: Left at each place, by the name of its depthwise convolution.

    Raises:
        SettingsError: The network has no such place, or fewer channels there.
    """
    places = {place.name: place for place in find_places(network)} if channels else {}
    for name, count in channels.items():
        available = convolution_of(places[name].depthwise).out_channels if name in places else 0
        if not MIN_CHANNELS <= count <= available:
            raise SettingsError(
                f'"{name}" shall have {count} channels, and the network has {available} there that can be cut; '
                "its metadata belong to another network"
            )
        cut(places[name], torch.arange(count))


def convolution_of(block: ConvBlock) -> nn.Conv2d:
    """The convolution of a block."""
    layer = block[0]
    assert isinstance(layer, nn.Conv2d)
    return layer


def norm_of(block: ConvBlock) -> nn.BatchNorm2d:
    """The batch norm of a block."""
    norm = block[1]
    assert isinstance(norm, nn.BatchNorm2d)
    return norm


def _parts(module: nn.Module) -> Iterator[nn.Module | None]:
    """Layers and blocks in a row; ``None`` where what passes is also read by somebody else, or may be."""
    if isinstance(module, (ConvBlock, SqueezeExcitation, nn.Conv2d, nn.BatchNorm2d)):
        yield module
    elif isinstance(module, nn.Sequential):
        for child in module:
            yield from _parts(child)
    elif isinstance(module, (InvertedResidual, Bneck)):
        inner = module.conv if isinstance(module, InvertedResidual) else module.block
        shortcut = [None] if module.has_shortcut else []
        yield from (*shortcut, *_parts(inner), *shortcut)
    elif isinstance(module, Backbone):
        for index, block in enumerate(module.features):
            yield from _parts(block)
            if index in module.pyramid:
                yield None
    else:
        yield None
        for child in module.children():
            yield from _parts(child)
            yield None


def _consumer(behind: Sequence[nn.Module | None]) -> tuple[nn.Conv2d, nn.BatchNorm2d] | None:
    """The pointwise convolution that comes next, in a block or bare, with its batch norm."""
    first, second = (*behind, None, None)[:2]
    layer, norm = (first[0], first[1]) if isinstance(first, ConvBlock) else (first, second)
    if not (isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
        return None
    return (layer, norm) if layer.kernel_size == (1, 1) and layer.groups == 1 and layer.bias is None else None


def _keep(layer: nn.Module, names: Sequence[str], kept: Tensor, dim: int = 0) -> None:
    for name in names:
        value = getattr(layer, name)
        chosen = value.detach().index_select(dim, kept.to(value.device))
        setattr(layer, name, nn.Parameter(chosen, value.requires_grad) if isinstance(value, nn.Parameter) else chosen)
