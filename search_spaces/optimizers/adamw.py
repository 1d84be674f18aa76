"""AdamW, its learning rate following a schedule after a warm-up.

Sources:
    Decoupled weight decay, and why it is searched on its own: Loshchilov and Hutter 2019,
    https://arxiv.org/abs/1711.05101
    beta1 and beta2, and the default learning rate of 1e-3: Kingma and Ba 2015, https://arxiv.org/abs/1412.6980
    A beta2 below 0.999 for short or unstable runs, and what to search first: Deep Learning Tuning Playbook,
    https://github.com/google-research/tuning_playbook
    Warm-up: Ma and Yarats 2021, https://arxiv.org/abs/1910.04209
"""

from orchestrator.prior import Normal
from orchestrator.space import Choice, Float, Space

SPACE = Space(
    {
        "lr": Float(1e-5, 1e-2, log=True, default=1e-3, prior=Normal(1e-3, 4)),
        "weight_decay": Float(1e-4, 1.0, log=True, default=1e-2),
        "beta1": Float(0.8, 0.98, default=0.9),
        "beta2": Choice([0.95, 0.98, 0.99, 0.999], default=0.999),
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
