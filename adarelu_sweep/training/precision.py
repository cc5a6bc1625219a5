"""In which number format and memory layout a network computes."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from adarelu_sweep.training.settings import TrainingSettings


@dataclass(frozen=True)
class Precision:
    """fp32, or bfloat16 by autocast with fp32 weights; and the images' layout.

    fp32 is what PyTorch makes of it by default: on a GPU that has TF32, convolutions use it.
    """

    bf16: bool
    memory_format: torch.memory_format

    @classmethod
    def of(cls, training: TrainingSettings) -> "Precision":
        """Return what a trial's settings ask for."""
        return cls(
            bf16=training.precision == "bf16",
            memory_format=torch.channels_last
            if training.channels_last
            else torch.contiguous_format,
        )

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context in which the forward pass runs."""
        return torch.autocast(device.type, torch.bfloat16) if self.bf16 else nullcontext()
