"""How to train: optimizer, schedule, augmentation and regularisation, as data.

The papers' recipes count learning rates for the paper's batch and points of the schedule as shares
of the paper's run; :func:`Recipe.optimizer` fits both to the run at hand. Where a paper lowers the
rate "when the validation error stops improving", the recipe has the points at which that happened,
or at which its released configuration does it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import keras

from keras_cls.data.augmentation import Augmentation
from keras_cls.data.mixing import Mixing
from keras_cls.data.rand_augment import RandAugment
from keras_cls.errors import ConfigError
from keras_cls.preprocessing import Preprocessing
from keras_cls.training.lookahead import Lookahead
from keras_cls.training.optimizers import (
    AdamW,
    Decays,
    Method,
    Multiplier,
    Rates,
    RmsProp,
    Sgd,
    make_optimizer,
)
from keras_cls.training.schedules import (
    Cosine,
    Exponential,
    Plateaus,
    Schedule,
    Scheduled,
    Steps,
    Triangle,
)


@dataclass(frozen=True)
class FineTuning:
    """How weights that were trained on other classes are carried over.

    Attributes:
        head_first: the share of the run in which only the head learns.
        body_rate: how fast the last stage learns then, as a share of the head's rate.
        layer_decay: each stage of the network, counted from the head, learns at this many times
            the rate of the one behind it (arXiv:1801.06146); 1 for one rate.
        frozen_statistics: batch normalization stays as in inference, its statistics the old
            data's.
    """

    head_first: float = 0.2
    body_rate: float = 0.1
    layer_decay: float = 0.7
    frozen_statistics: bool = True


@dataclass(frozen=True)
class Stop:
    """A variable that learns for a part of the run only.

    Attributes:
        variable: its path in the network, such as ``"whitening/bias"``; a network that has no such
            variable is trained as without.
        after: the share of the run in which it learns.
    """

    variable: str
    after: float


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A way to train.

    Attributes:
        name: what ``recipe=`` calls it.
        summary: one line on what it is for.
        source: where its figures stand, and what was chosen where the paper is silent.
        method: the optimizer.
        learning_rate: the highest, for a batch of ``batch_size``; another batch scales it.
        batch_size: images a step of all devices together, where the caller does not say; fewer
            where there are few images.
        epochs: how long the paper trained; None for no paper.
        schedule: how the learning rate goes after the rise.
        warmup: the share of all steps in which the learning rate rises from almost zero.
        weight_decay: of the method's kind, see :mod:`keras_cls.training.optimizers`.
        decays: whether biases and the parameters of normalization decay too.
        norm_bias_rate: the rate of normalization's biases as a multiple of the others'; their
            weight decay is divided by it, so that a step takes as much from them.
        stops: variables that learn for a part of the run only.
        clip_norm: the largest norm of all gradients together.
        augmentation: what happens to a training image.
        mixing: how the images of a batch are mixed.
        label_smoothing: the share of a target that is spread over all classes.
        aux_weight: the weight of each auxiliary head's loss, where the network has such heads.
        drop_path: whether drop path, where the network has it, grows with the run.
        ema: the momentum, for each step, of the moving average of weights that is judged and kept;
            in the first steps it is smaller.
        lookahead: the network is set to a moving average of itself every few steps; None: never.
        fine_tuning: for weights that were trained on something else; None to treat all alike.
    """

    name: str
    summary: str
    source: str = ""
    method: Method = AdamW()
    learning_rate: float = 1e-3
    batch_size: int = 32
    epochs: int | None = None
    schedule: Schedule = Cosine()
    warmup: float = 0.0
    weight_decay: float = 0.0
    decays: Decays = "kernels"
    norm_bias_rate: float = 1.0
    stops: tuple[Stop, ...] = ()
    clip_norm: float | None = None
    augmentation: Augmentation = Augmentation()
    mixing: Mixing = Mixing()
    label_smoothing: float = 0.0
    aux_weight: float = 0.0
    drop_path: bool = False
    ema: float | None = None
    lookahead: Lookahead | None = None
    fine_tuning: FineTuning | None = None

    def learning_rate_for(self, batch_size: int) -> float:
        """The highest learning rate for a batch of another size."""
        return self.learning_rate * (batch_size / self.batch_size) ** self.method.scaling

    def scheduled(self, steps: int, batch_size: int | None = None) -> Scheduled:
        """The learning rate of each of a run's ``steps`` steps of ``batch_size`` images."""
        peak = self.learning_rate_for(batch_size or self.batch_size)
        return Scheduled(self.schedule, peak, steps, math.ceil(self.warmup * steps))

    def optimizer(
        self, learning_rate: Scheduled, multiplier: Multiplier | None = None
    ) -> keras.Optimizer:
        """A fresh optimizer that goes through these learning rates."""
        return make_optimizer(
            self.method,
            learning_rate,
            self.weight_decay,
            self.decays,
            clip_norm=self.clip_norm,
            ema=self.ema,
            rates=Rates(
                multiplier,
                self.norm_bias_rate,
                {stop.variable: round(stop.after * learning_rate.steps) for stop in self.stops},
            ),
        )


