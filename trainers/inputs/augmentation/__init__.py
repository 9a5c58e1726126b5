"""Random changes of images in training: their settings, and what makes them."""

from trainers.inputs.augmentation.mixing import mix_pairs
from trainers.inputs.augmentation.operations import MapLayer, augment_layers, check_kornia
from trainers.inputs.augmentation.own_transform import OwnTransform
from trainers.inputs.augmentation.random_crops import (
    Box,
    centred_box,
    crop_and_flip,
    random_box,
)
from trainers.inputs.augmentation.settings import Augmentation

__all__ = [
    "Augmentation",
    "Box",
    "MapLayer",
    "OwnTransform",
    "augment_layers",
    "centred_box",
    "check_kornia",
    "crop_and_flip",
    "mix_pairs",
    "random_box",
]
