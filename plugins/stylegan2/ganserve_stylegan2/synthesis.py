"""The synthesis network g: w and noise → images, with modulated convolutions (Karras et al., 2020, sections 2 and 4.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ganserve_stylegan2.mapping import EPSILON, SLOPE
from ganserve_trainers.layers.equalized import EqualizedLinear, enlarged
from ganserve_trainers.layers.fir import Double, Smooth
from ganserve_trainers.layers.widening import widened

GAIN = 2**0.5
"""The activation's, applied in front of it, where the tensors are small: leaky ReLU has no scale of its own."""


class ModulatedConvolution(nn.Module):
    """A convolution whose weight every row scales by its own style, and normalizes again (eq. 1 and 3).

    w'_ijk = s_i w_ijk and w''_ijk = w'_ijk / sqrt(sum_ik w'_ijk^2 + epsilon), but with a constant weight: as s scales the input's
    feature maps and the demodulation the output's, x s is convolved with w, and divided by sqrt(sum_i s_i^2 sum_k w_ijk^2 + epsilon).
    With ``up`` the image doubles its sides: zeros between pixels, convolution, low-pass filter. ``scale`` multiplies the result.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        w: int,
        *,
        up: bool = False,
        demodulates: bool = True,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        gain = (inputs * kernel**2) ** -0.5  # equalized learning rate, applied to the style instead of the weight
        if not demodulates:
            gain *= scale  # else the demodulation would take it away again
        self.style = EqualizedLinear(w, inputs, start=1.0, scale=gain)
        # A transposed convolution counts its inputs first.
        self.weight = nn.Parameter(torch.randn(*((inputs, outputs) if up else (outputs, inputs)), kernel, kernel))
        self.demodulates, self.scale, self.padding = demodulates, scale, kernel // 2
        self.smooth = Smooth(outputs, padding=1, gain=4.0) if up else None
        self.power: Tensor | None
        self.register_buffer("power", None)

    def forward(self, features: Tensor, w: Tensor) -> tuple[Tensor, Tensor | None]:
        """``features`` ``[n, inputs, H, W]`` and w ``[n, w]`` → the convolution's result and what it has yet to be multiplied by.

        The latter is the demodulation ``[n, outputs, 1, 1]``, which the caller joins with its next operation.
        """
        with torch.autocast(features.device.type, enabled=False):
            style = self.style(w.float())
            scale = (style.square() @ self.powers() + EPSILON).rsqrt() if self.demodulates else None
        styled = features * style.to(features.dtype)[:, :, None, None]
        if self.smooth is None:
            return F.conv2d(styled, self.weight, padding=self.padding), _maps(scale)
        return self.smooth(F.conv_transpose2d(styled, self.weight, stride=2)), _maps(scale)

    def widened(self, name: str, narrow: Tensor) -> Tensor:
        """See :class:`ganserve_trainers.layers.widening.Widens`: the style's scale falls as the inputs grow."""
        return enlarged(getattr(self, name), narrow, 1 if self.smooth is None else 0)

    def powers(self) -> Tensor:
        """The sum of the squared weights over each kernel, ``[inputs, outputs]``, divided by the square of ``scale``."""
        if self.power is not None:
            return self.power
        powers = self.weight.float().square().sum((2, 3)) / self.scale**2
        return powers.T if self.smooth is None else powers

    @torch.no_grad()
    def freeze(self) -> None:
        """Make constants of what follows from the weights: they will not change any more."""
        if self.demodulates:
            self.power = self.powers().contiguous()


class Layer(nn.Module):
    """One styled convolution: modulation, 3x3 convolution, demodulation, noise, bias, leaky ReLU (figure 2c)."""

    def __init__(self, inputs: int, outputs: int, w: int, side: int, rate: float = 1.0, *, up: bool = False) -> None:
        """``side`` is the output's, and its noise's, whose strength learns ``rate`` times as fast as everything else."""
        super().__init__()
        self.convolution = ModulatedConvolution(inputs, outputs, 3, w, up=up, scale=GAIN)
        self.strength, self.rate = nn.Parameter(torch.zeros(())), rate
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.side, self.frozen = side, False

    def widened(self, name: str, narrow: Tensor) -> Tensor:
        """See :class:`ganserve_trainers.layers.widening.Widens`."""
        return widened(getattr(self, name), narrow)

    def forward(self, features: Tensor, w: Tensor, noise: Tensor, gain: Tensor | None) -> Tensor:
        """``noise`` is ``[n, side * side]``, ``gain`` ``[n]`` what it is multiplied by, besides the learned strength."""
        features, scale = self.convolution(features, w)
        assert scale is not None
        strength, bias = self.constants()
        dtype = features.dtype
        features = affine(features, scale.to(dtype), bias.to(dtype))
        if self.rate or self.frozen:  # a strength that does not learn stays 0, but a graph keeps its inputs
            noise = noise.view(-1, 1, self.side, self.side)
            noise = noise * (strength if gain is None else strength * gain[:, None, None, None])
            features = features + noise.to(dtype)
        return F.leaky_relu(features, SLOPE)

    def constants(self) -> tuple[Tensor, Tensor]:
        """The noise's strength and the bias ``[1, outputs, 1, 1]``, both with the activation's gain."""
        if self.frozen:
            return self.strength, self.bias
        return self.strength * (self.rate * GAIN), self.bias[None, :, None, None] * GAIN

    @torch.no_grad()
    def freeze(self) -> None:
        """Make constants of what follows from the weights: they will not change any more."""
        self.convolution.freeze()
        self.strength, self.bias = (nn.Parameter(made, requires_grad=False) for made in self.constants())
        self.frozen = True


