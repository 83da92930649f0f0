"""A small convolutional network, trained from scratch with the decoder that reads it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.dropout import check_probability
from models.encoders.memory import Encoder, Memory, open_memory


class SmallCNN(Encoder):
    """Pictures (B, C, H, W) → Memory of one vector a field; each level halves height and width.

    Two more channels tell each pixel its row and column (Liu et al. 2018, arXiv 1807.03247), so
    that what is attended also says where it is. Batches are normalised (Ioffe and Szegedy 2015,
    arXiv 1502.03167): with groups of channels instead, two shapes were not told apart after 1,000
    steps where this took 500.
    """

    def __init__(
        self,
        *,
        picture_shape: Sequence[int],
        channels: Sequence[int] = (16, 32, 64),
        context_layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        """`context_layers` more convolutions at the last size let each field see far around it."""
        super().__init__()
        colours, *sides = picture_shape
        if not channels or min(sides) < 2 ** len(channels):
            raise ValueError(
                f"each of {len(channels)} channels halves the picture, which is {sides}: "
                "give between 1 and as many channels as leave a field"
            )
        if min(channels) < 1 or context_layers < 0:
            raise ValueError(
                "channels are 1 or more each and context_layers 0 or more, got "
                f"{list(channels)} and {context_layers}"
            )
        check_probability("dropout", dropout)
        levels: list[nn.Module] = []
        before = colours + 2
        for after in channels:
            levels += [
                nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False),
                nn.MaxPool2d(2),  # first, so that the rest runs on a quarter
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
            before = after
        self.network = nn.Sequential(*levels)
        self.context = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before + 2, before, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(before),
                nn.ReLU(),
            )
            for _ in range(context_layers)
        )
        self.dropout = nn.Dropout(dropout)
        self.output_size = before

    def forward(self, pictures: Tensor) -> Memory:
        """(B, C, H, W) → Memory with S = fields, row by row; the summary is their mean."""
        fields = self.network(torch.cat([pictures, _coordinates(pictures)], dim=1))
        for layer in self.context:
            fields = fields + layer(torch.cat([fields, _coordinates(fields)], dim=1))
        return open_memory(self.dropout(fields.flatten(2).transpose(1, 2)))


def _coordinates(pictures: Tensor) -> Tensor:
    """Rows and columns from -1 to 1: (B, 2, H, W)."""
    batch, _, height, width = pictures.shape
    rows, columns = (
        torch.linspace(-1.0, 1.0, size, device=pictures.device, dtype=pictures.dtype)
        for size in (height, width)
    )
    grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
    return grid.expand(batch, -1, -1, -1)
