"""SGD with momentum, its learning rate following a schedule after a warm-up.

Sources:
    Ranges and what to search first: learning rate, then momentum, then schedule, all but the schedule's kind on a log
    scale or near 1: Deep Learning Tuning Playbook, https://github.com/google-research/tuning_playbook
    The defaults 0.1, 0.9 and 5e-4 for images: He et al. 2016, https://arxiv.org/abs/1512.03385, and Zagoruyko and
    Komodakis 2016, https://arxiv.org/abs/1605.07146
    Nesterov's momentum: Sutskever et al. 2013, https://proceedings.mlr.press/v28/sutskever13.html
    Cosine: Loshchilov and Hutter 2017, https://arxiv.org/abs/1608.03983
    Warm-up: Goyal et al. 2017, https://arxiv.org/abs/1706.02677
"""

from orchestrator.prior import Normal
from orchestrator.space import Choice, Float, Space

SPACE = Space(
    {
        "lr": Float(1e-3, 1.0, log=True, default=0.1, prior=Normal(0.1, 4)),
        "momentum": Float(0.5, 0.99, default=0.9),
        "nesterov": Choice([False, True], default=True),
        "weight_decay": Float(1e-6, 1e-2, log=True, default=5e-4),
        "schedule": Choice(
            {
                "constant": {},
                "cosine": {"warmup_share": Float(0.0, 0.2, default=0.05)},  # of all steps
                "linear": {"warmup_share": Float(0.0, 0.2, default=0.05)},
            },
            default="cosine",
        ),
    }
)