class Picture(nn.Module):
    """toRGB: a modulated 1x1 convolution to the channels of the image, without demodulation (figure 2c and section 4.1)."""

    def __init__(self, inputs: int, channels: int, w: int, gain: float = 1.0) -> None:
        super().__init__()
        self.convolution = ModulatedConvolution(inputs, channels, 1, w, demodulates=False, scale=gain)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.frozen = False

    def forward(self, features: Tensor, w: Tensor) -> Tensor:
        """``features`` ``[n, inputs, H, W]`` → their part of the image, float32 ``[n, channels, H, W]``."""
        made: Tensor = self.convolution(features, w)[0]
        return made.float() + (self.bias if self.frozen else self.bias[None, :, None, None])

    @torch.no_grad()
    def freeze(self) -> None:
        """Make constants of what follows from the weights: they will not change any more."""
        self.bias = nn.Parameter(self.bias[None, :, None, None].clone(), requires_grad=False)
        self.frozen = True


class Block(nn.Module):
    """One resolution: its convolutions, and its part of the image, to which that of the lower ones is added (figure 7b)."""

    def __init__(self, inputs: int, outputs: int, channels: int, w: int, side: int, rate: float, gain: float) -> None:
        """``inputs`` 0 makes the first block, of a single convolution; ``rate`` is that of the noise, ``gain`` that of toRGB."""
        super().__init__()
        first = [Layer(inputs, outputs, w, side, rate, up=True)] if inputs else []
        self.layers = nn.ModuleList([*first, Layer(outputs, outputs, w, side, rate)])
        self.picture = Picture(outputs, channels, w, gain)
        self.enlarge = Double(channels) if inputs else None

    def forward(
        self,
        features: Tensor,
        image: Tensor | None,
        styles: Sequence[Tensor],
        noises: Sequence[Tensor],
        gains: Sequence[Tensor | None],
    ) -> tuple[Tensor, Tensor]:
        """The features and the image at this resolution. ``styles`` has one more than there are convolutions, for toRGB."""
        for layer, w, noise, gain in zip(self.layers, styles[:-1], noises, gains, strict=True):
            features = layer(features, w, noise, gain)
        made = self.picture(features, styles[-1])
        if self.enlarge is None or image is None:
            return features, made
        with torch.autocast(image.device.type, enabled=False):
            return features, self.enlarge(image) + made


class Synthesis(nn.Module):
    """w ``[n, layers, w]`` and noise ``[n, K]`` → images ``[n, C, H, W]``, in [-1, 1] but for overshoots.

    ``path_length`` is the average length that path length regularization steers to (see :mod:`ganserve_stylegan2.train`): a
    buffer, since a resumed run goes on from it.
    """

    path_length: Tensor

    def __init__(
        self, widths: Sequence[tuple[int, int]], channels: int, w: int, rate: float = 1.0, gain: float = 1.0
    ) -> None:
        """``widths`` are (side, feature maps) from the lowest resolution up; ``rate`` is how fast the noise's strengths learn.

        ``gain`` multiplies what every toRGB adds to the image. Both are 1 in the paper, of 25 million images; the family's README says
        what was seen on few.
        """
        super().__init__()
        side, outputs = widths[0]
        self.constant = nn.Parameter(torch.randn(1, outputs, side, side))
        blocks, inputs = [], 0
        for side, outputs in widths:
            blocks.append(Block(inputs, outputs, channels, w, side, rate, gain))
            inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.depths = [len(block.layers) for block in blocks]
        self.sizes = [side**2 for (side, _), depth in zip(widths, self.depths, strict=True) for _ in range(depth)]
        self.register_buffer("path_length", torch.zeros(()))

    def forward(self, w: Tensor, noise: Tensor, gains: Tensor | None = None) -> Tensor:
        """Images. ``noise`` holds all maps one behind the other; ``gains`` ``[n, layers]`` scales each layer's."""
        styles, noises = w.unbind(1), torch.split(noise, self.sizes, 1)
        factors = [None] * len(noises) if gains is None else gains.unbind(1)
        features, place = self.constant.expand(w.shape[0], -1, -1, -1), 0
        image: Tensor | None = None
        for block, depth in zip(self.blocks, self.depths, strict=True):
            after = place + depth
            # toRGB shares its row of w with the next resolution's first convolution.
            features, image = block(
                features, image, styles[place : after + 1], noises[place:after], factors[place:after]
            )
            place = after
        assert image is not None
        return image

    def freeze(self) -> None:
        """Make constants of what follows from the weights, each in the shape in which it is used: they will not change any more."""
        for module in list(self.modules()):
            if isinstance(module, Layer | Picture):
                module.freeze()
        del self.path_length  # training's alone


def _maps(scale: Tensor | None) -> Tensor | None:
    return None if scale is None else scale[:, :, None, None]


def affine(features: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """``features`` ``[n, C, H, W]`` times ``scale`` ``[n, C, 1, 1]`` plus ``bias`` ``[1, C, 1, 1]``."""
    if not features.is_contiguous(memory_format=torch.channels_last):
        return features * scale + bias
    # Channels are last: a row of pixels at a time, for PyTorch would loop over the few channels of one pixel (a CPU: six times as long).
    _, channels, height, width = features.shape
    rows = features.permute(0, 2, 3, 1).reshape(-1, height, width * channels)
    scale, bias = (factor.reshape(-1, 1, channels).repeat(1, 1, width) for factor in (scale, bias))
    return torch.addcmul(bias, rows, scale).view(-1, height, width, channels).permute(0, 3, 1, 2)
