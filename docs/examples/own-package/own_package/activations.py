"""An activation with an argument."""

import torch
from torch import Tensor, nn


class Swish(nn.Module):
    """x * sigmoid(beta * x) with one learnt beta (Ramachandran, Zoph and Le, 2017).

    Args:
        beta: where the learnt factor starts.
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(float(beta)))  # a study file may say 2

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of a tensor of any shape, element by element."""
        return x * torch.sigmoid(self.beta * x)
