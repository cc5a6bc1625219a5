"""The networks by name, without importing torch.

A package offers its own in the entry point group that the registry names.
"""

from typing import Annotated

from pydantic import Field

from adarelu_sweep.components import Argument, Entry, Registry

Width = Annotated[float, Field(gt=0, le=16)]

NETWORKS = Registry(
    "network",
    [
        Entry(
            "vgg16",
            "adarelu_sweep.networks.vgg:vgg16",
            "VGG-16 without batch norm, one linear layer on the pooled features",
            {"width": Argument(Width, 1.0)},
        ),
        Entry(
            "vgg16_bn",
            "adarelu_sweep.networks.vgg:vgg16_bn",
            "VGG-16 with batch norm, one linear layer on the pooled features",
            {"width": Argument(Width, 1.0)},
        ),
        Entry(
            "resnet18",
            "adarelu_sweep.networks.resnet:resnet18",
            "ResNet-18 for 32 x 32 images: 3 x 3 stem, no pooling in the stem",
            {"width": Argument(Width, 1.0)},
        ),
    ],
    group="adarelu_sweep.networks",
)
