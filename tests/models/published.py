"""Published CIFAR-10 networks and their test images, from the folder KEROBUST_DATA."""

import csv
import gzip
import pathlib

import numpy as np
import tensorflow as tf
from PIL import Image

from kerobust.models import Classifier, ClassifierHead, ResNet, load_torch_resnet
from kerobust.models.vit import VisionTransformer


def cifar10_test(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns the 10,000 test images, float32 [N, 32, 32, 3], and labels int32 [N]."""
    sheets = []
    for number in range(10):
        # 25 rows of 40 tiles of 32 x 32 pixels.
        with Image.open(folder / f"cifar10/sheets/test_batch_{number}.webp") as image:
            sheet = np.asarray(image.convert("RGB")).reshape(25, 32, 40, 32, 3)
        sheets.append(sheet.swapaxes(1, 2).reshape(1000, 32, 32, 3))
    with gzip.open(folder / "cifar10/index.csv.gz", "rt") as file:
        rows = [row for row in csv.DictReader(file) if row["batch"] == "test_batch"]
    rows.sort(key=lambda row: int(row["position"]))
    labels = np.array([int(row["label"]) for row in rows], np.int32)
    return np.concatenate(sheets).astype(np.float32) / np.float32(255), labels


def resnet20(folder: pathlib.Path) -> Classifier:
    """Returns the ResNet-20 of akamaster/pytorch_resnet_cifar10."""
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    model = Classifier(ResNet(20, mean=mean, std=std), ClassifierHead(10, norm=False))
    load_torch_resnet(model, folder / "checkpoints/cifar10_resnet20_akamaster.npz")
    return model


class BatchNormVit(tf.keras.Model):
    """The vision transformers of VNN-COMP 2023: batch norm, ReLU, mean of all tokens.

    The library's transformer with other norms and MLPs in its blocks. Not an option of
    the library: nobody else builds them so.

    Args:
        patch_size: Side of a patch in pixels.
        depth: Number of blocks.
    """

    def __init__(self, patch_size: int, depth: int):
        super().__init__()
        self.encoder = VisionTransformer(
            (32, 32),
            patch_size,
            48,
            depth,
            3,
            positions="learned",
            mean=(0.4914, 0.4822, 0.4465),
            std=(0.2023, 0.1994, 0.2010),
            final_norm=False,
        )
        for block in self.encoder.blocks:
            block.attention_norm = batch_norm()
            block.mlp_norm = batch_norm()
            block.mlp = tf.keras.Sequential(
                [
                    tf.keras.layers.Dense(96, activation="relu"),
                    tf.keras.layers.Dense(48),
                ]
            )
        self.head_norm = batch_norm()
        self.head = tf.keras.layers.Dense(10)
        self(tf.zeros([1, 32, 32, 3]))

    def call(self, images, training=None):
        tokens = self.encoder.feature_maps(images, training=training)[-1]
        pooled = tf.reduce_mean(tokens, axis=1)
        return self.head(self.head_norm(pooled, training=training))

    def load(self, path: pathlib.Path) -> None:
        """Sets every weight from the file's arrays, each used exactly once."""
        with np.load(path, allow_pickle=False) as archive:
            arrays = dict(archive)

        def set_norm(layer, owner):
            names = ("gamma", "beta", "mean", "var")
            layer.set_weights([arrays.pop(f"{owner}/{name}") for name in names])

        def set_dense(layer, *owners):
            kernels = [arrays.pop(f"{owner}/kernel") for owner in owners]
            biases = [arrays.pop(f"{owner}/bias") for owner in owners]
            layer.set_weights([np.concatenate(kernels, 1), np.concatenate(biases)])

        encoder = self.encoder
        encoder.cls_token.assign(arrays.pop("cls_token")[np.newaxis, np.newaxis])
        encoder.positions.assign(arrays.pop("positions"))
        # A patch vector goes by row, column, channel, as the kernel does.
        arrays["patch/kernel"] = arrays["patch/kernel"].reshape(-1, 48)
        set_dense(encoder.patch_embedding, "patch")
        for index, block in enumerate(encoder.blocks):
            owner = f"block{index}"
            set_norm(block.attention_norm, f"{owner}/norm1")
            set_norm(block.mlp_norm, f"{owner}/norm2")
            qkv = [f"{owner}/{name}" for name in ("query", "key", "value")]
            set_dense(block.attention.qkv, *qkv)
            set_dense(block.attention.projection, f"{owner}/out")
            set_dense(block.mlp.layers[0], f"{owner}/fc1")
            set_dense(block.mlp.layers[1], f"{owner}/fc2")
        set_norm(self.head_norm, "head_norm")
        set_dense(self.head, "head")
        if arrays:
            raise ValueError(f"Arrays without a place: {', '.join(arrays)}.")


def batch_norm() -> tf.keras.layers.BatchNormalization:
    """Returns a batch norm with the epsilon of PyTorch."""
    return tf.keras.layers.BatchNormalization(epsilon=1e-5)


def vit(folder: pathlib.Path, name: str, patch_size: int, depth: int) -> BatchNormVit:
    """Returns a transformer of shizhouxing/ViT_vnncomp2023."""
    model = BatchNormVit(patch_size, depth)
    model.load(folder / f"checkpoints/cifar10_vit_{name}.npz")
    return model