_SCALE_224 = (256 / 224, 256 / 224)
_TORCH_CROP = Augmentation(random_crop=(0.08, 1.0), flip=True, jitter=0.4, pca_color=0.1)
_CIFAR = Augmentation(shift=4, flip=True)
_SZEGEDY = Augmentation(random_crop=(0.08, 1.0), flip=True, jitter=0.4)

_GENERAL = (
    Recipe(
        name="plain",
        summary="no augmentation",
        batch_size=64,
        weight_decay=0.05,
        warmup=0.05,
    ),
    Recipe(
        name="small_gray",
        summary="small grey pictures, such as handwriting: shifted a little, never mirrored",
        learning_rate=3e-3,
        weight_decay=0.05,
        warmup=0.05,
        augmentation=Augmentation(shift=3),
    ),
    Recipe(
        name="small_images",
        summary="small colour pictures: shifted and mirrored",
        learning_rate=2e-3,
        batch_size=128,
        weight_decay=0.05,
        warmup=0.05,
        augmentation=_CIFAR,
    ),
    Recipe(
        name="photos",
        summary="photos: random crops, mirrored",
        weight_decay=0.05,
        warmup=0.05,
        augmentation=Augmentation(random_crop=(0.25, 1.0), flip=True),
    ),
    Recipe(
        name="modern",
        summary="many photos: RandAugment, mixup, cutmix, random erasing, averaged weights",
        source="The ingredients of arXiv:2110.00476 (ResNet strikes back), with AdamW.",
        batch_size=256,
        epochs=300,
        weight_decay=0.05,
        warmup=5 / 300,
        augmentation=Augmentation(
            random_crop=(0.08, 1.0), flip=True, rand_augment=RandAugment(2, 7.0), erase=0.25
        ),
        mixing=Mixing(mixup=0.1, cutmix=1.0),
        label_smoothing=0.1,
        ema=0.9998,
    ),
    Recipe(
        name="fine_tuning",
        summary="weights trained on something else: the head first, then all, the front slowest",
        source="Staged unfreezing and discriminative rates of arXiv:1801.06146. The rate is the "
        "head's.",
        learning_rate=5e-3,
        weight_decay=0.05,
        warmup=0.05,
        augmentation=Augmentation(random_crop=(0.25, 1.0), flip=True),
        fine_tuning=FineTuning(),
    ),
)

