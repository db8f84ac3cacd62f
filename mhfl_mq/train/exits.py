"""A network whose depth is a choice: a stem, blocks of which a tier has the first few, and heads to leave it by.

With one head per block, head i belongs to block i, so a model of d blocks has the heads 0 to d-1, and a deeper model
contains it name by name (DepthFL, Kim et al. 2023; ScaleFL, Ilhan et al. 2023). With a single head, it stands after
the last block and is `heads.0` at any depth: then every block has to give features of the same size.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from mhfl_mq.errors import TaskError

__all__ = ["ExitNet"]


class ExitNet(nn.Module):
    """`stem`, then `blocks` one after the other, and one of `heads` after every block, or one after the last.

    A head turns what its block gives into scores (n, classes); pooling and flattening are its own business.
    """

    def __init__(self, stem: nn.Module, blocks: Sequence[nn.Module], heads: Sequence[nn.Module]) -> None:
        super().__init__()
        if not blocks or len(heads) not in (1, len(blocks)):
            raise TaskError(
                f"{len(heads)} heads for {len(blocks)} blocks",
                where=type(self).__name__,
                remedy="give at least one block, and one head for each block (exits) or a single one for the last",
            )
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)
        self.heads = nn.ModuleList(heads)

    def forward(self, inputs: Tensor) -> Tensor:
        """Scores (n, classes) of the last head."""
        scores: Tensor = self.heads[-1](self.features(inputs))
        return scores

    def exits(self, inputs: Tensor) -> list[Tensor]:
        """Scores (n, classes) of every head, the shallowest first, from one pass through the blocks."""
        x: Tensor = self.stem(inputs)
        scores: list[Tensor] = []
        first = len(self.blocks) - len(self.heads)  # the block of the first head
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number >= first:
                scores.append(self.heads[number - first](x))
        return scores

    def features(self, inputs: Tensor) -> Tensor:
        """What the last head gets: the last block's output."""
        x: Tensor = self.stem(inputs)
        for block in self.blocks:
            x = block(x)
        return x
