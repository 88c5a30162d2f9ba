"""The geometry of the public backbones, with few channels, for tests."""

import torch

from parallel_nst.networks.backbones.embedded import Embedded
from parallel_nst.networks.backbones.resnet import ResNet
from parallel_nst.networks.backbones.squeezenet import SqueezeNet
from parallel_nst.networks.backbones.vgg import VGG

# The geometry of the public networks, narrow where they allow it, and layers down to their greatest stride.
NETWORKS = {
    "vgg16": (lambda: VGG(((2, 2), (2, 2), (3,) * 3, (3,) * 3, (3,))), "relu1_1 relu3_1 relu4_2 relu5_1"),
    "vgg19": (lambda: VGG(((2, 2), (2, 2), (3,) * 4, (3,) * 4, (3,))), "relu1_1 relu3_1 relu4_2 relu5_1"),
    "average": (lambda: VGG(((2, 2), (2, 2), (3, 3), (3,)), pool="average"), "relu1_1 relu3_1 relu4_1"),
    "resnet50": (lambda: ResNet(2), "relu1 conv2_block3 conv3_block4 conv4_block1 conv5_block1"),
    "folded": (lambda: drawn(ResNet(2)).fold(), "pool1 conv2_block1 conv4_block2 conv5_block3"),
    "squeezenet": (SqueezeNet, "relu1 pool1 fire3 fire5 fire9"),
    "embedded": (lambda: Embedded(((2, 2), (2, 2), (3, 3), (3, 3), (3,))), "relu1_1 relu3_1 relu5_1"),
}


def drawn(network, seed=0):
    """`network` with random weights that keep the size of features from layer to layer."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        own = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
        for name, value in own.items():
            if value.dim() == 4 and name == "weight":
                value.data = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
            elif name in ("weight", "running_var"):
                value.data = torch.rand(value.shape, generator=generator) + 0.5
            elif name in ("bias", "running_mean"):
                value.data = torch.randn(value.shape, generator=generator) * 0.1
    return network.requires_grad_(False)


def network_of(kind, dtype=torch.float64):
    build, names = NETWORKS[kind]
    return drawn(build()).to(dtype), names.split()
