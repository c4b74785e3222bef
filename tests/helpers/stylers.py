"""Feed-forward style nets in plain torch, at their real sizes, with random weights; each as its authors define it.
`paint` takes a picture RGB 0–1 and returns one, not clipped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

VGG_MEAN = torch.tensor([103.939, 116.779, 123.68]).reshape(1, 3, 1, 1)


def randomised(net: nn.Module, seed: int = 0) -> nn.Module:
    """The net with random weights: features keep their size, and norms have an effect."""
    source = torch.Generator().manual_seed(seed)
    for name, value in [*net.named_parameters(), *net.named_buffers()]:
        with torch.no_grad():
            if value.ndim == 4:
                value.copy_(torch.randn(value.shape, generator=source) * (2 / value[0].numel()) ** 0.5)
            elif name.endswith(("running_var", "weight")):
                value.copy_(torch.rand(value.shape, generator=source) + 0.5)
            elif value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=source) * 0.2)
    return net.eval()


def settled(net: nn.Module) -> nn.Module:
    """The net, with batch norms' statistics taken from a picture, as after training."""
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
    with torch.no_grad():
        net.train()(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 255 - VGG_MEAN)
    return net.eval()


class ConvLayer(nn.Module):
    def __init__(self, into: int, out: int, kernel: int, stride: int = 1, doubled: bool = False) -> None:
        super().__init__()
        self.doubled = doubled
        self.reflection_pad = nn.ReflectionPad2d(kernel // 2)
        self.conv2d = nn.Conv2d(into, out, kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.interpolate(x, scale_factor=2, mode="nearest") if self.doubled else x
        return self.conv2d(self.reflection_pad(x))  # type: ignore[no-any-return]


class ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = ConvLayer(channels, channels, 3), ConvLayer(channels, channels, 3)
        self.in1, self.in2 = (nn.InstanceNorm2d(channels, affine=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.in2(self.conv2(functional.relu(self.in1(self.conv1(x))))) + x  # type: ignore[no-any-return]


class TransformerNet(nn.Module):
    """pytorch/examples' fast_neural_style."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.in1 = ConvLayer(3, 32, 9), nn.InstanceNorm2d(32, affine=True)
        self.conv2, self.in2 = ConvLayer(32, 64, 3, 2), nn.InstanceNorm2d(64, affine=True)
        self.conv3, self.in3 = ConvLayer(64, 128, 3, 2), nn.InstanceNorm2d(128, affine=True)
        self.res1, self.res2, self.res3, self.res4, self.res5 = (ResidualBlock(128) for _ in range(5))
        self.deconv1, self.in4 = ConvLayer(128, 64, 3, doubled=True), nn.InstanceNorm2d(64, affine=True)
        self.deconv2, self.in5 = ConvLayer(64, 32, 3, doubled=True), nn.InstanceNorm2d(32, affine=True)
        self.deconv3 = ConvLayer(32, 3, 9)

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in ((self.conv1, self.in1), (self.conv2, self.in2), (self.conv3, self.in3)):
            x = functional.relu(norm(conv(x)))
        for block in (self.res1, self.res2, self.res3, self.res4, self.res5):
            x = block(x)
        for conv, norm in ((self.deconv1, self.in4), (self.deconv2, self.in5)):
            x = functional.relu(norm(conv(x)))
        return self.deconv3(x)  # type: ignore[no-any-return]

    def paint(self, picture: Tensor) -> Tensor:
        return self(picture * 255) / 255  # type: ignore[no-any-return]


class Shaved(nn.Module):
    """inner(x) + x, with x cropped to the same size."""

    def __init__(self, inner: nn.Module, crop: int) -> None:
        super().__init__()
        self.inner, self.crop = inner, crop

    def forward(self, x: Tensor) -> Tensor:
        skip = x[:, :, self.crop : -self.crop, self.crop : -self.crop] if self.crop else x
        return self.inner(x) + skip  # type: ignore[no-any-return]


class Johnson(nn.Sequential):
    """jcjohnson's fast-neural-style, layer by layer as in its models.lua; `doubling` is "u" (learned) or "U" (nearest,
    then a norm), `padding` is "reflect-start", "reflect" or "zero"."""

    def __init__(
        self,
        width: int = 16,
        norm: type[nn.Module] = nn.InstanceNorm2d,
        doubling: str = "u",
        padding: str = "reflect-start",
    ) -> None:
        self.made, a, b, c = norm, width, 2 * width, 4 * width
        outer: list[nn.Module] = [nn.ReflectionPad2d(4)] if padding == "reflect" else []
        zeros = 0 if padding == "reflect" else 4
        super().__init__(
            *([nn.ReflectionPad2d(40)] if padding == "reflect-start" else []),
            *outer,
            *(nn.Conv2d(3, a, 9, padding=zeros), self.normed(a), nn.ReLU()),
            *(nn.Conv2d(a, b, 3, 2, 1), self.normed(b), nn.ReLU()),
            *(nn.Conv2d(b, c, 3, 2, 1), self.normed(c), nn.ReLU()),
            *(self.residual(c, padding) for _ in range(5)),
            *self.doubled(c, b, doubling),
            *self.doubled(b, a, doubling),
            *outer,
            nn.Conv2d(a, 3, 9, padding=zeros),
        )

    def normed(self, channels: int) -> nn.Module:
        return self.made(channels, affine=True)

    def residual(self, channels: int, padding: str) -> nn.Module:
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.ReflectionPad2d(1)] if padding == "reflect" else []
            layers += [
                nn.Conv2d(channels, channels, 3, padding=int(padding == "zero")),
                self.normed(channels),
                nn.ReLU(),
            ]
        return Shaved(nn.Sequential(*layers[:-1]), 2 if padding == "reflect-start" else 0)

    def doubled(self, into: int, out: int, how: str) -> list[nn.Module]:
        if how == "u":
            return [nn.ConvTranspose2d(into, out, 3, 2, 1, 1), self.normed(out), nn.ReLU()]
        up = [nn.Upsample(scale_factor=2, mode="nearest"), self.normed(into), nn.ReLU()]
        return [*up, nn.Conv2d(into, out, 3, padding=1), self.normed(out), nn.ReLU()]

    def paint(self, picture: Tensor) -> Tensor:
        made = torch.tanh(self(picture.flip(1) * 255 - VGG_MEAN)) * 150
        return ((made + VGG_MEAN) / 255).flip(1)

    def converted(self) -> dict[str, Tensor]:
        """The state dict with the names of converters of Torch's files."""
        return {name.replace(".inner.", ".0.0."): value for name, value in self.state_dict().items()}

    def pystiche(self) -> dict[str, Tensor]:
        """The state dict with pystiche's names: layers up to a relu form a Sequential."""
        named: dict[str, Tensor] = {}
        units = list(self._units())
        for at, (kind, layers) in enumerate(units):
            half, place = ("encoder", at + 1) if at < 8 else ("decoder", at - 8)
            for number, layer in enumerate(layers):
                block = f"residual.{number // 2}.{number % 2}" if kind == "residual" else f"{number}"
                name = f"{half}.{place}.{block}" if len(layers) > 1 else f"{half}.{place}"
                named |= {f"{name}.{role}": value for role, value in layer.state_dict().items()}
        return named

    def _units(self) -> Iterator[tuple[str, list[nn.Module]]]:
        """Layers with weights that belong together."""
        waiting: list[nn.Module] = []
        for layer in self:
            if isinstance(layer, Shaved):
                yield "residual", [inner for inner in layer.inner.modules() if [*inner.parameters(False)]]
            elif isinstance(layer, nn.ReLU):
                yield "conv", waiting
                waiting = []
            elif [*layer.parameters()]:
                waiting.append(layer)
        yield "conv", waiting


class Lengstrom(nn.Module):
    """lengstrom's fast-style-transfer on variables [k, k, in, out] as TensorFlow keeps them."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(9, 3, 32), (3, 32, 64), (3, 64, 128), *[(3, 128, 128)] * 10, (3, 64, 128), (3, 32, 64), (9, 32, 3)]
        self.outputs = [out for _, _, out in sizes[:13]] + [64, 32, 3]
        shapes = [
            shape
            for (k, into, out), own in zip(sizes, self.outputs, strict=True)
            for shape in ((k, k, into, out), (own,), (own,))
        ]
        self.variables = nn.ParameterList(torch.zeros(shape) for shape in shapes)

    def layer(self, at: int, x: Tensor, stride: int = 1, relu: bool = True, transposed: bool = False) -> Tensor:
        kernel, shift, scale = self.variables[3 * at : 3 * at + 3]
        if transposed:
            # The gradient of a SAME convolution of stride 2, which pads an even picture only at the end.
            x = functional.conv_transpose2d(x, kernel.permute(3, 2, 0, 1), stride=2)[:, :, :-1, :-1]
        else:
            whole = kernel.shape[0] - stride
            x = functional.conv2d(
                functional.pad(x, [whole // 2, whole - whole // 2] * 2), kernel.permute(3, 2, 0, 1), stride=stride
            )
        variance, mean = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
        x = scale[:, None, None] * (x - mean) / (variance + 1e-3) ** 0.5 + shift[:, None, None]
        return functional.relu(x) if relu else x

    def forward(self, x: Tensor) -> Tensor:
        for at, stride in enumerate((1, 2, 2)):
            x = self.layer(at, x, stride)
        for at in range(3, 13, 2):
            x = x + self.layer(at + 1, self.layer(at, x), relu=False)
        x = self.layer(14, self.layer(13, x, transposed=True), transposed=True)
        return self.layer(15, x, relu=False)

    def paint(self, picture: Tensor) -> Tensor:
        return (torch.tanh(self(picture * 255)) * 150 + 255 / 2) / 255

    def named(self) -> dict[str, Tensor]:
        return {f"Variable_{at}" if at else "Variable": value.detach() for at, value in enumerate(self.variables)}


def contrasted(picture: Tensor, factor: float = 1.5) -> Tensor:
    """torchvision's adjust_contrast, without its clipping."""
    grey = (picture * torch.tensor([0.2989, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(1, keepdim=True)
    return factor * picture + (1 - factor) * grey.mean((2, 3), keepdim=True)


class Unit(nn.Module):
    """Two convolutions, and a 1×1 convolution as the skip connection."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for first in (into, out):
            layers += [nn.Conv2d(first, out, 3, 1, 1), nn.InstanceNorm2d(out), nn.ReLU()]
        self.conv, self.skip = nn.Sequential(*layers), nn.Conv2d(into, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.skip(x)  # type: ignore[no-any-return]


class UNet(nn.Module):
    """CLIPstyler's U-Net."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.conv_init, self.init = nn.Conv2d(3, width, 1), Unit(width, width)
        self.encoding, self.out = Unit(4 * width, 8 * width), Unit(2 * width, width)
        for level, (into, out) in enumerate(((1, 1), (1, 2), (2, 4)), 1):
            down = Unit(into * width, out * width)
            down.downsample = nn.Conv2d(out * width, out * width, 4, 2, 1)
            self.add_module(f"down{level}", down)
            self.add_module(f"up{level}", Unit(width * (2**level + out), out * width))
        self.conv_fin = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        modules: dict[str, Any] = dict(self.named_children())
        start = x = self.init(self.conv_init(x))
        kept = []
        for level in (1, 2, 3):
            kept.append(modules[f"down{level}"](x))
            x = modules[f"down{level}"].downsample(kept[-1])
        x = self.encoding(x)
        for level in (3, 2, 1):
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = modules[f"up{level}"](torch.cat([x, kept[level - 1]], 1))
        return self.conv_fin(self.out(torch.cat([x, start], 1)))  # type: ignore[no-any-return]

    def paint(self, picture: Tensor) -> Tensor:
        return contrasted(torch.sigmoid(self(picture)))


def vgg_normalised() -> nn.Sequential:
    """The whole encoder: the file also contains what comes after relu4_1."""
    layers: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
    plan = [3, 64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512]
    into = 3
    for out in plan[1:]:
        if isinstance(out, int):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(into, out, 3), nn.ReLU()]
            into = out
        else:
            layers.append(nn.MaxPool2d(2, 2, ceil_mode=True))
    return nn.Sequential(*layers)


def decoder() -> nn.Sequential:
    """AdaIN's and CLIPstyler's decoder."""
    layers: list[nn.Module] = []
    into = 512
    for out in (256, "U", 256, 256, 256, 128, "U", 128, 64, "U", 64, 3):
        if isinstance(out, int):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(into, out, 3), nn.ReLU()]
            into = out
        else:
            layers.append(nn.Upsample(scale_factor=2, mode="nearest"))
    return nn.Sequential(*layers[:-1])


class Fast(nn.Module):
    """CLIPstyler's fast net: the encoder, then the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = vgg_normalised(), decoder()

    def paint(self, picture: Tensor) -> Tensor:
        return contrasted(self.decoder(self.encoder[:31](picture)))
