"""Two convolutions: how many kernels, and of which size.

Version 2 asks for at least as many kernels in the second layer as in the first, and leaves kernels of 7 out.

Sources:
    More channels where the image is smaller: Simonyan and Zisserman 2015, https://arxiv.org/abs/1409.1556, where small
    kernels, stacked, also do the work of large ones
    Widths in steps that hardware likes: https://docs.nvidia.com/deeplearning/performance/dl-performance-convolutional
"""

from orchestrator.space import Choice, Int, Space

FIRST = Space(
    {
        "kernels_1": Int(8, 32, step=8, default=16),
        "kernels_2": Int(8, 64, step=8, default=32),
        "kernel_size_1": Choice([3, 5, 7], default=5),
        "kernel_size_2": Choice([3, 5, 7], default=5),
    }
)

VERSIONS = {
    1: FIRST,
    2: FIRST.narrow({"kernel_size_1": [3, 5], "kernel_size_2": [3, 5]}).extend({}, ["kernels_1 <= kernels_2"]),
}
