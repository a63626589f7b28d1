"""The settings of what a found network is put to: detection and recognition; plain frozen data, checked when built."""

import dataclasses
from typing import Literal

from jnas.recipes.settings import BELOW_ONE, LARGE, POSITIVE, Augmentation, settings


@settings(learning_rate=(POSITIVE, LARGE))
class Optimisation:
    """AdamW with a linear warm-up and a cosine to 0."""

    epochs: int = 40
    batch_size: int = 8
    learning_rate: float = 2e-3
    warmup: float = 0.05  # share of the steps
    weight_decay: float = 1e-2
    clip: float = 5.0  # bound of the gradient's norm


@settings(smallest=(POSITIVE, 100), largest=(POSITIVE, 100), colour=(0, BELOW_ONE))
class BoxAugmentation:
    """What happens to a training photo and its boxes, see `jnas.data.detection.sources.BoxAugment`."""

    flip: bool = True
    upright: bool = True  # whether the photo has a right way up; false: it is also mirrored up and down
    smallest: float = 0.8  # factors of its size
    largest: float = 1.4  # factor of its size
    colour: float = 0.2  # largest change of brightness and contrast, as a share

    def __post_init__(self):
        if self.smallest > self.largest:
            raise ValueError(f"smallest is {self.smallest} and largest {self.largest}: give the smaller factor first")


@settings(most_boxes=(1, 2**16), strides=(1, 2**13), most_overlap=(0, 1), threshold=(0, 1))
class TrainDetector:
    """Training of a detector on the network of an architecture: `jnas train WHAT --task detection --data FOLDER`."""

    genotype: str
    data: str = ""  # folder in the layout of VOC or COCO
    space: str = "nasbench201"
    seed: int = 0
    height: int = 240  # pixels into which a photo is fitted; a multiple of the coarsest stride, padded if it is none
    width: int = 320  # pixels, likewise
    # the network
    channels: int = 16
    depth: int | None = None  # cells, or cells a stage for NAS-Bench-201; null: the fewest with three resolutions
    stem: Literal["small_image", "imagenet"] = "imagenet"
    strides: list[int] = dataclasses.field(default_factory=lambda: [8, 16, 32])  # of the feature maps looked at
    head_channels: int = 32  # of the detector's convolutions
    head_depth: int = 2  # convolutions before each answer
    # the training
    held_out: Literal["test", "validation"] = "test"  # measured on; test: validation photos are trained on as well
    train: Optimisation = Optimisation()  # of the detector
    augmentation: BoxAugmentation = BoxAugmentation()
    # what counts as found
    most_boxes: int = 100  # an image
    most_overlap: float = 0.5  # of two boxes of one class
    threshold: float = 0.3  # score from which a box is drawn; average precision looks at all
    # the machine
    steps_per_call: int | None = None

    def __post_init__(self):
        if not self.strides:
            raise ValueError("strides is empty: give some that the network has, such as [8, 16, 32]")


@settings()
class TrainEmbedding:
    """Training of an embedding on the network of an architecture: `jnas train WHAT --task recognition --data DATA`."""

    genotype: str
    data: str = "fashion-mnist-slice"
    image_size: int | None = None
    space: str = "nasbench201"
    seed: int = 0
    # the network
    channels: int = 8
    depth: int | None = None  # cells, or cells a stage for NAS-Bench-201; null: the fewest with three resolutions
    stem: Literal["small_image", "imagenet"] = "small_image"
    dimension: int = 64  # of the embedding
    temperature: float = 0.1  # by which cosines are divided
    # the training
    train: Optimisation = Optimisation(epochs=3, batch_size=64, learning_rate=5e-3)  # of the embedding
    augmentation: Augmentation = Augmentation()
    # the machine
    steps_per_call: int | None = None
