"""Published cells of the DARTS space, as their authors' repositories print them.

NASNet and AmoebaNet, which the same files hold, are left out: their operators are not those of DARTS, and they take one
input twice.
"""

from jnas.spaces.families.darts import Genotype


def _of_four_nodes(*pairs: tuple[str, int]) -> Genotype:
    """The first eight pairs are those of the normal cell, the others those of the reduction cell."""
    return Genotype(
        normal=list(pairs[:8]), normal_concat=range(2, 6), reduce=list(pairs[8:]), reduce_concat=range(2, 6)
    )


# Liu, Simonyan, Yang, ICLR 2019; github.com/quark0/darts, cnn/genotypes.py (V1: first order; V2: second order)
DARTS_V1 = _of_four_nodes(
    ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 0), ("sep_conv_3x3", 1),
    ("skip_connect", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 2),
    ("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 0),
    ("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("avg_pool_3x3", 0),
)  # fmt: skip
DARTS_V2 = _of_four_nodes(
    ("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
    ("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2),
    ("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 1),
    ("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("max_pool_3x3", 1),
)  # fmt: skip

# Xu et al., "PC-DARTS", ICLR 2020; github.com/yuhuixu1993/PC-DARTS, genotypes.py (found on CIFAR-10, on ImageNet)
PC_DARTS_cifar = _of_four_nodes(
    ("sep_conv_3x3", 1), ("skip_connect", 0), ("sep_conv_3x3", 0), ("dil_conv_3x3", 1),
    ("sep_conv_5x5", 0), ("sep_conv_3x3", 1), ("avg_pool_3x3", 0), ("dil_conv_3x3", 1),
    ("sep_conv_5x5", 1), ("max_pool_3x3", 0), ("sep_conv_5x5", 1), ("sep_conv_5x5", 2),
    ("sep_conv_3x3", 0), ("sep_conv_3x3", 3), ("sep_conv_3x3", 1), ("sep_conv_3x3", 2),
)  # fmt: skip
PC_DARTS_image = _of_four_nodes(
    ("skip_connect", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 0), ("skip_connect", 1),
    ("sep_conv_3x3", 1), ("sep_conv_3x3", 3), ("sep_conv_3x3", 1), ("dil_conv_5x5", 4),
    ("sep_conv_3x3", 0), ("skip_connect", 1), ("dil_conv_5x5", 2), ("max_pool_3x3", 1),
    ("sep_conv_3x3", 2), ("sep_conv_3x3", 1), ("sep_conv_5x5", 0), ("sep_conv_3x3", 3),
)  # fmt: skip

# Chen, Xie, Wu, Tian, "Progressive DARTS", ICCV 2019; github.com/chenxin061/pdarts, genotypes.py
PDARTS = _of_four_nodes(
    ("skip_connect", 0), ("dil_conv_3x3", 1), ("skip_connect", 0), ("sep_conv_3x3", 1),
    ("sep_conv_3x3", 1), ("sep_conv_3x3", 3), ("sep_conv_3x3", 0), ("dil_conv_5x5", 4),
    ("avg_pool_3x3", 0), ("sep_conv_5x5", 1), ("sep_conv_3x3", 0), ("dil_conv_5x5", 2),
    ("max_pool_3x3", 0), ("dil_conv_3x3", 1), ("dil_conv_3x3", 1), ("dil_conv_5x5", 3),
)  # fmt: skip

# Chen et al., "DrNAS", ICLR 2021; github.com/xiangning-chen/DrNAS, DARTS-space/genotypes.py
DrNAS_cifar10 = _of_four_nodes(
    ("sep_conv_3x3", 0), ("sep_conv_5x5", 1), ("sep_conv_3x3", 1), ("sep_conv_3x3", 2),
    ("skip_connect", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 2), ("dil_conv_5x5", 3),
    ("max_pool_3x3", 0), ("sep_conv_5x5", 1), ("dil_conv_5x5", 2), ("sep_conv_5x5", 1),
    ("sep_conv_5x5", 1), ("dil_conv_5x5", 3), ("skip_connect", 4), ("sep_conv_5x5", 1),
)  # fmt: skip
DrNAS_imagenet = _of_four_nodes(
    ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
    ("sep_conv_3x3", 0), ("dil_conv_3x3", 3), ("skip_connect", 0), ("sep_conv_3x3", 1),
    ("max_pool_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 2),
    ("sep_conv_3x3", 0), ("sep_conv_3x3", 2), ("sep_conv_3x3", 3), ("sep_conv_3x3", 1),
)  # fmt: skip

# Chen, Hsieh, "SDARTS", ICML 2020; github.com/xiangning-chen/SmoothDARTS, sota/cnn/genotypes.py, where these two are
# named c10_s5_random (random smoothing) and c10_s5_pgd (adversarial perturbation)
SDARTS_RS = _of_four_nodes(
    ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_5x5", 1), ("skip_connect", 0),
    ("sep_conv_3x3", 3), ("skip_connect", 1), ("sep_conv_3x3", 1), ("dil_conv_3x3", 2),
    ("max_pool_3x3", 0), ("sep_conv_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 0),
    ("dil_conv_5x5", 3), ("max_pool_3x3", 0), ("sep_conv_3x3", 2), ("sep_conv_5x5", 3),
)  # fmt: skip
SDARTS_ADV = _of_four_nodes(
    ("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 1), ("skip_connect", 0),
    ("sep_conv_5x5", 0), ("dil_conv_3x3", 3), ("dil_conv_3x3", 4), ("skip_connect", 0),
    ("max_pool_3x3", 0), ("sep_conv_5x5", 1), ("skip_connect", 2), ("max_pool_3x3", 0),
    ("skip_connect", 3), ("skip_connect", 2), ("skip_connect", 2), ("sep_conv_5x5", 4),
)  # fmt: skip

PUBLISHED = {name: value for name, value in list(globals().items()) if isinstance(value, Genotype)}
