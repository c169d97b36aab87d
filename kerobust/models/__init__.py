"""Encoders, decoders, heads, and the folders that keep them."""

from kerobust.models.bundle import load_bundle, read_info, save_bundle
from kerobust.models.checkpoint_files import read_state
from kerobust.models.convnet import ConvConfig, ConvNet
from kerobust.models.dense_heads import DensePredictor, DepthHead, SegmentationHead
from kerobust.models.ensemble import Ensemble
from kerobust.models.heads import Classifier, ClassifierHead
from kerobust.models.keras_cv_encoder import KerasCvEncoder
from kerobust.models.mae import MaeDecoder, Mask, pixel_mask, random_mask
from kerobust.models.pretrained import load_resnet18, load_torch_resnet
from kerobust.models.resnet import ResNet
from kerobust.models.resnet18 import ResNet18
from kerobust.models.sliding import SlidingWindow
from kerobust.models.sources import SOURCES, load_vit
from kerobust.models.torch_names import ignored_names, to_torch_names
from kerobust.models.vit import VisionTransformer, VitConfig
from kerobust.models.weights import copy_encoder_weights, named_weights

ENCODERS = {
    "conv": ConvNet,
    "keras_cv": KerasCvEncoder,
    "resnet": ResNet,
    "resnet18": ResNet18,
    "vit": VisionTransformer,
}

__all__ = [
    "ENCODERS",
    "SOURCES",
    "Classifier",
    "ClassifierHead",
    "ConvConfig",
    "ConvNet",
    "DensePredictor",
    "DepthHead",
    "Ensemble",
    "KerasCvEncoder",
    "MaeDecoder",
    "Mask",
    "ResNet",
    "ResNet18",
    "SegmentationHead",
    "SlidingWindow",
    "VisionTransformer",
    "VitConfig",
    "copy_encoder_weights",
    "ignored_names",
    "load_bundle",
    "load_resnet18",
    "load_torch_resnet",
    "load_vit",
    "named_weights",
    "pixel_mask",
    "random_mask",
    "read_info",
    "read_state",
    "save_bundle",
    "to_torch_names",
]
