"""Where tokens stand: one number each, or three (time, height, width) for models that see images in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Positions:
    """The positions of a dialogue's tokens as `model` wants them.

    Qwen2-VL and its successors (whatever has a `get_rope_index`) place the patches of an image in height and width
    and go on after the longer side, so that positions fall behind columns. All others count tokens.
    """

    def __init__(self, model: Any, image_token: int | None) -> None:
        self._owner: Any = next((module for module in model.modules() if hasattr(module, "get_rope_index")), None)
        self._image_token = image_token

    @property
    def axes(self) -> int:
        """How many numbers a position has."""
        return 1 if self._owner is None else 3

    def of(self, ids: Sequence[int], grids: Tensor | None) -> Tensor:
        """(axes, tokens) positions of a whole dialogue whose images have the patches `grids` (images, 3)."""
        if self._owner is None or grids is None:
            return torch.arange(len(ids)).expand(self.axes, -1)
        row = torch.tensor([ids])
        kinds = torch.eq(row, -1 if self._image_token is None else self._image_token).int()
        table: Tensor = self._owner.get_rope_index(row, mm_token_type_ids=kinds, image_grid_thw=grids.cpu())[0]
        return table[:, 0]

    def joined(self, rows: Sequence[Tensor], width: int) -> Tensor:
        """Rows of (axes or 1, new) positions as (rows, width), or (3, rows, width), 0 where a row is padded in front.

        >>> Positions(torch.nn.Identity(), None).joined([torch.tensor([[4, 5]]), torch.tensor([[7]])], 2)
        tensor([[4, 5],
                [0, 7]])
        """
        table = torch.zeros(self.axes, len(rows), width, dtype=torch.long)
        for number, row in enumerate(rows):
            table[:, number, width - row.shape[1] :] = row
        return table[0] if self._owner is None else table