_INCEPTION_V3 = Recipe(
    name="inception_v3",
    summary="Szegedy 2015: RMSProp with epsilon 1, smoothed labels, averaged weights",
    source="arXiv:1512.00567, sections 7 and 8: RMSProp with decay 0.9 and epsilon 1.0, rate 0.045 "
    "times 0.94 every two epochs, 100 epochs, batches of 32 on 50 replicas, gradients clipped at "
    "2.0, labels smoothed by 0.1, a running average of the weights judged. Momentum 0.9, weight "
    "decay 4e-5 and the auxiliary weight 0.4 are TF-slim's. The rate is for one replica's batch.",
    method=RmsProp(rho=0.9, momentum=0.9, epsilon=1.0),
    learning_rate=0.045,
    batch_size=32,
    epochs=100,
    schedule=Exponential(0.94, 2 / 100),
    weight_decay=4e-5,
    clip_norm=2.0,
    augmentation=_SZEGEDY,
    label_smoothing=0.1,
    aux_weight=0.4,
    ema=0.9999,
)
_RESNET = Recipe(
    name="resnet",
    summary="He 2015: momentum, the rate lowered twice, scale jitter, PCA colours",
    source="arXiv:1512.03385, section 3.4: batches of 256, rate 0.1 divided by 10 when the error "
    "plateaus, weight decay 1e-4, momentum 0.9, the shorter side in 256..480, crops of 224, "
    "mirrored, AlexNet's colour augmentation. The points are fb.resnet.torch's: 30 and 60 of 90 "
    "epochs; there all parameters decay.",
    method=Sgd(),
    learning_rate=0.1,
    batch_size=256,
    epochs=90,
    schedule=Steps((30 / 90, 60 / 90)),
    weight_decay=1e-4,
    decays="all",
    augmentation=Augmentation(scale_jitter=(256 / 224, 480 / 224), flip=True, pca_color=0.1),
)
_SENET = Recipe(
    name="senet",
    summary="Hu 2017: large batches, the rate lowered every 30 epochs",
    source="arXiv:1709.01507, section 6.1: batches of 1,024, momentum 0.9, rate 0.6 divided by 10 "
    "every 30 of 100 epochs, random-size crops of 224, mirrored. Weight decay 1e-4 is ResNet's.",
    method=Sgd(),
    learning_rate=0.6,
    batch_size=1024,
    epochs=100,
    schedule=Steps((0.3, 0.6, 0.9)),
    weight_decay=1e-4,
    decays="all",
    augmentation=Augmentation(random_crop=(0.08, 1.0), flip=True),
)
_NASNET = Recipe(
    name="nasnet",
    summary="Zoph 2017: RMSProp, smoothed labels, auxiliary head, drop path that grows",
    source="arXiv:1707.07012, appendix A.4, which trains as Inception v3 did: RMSProp with decay "
    "0.9 and epsilon 1.0, labels smoothed by 0.1, the auxiliary head weighted 0.4, averaged "
    "weights, drop path growing in a straight line. Weight decay 4e-5 is TF-slim's for the mobile "
    "network. The rate and its fall (0.97 every 2.4 epochs, as in PNASNet's release) are chosen.",
    method=RmsProp(rho=0.9, momentum=0.9, epsilon=1.0),
    learning_rate=0.04,
    batch_size=32,
    epochs=250,
    schedule=Exponential(0.97, 2.4 / 250),
    weight_decay=4e-5,
    clip_norm=10.0,
    augmentation=_SZEGEDY,
    label_smoothing=0.1,
    aux_weight=0.4,
    drop_path=True,
    ema=0.9999,
)
_PAPERS = (
    Recipe(
        name="lenet5",
        summary="LeCun 1998: plain stochastic gradient descent, the rate lowered in four steps",
        source="LeCun et al. 1998, section III-B: 20 passes over the data, global rate 0.0005 for "
        "2 passes, 0.0002 for 3, 0.0001 for 3, 0.00005 for 4, 0.00001 for the rest. There they are "
        "divided by an estimate of each weight's curvature, which is left out: the highest rate is "
        "0.05 instead, for batches of 10 images where the paper takes one.",
        method=Sgd(momentum=0.0),
        learning_rate=0.05,
        batch_size=10,
        epochs=20,
        schedule=Plateaus((2 / 20, 5 / 20, 8 / 20, 12 / 20), (1.0, 0.4, 0.2, 0.1, 0.02)),
    ),
    Recipe(
        name="alexnet",
        summary="Krizhevsky 2012: momentum, three reductions, random crops, PCA colours",
        source="Krizhevsky et al. 2012, sections 4.1 and 5: batches of 128, momentum 0.9, weight "
        "decay 5e-4, rate 0.01 divided by 10 three times, about 90 epochs, crops of 224 from "
        "256-pixel images, mirrored, PCA colours. The points are Caffe's, every 20 epochs.",
        method=Sgd(),
        learning_rate=0.01,
        batch_size=128,
        epochs=90,
        schedule=Steps((20 / 90, 40 / 90, 60 / 90)),
        weight_decay=5e-4,
        decays="all",
        augmentation=Augmentation(scale_jitter=_SCALE_224, flip=True, pca_color=0.1),
    ),
    Recipe(
        name="nin",
        summary="Lin 2013: as AlexNet, two reductions",
        source="arXiv:1312.4400, section 4.1: Krizhevsky's procedure in batches of 128; the rate "
        "falls by 10 twice, when training stops improving. Equal parts, and 0.01, are chosen.",
        method=Sgd(),
        learning_rate=0.01,
        batch_size=128,
        epochs=90,
        schedule=Steps((1 / 3, 2 / 3)),
        weight_decay=5e-4,
        decays="all",
        augmentation=Augmentation(scale_jitter=_SCALE_224, flip=True),
    ),
    Recipe(
        name="vgg",
        summary="Simonyan 2014: momentum, three reductions, scale jitter, PCA colours",
        source="arXiv:1409.1556, section 3.1: batches of 256, momentum 0.9, weight decay 5e-4, "
        "rate 0.01 lowered by 10 three times, 74 epochs, the shorter side in 256..512, crops of "
        "224, mirrored, AlexNet's colours. The points, which were plateaus, are equal parts.",
        method=Sgd(),
        learning_rate=0.01,
        batch_size=256,
        epochs=74,
        schedule=Steps((1 / 4, 2 / 4, 3 / 4)),
        weight_decay=5e-4,
        decays="all",
        augmentation=Augmentation(scale_jitter=(256 / 224, 512 / 224), flip=True, pca_color=0.1),
    ),
    Recipe(
        name="googlenet",
        summary="Szegedy 2014: the rate 4 % lower every 8 epochs, auxiliary heads",
        source="arXiv:1409.4842, sections 5 and 6: momentum 0.9, the rate 4 % lower every 8 "
        "epochs, Polyak averaging, auxiliary losses weighted 0.3, crops of 8 % to 100 % of the "
        "area with ratios 3/4 to 4/3, photometric distortions. Rate 0.01, batches of 32, weight "
        "decay 2e-4 and 64 epochs are those of Caffe's bvlc_googlenet, rounded to whole parts.",
        method=Sgd(),
        learning_rate=0.01,
        batch_size=32,
        epochs=64,
        schedule=Exponential(0.96, 8 / 64),
        weight_decay=2e-4,
        augmentation=_SZEGEDY,
        aux_weight=0.3,
        ema=0.9999,
    ),
    Recipe(
        name="bn_inception",
        summary="Ioffe 2015: a high rate that falls fast, few distortions",
        source="arXiv:1502.03167, section 4.2: rate 0.045 (BN-x30), batches of 32, weight decay a "
        "fifth of GoogLeNet's, no dropout to speak of, fewer photometric distortions. The paper "
        "gives an exponential fall without its figures; Inception v3's are taken.",
        method=Sgd(),
        learning_rate=0.045,
        batch_size=32,
        epochs=100,
        schedule=Exponential(0.94, 2 / 100),
        weight_decay=4e-5,
        augmentation=Augmentation(random_crop=(0.08, 1.0), flip=True),
    ),
    _INCEPTION_V3,
    replace(
        _INCEPTION_V3,
        name="inception_v4",
        summary="Szegedy 2016: as Inception v3, without smoothed labels",
        source="arXiv:1602.07261, section 4: RMSProp with decay 0.9 and epsilon 1.0, rate 0.045 "
        "times 0.94 every two epochs, 20 replicas, a running average of the weights judged. The "
        "rest is Inception v3's.",
        label_smoothing=0.0,
        clip_norm=None,
    ),
    _RESNET,
    replace(
        _RESNET,
        name="resnet_cifar",
        summary="He 2015 on CIFAR-10: shifted by up to 4 pixels and mirrored",
        source="arXiv:1512.03385, section 4.2: batches of 128, rate 0.1 divided by 10 after 32,000 "
        "and 48,000 of 64,000 steps (182 epochs of 45,000 images), weight decay 1e-4.",
        batch_size=128,
        epochs=182,
        schedule=Steps((32 / 64, 48 / 64)),
        augmentation=_CIFAR,
    ),
    replace(
        _RESNET,
        name="resnext",
        summary="Xie 2016, and ResNet v2: as ResNet, crops of any scale and ratio",
        source="arXiv:1611.05431, section 5 (and arXiv:1603.05027, section 5.2): as ResNet, with "
        "the scale and aspect ratio augmentation, colour jitter and lighting of fb.resnet.torch.",
        augmentation=_TORCH_CROP,
    ),
    _SENET,
    replace(
        _SENET,
        name="senet154",
        summary="Hu 2017's SENet-154: as SENet, with smoothed labels",
        source="arXiv:1709.01507, appendix: label smoothing 0.1 beside the settings of the others.",
        label_smoothing=0.1,
    ),
    _NASNET,
    replace(
        _NASNET,
        name="nasnet_cifar",
        summary="Zoph 2017 on CIFAR-10: momentum, one cosine over 600 epochs",
        source="TF-slim's cifar configuration: momentum 0.9, rate 0.025 falling as one cosine, "
        "batches of 32, weight decay 5e-4, gradients clipped at 5, auxiliary weight 0.4.",
        method=Sgd(),
        learning_rate=0.025,
        epochs=600,
        schedule=Cosine(),
        weight_decay=5e-4,
        clip_norm=5.0,
        augmentation=_CIFAR,
        label_smoothing=0.0,
        ema=None,
    ),
    Recipe(
        name="airbench94",
        summary="Jordan 2024 on CIFAR-10: 94 % in ten epochs of large steps, set to their averages",
        source="arXiv:2404.00498, and its release github.com/KellerJordan/cifar10-airbench, "
        "airbench94.py: batches of 1,024, Nesterov momentum 0.85 of summed gradients, rate 11.5 "
        "and weight decay 0.0153 in units freed of momentum (1.5, and 0.0153 / 11.5 towards the "
        "gradient), 64 times the rate for the biases of normalization, a rise from 0.2 to 1 at "
        "23 % of the run and a fall to 0.07, labels smoothed by 0.2, images shifted by 2 pixels "
        "and mirrored in every second epoch; after 3 epochs the network is set to its moving "
        "average every 5 steps, and the whitening layer's bias rests. There the last, smaller "
        "batch of an epoch is left out and 9.9 epochs are trained; here it is filled up, and "
        "epochs are whole.",
        method=Sgd(0.85, nesterov=True, velocity="gradients"),
        learning_rate=11.5 / (1 + 1 / (1 - 0.85)),
        batch_size=1024,
        epochs=10,
        schedule=Triangle(start=0.2, peak=0.23, end=0.07),
        weight_decay=0.0153 / 11.5,
        decays="all",
        norm_bias_rate=64.0,
        stops=(Stop("whitening/bias", after=0.3),),
        augmentation=Augmentation(shift=2, reflect=True, alternating_flip=True),
        label_smoothing=0.2,
        lookahead=Lookahead(every=5, from_share=0.3, decay=0.95**5, power=3.0),
    ),
)
RECIPES = {recipe.name: recipe for recipe in (*_GENERAL, *_PAPERS)}

