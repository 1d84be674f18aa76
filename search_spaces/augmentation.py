"""What is done to training images: crops, flips, RandAugment, erasing, and mixtures of two images.

Sources:
    Crops of the padded image and flips: Krizhevsky et al. 2012, and He et al. 2016, https://arxiv.org/abs/1512.03385
    Two numbers instead of a policy: RandAugment, Cubuk et al. 2020, https://arxiv.org/abs/1909.13719 (their ranges)
    Erasing: Zhong et al. 2020, https://arxiv.org/abs/1708.04896
    mixup with alpha of 0.1 to 0.4: Zhang et al. 2018, https://arxiv.org/abs/1710.09412
    CutMix with alpha of 1: Yun et al. 2019, https://arxiv.org/abs/1905.04899
"""

from orchestrator.space import Choice, Float, Int, Space

SPACE = Space(
    {
        "augmentation.crop_padding": Int(0, 8, step=2, default=4),  # pixels, of images 32 wide
        "augmentation.flip": Choice([False, True], default=True),
        "augmentation.erasing": Float(0.0, 0.5, default=0.0),  # share of the images
        "augmentation.policy": Choice(
            {
                "none": {},
                "randaugment": {
                    "operations": Int(1, 3, default=2),
                    "magnitude": Int(2, 14, default=9),  # of 30
                },
            },
            default="none",
        ),
        "augmentation.mixture": Choice(
            {
                "none": {},
                "mixup": {"mixup_alpha": Float(0.1, 0.4, default=0.2)},
                "cutmix": {"cutmix_alpha": Float(0.5, 1.0, default=1.0)},
            },
            default="none",
        ),
    }
)
