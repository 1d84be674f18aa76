"""What keeps a network from learning its training data by heart: dropout, label smoothing, weight decay, clipping.

Sources:
    Tune regularisation once the network is wide enough and trained for longer: Deep Learning Tuning Playbook,
    https://github.com/google-research/tuning_playbook
    Dropout: Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html
    Label smoothing of 0.1: Szegedy et al. 2016, https://arxiv.org/abs/1512.00567
    Drop of whole residual blocks: Huang et al. 2016, https://arxiv.org/abs/1603.09382
    Clipping of the gradient's norm: Pascanu et al. 2013, https://arxiv.org/abs/1211.5063
"""

from orchestrator.prior import Beta
from orchestrator.space import Choice, Float, Space

SPACE = Space(
    {
        "dropout": Float(0.0, 0.5, default=0.1, prior=Beta(1, 2)),
        "label_smoothing": Choice([0.0, 0.05, 0.1, 0.2], default=0.0),
        "stochastic_depth": Float(0.0, 0.3, default=0.0, prior=Beta(1, 2)),
        "weight_decay": Float(1e-6, 1e-1, log=True, default=1e-4),
        "trainer.gradient_clip_val": Choice([None, 0.5, 1.0, 5.0], default=None),
    }
)