_SMALL_SIDE = 64
_MANY_IMAGES = 100_000
_FEWEST_STEPS = 8
_SMALLEST_BATCH = 8  # batch normalization needs some


def choose_recipe(
    name: str, rule: Preprocessing, images: int = 0, trained: bool = False
) -> tuple[Recipe, str]:
    """The recipe of that name, or for ``"auto"`` the one that fits; and the reason in words.

    Args:
        name: a recipe's, or ``"auto"``.
        rule: the network's preprocessing.
        images: how many there are to train on.
        trained: whether the network starts from weights that were trained before.

    Raises:
        ConfigError: there is no such recipe.
    """
    if checked_recipe(name) != "auto":
        return RECIPES[name], "as asked for"
    side = max(rule.size)
    if side > _SMALL_SIDE:
        fitting = "modern" if images >= _MANY_IMAGES and not trained else "photos"
        why = f"its input is {side} pixels wide and there are {images:,} images"
    else:
        fitting = "small_gray" if rule.color_mode == "grayscale" else "small_images"
        why = f"its input is {side} pixels wide, {rule.color_mode}"
    if not trained:
        return RECIPES[fitting], why
    augmentation = RECIPES[fitting].augmentation
    return (
        replace(RECIPES["fine_tuning"], augmentation=augmentation),
        f"it starts from trained weights, and {why}",
    )


