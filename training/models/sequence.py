"""How a map becomes a sequence, and a sequence one state."""

import torch
from torch import Tensor, nn


def reading_order(order: str, height: int, width: int) -> Tensor | None:
    """Places of a map, numbered row by row, in the order `rows`, `columns` or `snake`: int64 [h·w]; None for rows.

    snake: every second row is read backwards, so that places that follow each other touch.
    """
    places = torch.arange(height * width).view(height, width)
    if order == "rows":
        return None
    if order == "columns":
        return places.T.flatten()
    places[1::2] = places[1::2].flip(1)
    return places.flatten()


class AttentionPooling(nn.Module):
    """A weighted mean of the states, its weights learned (Raffel and Ellis, arXiv 1512.08756, equation 1).

    After this the states' order counts only through the recurrent network that made them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.score = nn.Linear(width, 1, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """[n, t, c] → [n, c]."""
        return (self.shares(states).unsqueeze(2) * states).sum(dim=1)

    def shares(self, states: Tensor) -> Tensor:
        """What each place counts, [n, t, c] → [n, t]; they add up to 1."""
        return torch.softmax(self.score(torch.tanh(self.hidden(states))).squeeze(2), dim=1)
