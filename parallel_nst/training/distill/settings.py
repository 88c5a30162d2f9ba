"""How the embedded backbone is trained, and what its teachers are shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TeacherFrame:
    """Reflected px around what a teacher sees, so that its features are those of a picture that goes on.

    cut: whether its own zero padding gives the frame positions, which are cut away again.
    """

    px: int
    cut: bool


FRAMES = {
    "vgg19": TeacherFrame(16, cut=True),  # zero padding darkens the rim of every layer
    # SqueezeNet's first convolution has no padding, so its grid is smaller than the student's and would have to be
    # stretched, up to 3 px out of place at the rim: a student trained so explains a third of that layer instead of nine
    # tenths. Half of its 7x7 window all round gives it the student's grid.
    "squeezenet": TeacherFrame(3, cut=False),
}


@dataclass(frozen=True)
class DistillSettings:
    """Every knob of the training.

    teacher: the backbone to learn from. widths: channels of each convolution, block by block.
    taps: student layer -> teacher layer. gram_weight: of the Gram matrices' errors beside those of the features.
    crop: px, square. shrink: one crop in four is cut from the photograph reduced by this factor.
    recoloured, noisy: shares of crops with other colours and with noise, such as paintings and pictures on their way
    have. held_out: photographs kept away from training, to measure the errors on. begin: the weights that the student
    begins with, in words.
    dtype: float32, or bfloat16 for networks in half precision.
    """

    teacher: str = "vgg19"
    widths: tuple[tuple[int, ...], ...] = ((16, 32), (48, 64), (96, 128, 128), (192, 192, 192), (256, 256))
    taps: tuple[tuple[str, str], ...] = (
        ("relu1_2", "relu1_1"),
        ("relu2_2", "relu2_1"),
        ("relu3_2", "relu3_1"),
        ("relu4_2", "relu4_1"),
        ("relu4_3", "relu4_2"),
        ("relu5_2", "relu5_1"),
    )
    gram_weight: float = 0.2
    steps: int = 3600
    batch: int = 8
    crop: int = 128
    shrink: float = 0.6
    recoloured: float = 0.5
    noisy: float = 0.25
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warmup: int = 100
    held_out: int = 60
    dtype: str = "float32"
    begin: str = "random"
    seed: int = 0
