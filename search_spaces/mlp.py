"""Two hidden layers: their widths, and dropout.

Sources:
    Width before depth, and widths on a log scale: Deep Learning Tuning Playbook,
    https://github.com/google-research/tuning_playbook, and Bergstra and Bengio 2012,
    https://jmlr.org/papers/v13/bergstra12a.html, who search perceptrons so
    Dropout of up to a half between hidden layers: Srivastava et al. 2014,
    https://jmlr.org/papers/v15/srivastava14a.html
"""

from orchestrator.prior import Beta
from orchestrator.space import Float, Int, Space

SPACE = Space(
    {
        "layer_1": Int(32, 512, log=True, default=128),
        "layer_2": Int(32, 512, log=True, default=256),
        "dropout": Float(0.0, 0.5, default=0.0, prior=Beta(1, 2)),
    }
)