def choose_batch_size(wanted: int | None, recipe: Recipe, images: int, replicas: int = 1) -> int:
    """The caller's, or the recipe's; smaller where an epoch would have too few steps.

    Raises:
        ConfigError: the caller's is no number, or cannot be divided among the replicas.
    """
    if wanted is None:
        fitting = min(recipe.batch_size, max(_SMALLEST_BATCH, images // _FEWEST_STEPS))
        return max(fitting // replicas, 1) * replicas
    if checked_batch_size(wanted) % replicas:
        raise ConfigError(
            f"batch_size counts the images of all {replicas} devices together, so it must be a "
            f"multiple of {replicas}; found {wanted}"
        )
    return wanted


def checked_recipe(name: str) -> str:
    """Raises ConfigError unless ``name`` is what ``recipe=`` takes."""
    if not isinstance(name, str) or name not in recipe_names():
        raise ConfigError(f"recipe must be one of {', '.join(recipe_names())}; found {name!r}")
    return name


def checked_batch_size(images: int) -> int:
    """Raises ConfigError unless ``images`` is a whole number of 1 or more."""
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        raise ConfigError(f"batch_size must be a whole number of 1 or more, found {images!r}")
    return images


def checked_epochs(epochs: int) -> int:
    """Raises ConfigError unless ``epochs`` is a whole number of 1 or more."""
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise ConfigError(f"epochs must be a whole number of 1 or more, found {epochs!r}")
    return epochs


def recipe_names() -> Sequence[str]:
    """What ``recipe=`` takes."""
    return ["auto", *RECIPES]
