"""Trained and untrained victims, and the same networks in PyTorch."""

import numpy as np
import tensorflow as tf

from benchmarks._networks import convnet, random_images, settle
from benchmarks._pages import ROOT

_GOLDENS = ROOT / "tests" / "goldens"


def digits(count: int) -> tuple[tf.keras.Model, np.ndarray, np.ndarray]:
    """Returns the adversarially trained network of the goldens and what it is tried on.

    Returns:
        (network, images float32 [count, 8, 8, 1], labels int32 [count]); at most 200.
    """
    layers = tf.keras.layers
    network = tf.keras.Sequential(
        [
            tf.keras.Input([8, 8, 1]),
            layers.Conv2D(16, 3, activation="relu"),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10),
        ]
    )
    with np.load(_GOLDENS / "attacks_weights.npz") as arrays:
        network.set_weights([arrays[key] for key in arrays.files])
    with np.load(_GOLDENS / "attacks_data.npz") as arrays:
        images, labels = arrays["images"], arrays["labels"]
    return network, images[:count], labels[:count].astype(np.int32)


def noise(count: int) -> tuple[tf.keras.Model, np.ndarray, np.ndarray]:
    """Returns the untrained convnet, random images and its predictions on them."""
    network, images = convnet(), random_images(count)
    return network, images.numpy(), settle(network, images).numpy()


VICTIMS = {"digits": digits, "convnet": noise}


def in_torch(network: tf.keras.Model):
    """Returns a chain of usual Keras layers as a PyTorch module with frozen weights.

    Args:
        network: Convolutions, batch norm, ReLU, pooling, flattening, dense layers, on
            images [B, H, W, C]. The module takes [B, C, H, W] and evaluates.

    Raises:
        TypeError: If a layer is of another kind.
    """
    import torch

    parts = [part for layer in network.layers for part in _layer(torch.nn, layer)]
    return torch.nn.Sequential(*parts).eval().requires_grad_(False)


def _layer(nn, layer) -> list:
    """Returns a Keras layer as a list of PyTorch modules."""
    kinds = {
        "Conv2D": _convolution,
        "BatchNormalization": _batch_norm,
        "ReLU": lambda nn, layer: [nn.ReLU()],
        "GlobalAveragePooling2D": lambda nn, layer: [
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ],
        "Flatten": lambda nn, layer: [nn.Flatten()],
        "Dense": _dense,
    }
    kind = type(layer).__name__
    if kind not in kinds:
        raise TypeError(f"`network` must be a plain chain. Received: a layer {kind}.")
    parts = kinds[kind](nn, layer)
    activation = getattr(layer, "activation", None)
    if activation is tf.keras.activations.relu:
        parts.append(nn.ReLU())
    elif activation not in (None, tf.keras.activations.linear):
        raise TypeError(
            f"`network` must have ReLUs only. Received: {activation.__name__}."
        )
    return parts


def _convolution(nn, layer) -> list:
    kernel, *bias = layer.get_weights()
    sides, stride = kernel.shape[:2], layer.strides
    room = [0, 0]
    if layer.padding == "same":
        room = [
            max((-(-size // step) - 1) * step + side - size, 0)
            for size, side, step in zip(
                layer.input_shape[1:3], sides, stride, strict=True
            )
        ]
    # TensorFlow puts an odd pixel behind the image, which `padding` cannot.
    odd = any(pixels % 2 for pixels in room)
    padding = 0 if odd else tuple(pixels // 2 for pixels in room)
    module = nn.Conv2d(*kernel.shape[2:], sides, stride, padding, bias=bool(bias))
    _fill(module, kernel.transpose(3, 2, 0, 1), *bias)
    high, wide = room
    edges = (wide // 2, wide - wide // 2, high // 2, high - high // 2)
    return [nn.ZeroPad2d(edges), module] if odd else [module]


def _batch_norm(nn, layer) -> list:
    scale, shift, mean, variance = layer.get_weights()
    module = nn.BatchNorm2d(len(scale), eps=layer.epsilon)
    _fill(module, scale, shift)
    _fill_values(module.running_mean, mean)
    _fill_values(module.running_var, variance)
    return [module]


def _dense(nn, layer) -> list:
    kernel, bias = layer.get_weights()
    before = layer.inbound_nodes[0].inbound_layers
    if type(before).__name__ == "Flatten":  # Its order: [H, W, C] becomes [C, H, W].
        height, width, channels = before.input_shape[1:]
        split = kernel.reshape(height, width, channels, -1)
        kernel = split.transpose(2, 0, 1, 3).reshape(len(kernel), -1)
    module = nn.Linear(*kernel.shape)
    _fill(module, kernel.T, bias)
    return [module]


def _fill(module, weight, *bias) -> None:
    _fill_values(module.weight.data, weight)
    for values in bias:
        _fill_values(module.bias.data, values)


def _fill_values(tensor, values) -> None:
    import torch

    tensor.copy_(torch.tensor(np.ascontiguousarray(values)))
