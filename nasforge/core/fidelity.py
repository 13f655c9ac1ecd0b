"""What may change in a training that another trial continues: nothing in promotion, a little in a population."""

from __future__ import annotations

CHANGEABLE = frozenset(
    {
        *("learning_rate", "weight_decay", "momentum", "label_smoothing", "clip_norm", "dropout"),
        *("crop_pixels", "crop_fill", "cutout_pixels", "flip", "vertical_flip", "rotation_degrees", "color_jitter"),
        *("randaugment", "randaugment_magnitude", "random_erasing", "mixup", "cutmix", "drop_path"),
    }
)
"""Settings of a recipe that leave a training's state (weights, optimizer, averages, place in the data) as it is."""
