"""The networks of a pack with random weights, at toy widths or at the real ones; each function saves one."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import factory  # noqa: F401  (before torchvision, transformers and diffusers: see factory/__init__.py)

# isort: split
import numpy as np
import onnx
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, PNDMScheduler, UNet2DConditionModel
from facexlib.parsing.parsenet import ParseNet
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from transformers import (
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from factory.pack import PACKS
from tests.make_tokenizer import NUM_TOKENS

DET_FILE = "det_yunet.onnx"
JUDGE_FILE = "judge.onnx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What differs between the tiny pack and the real one."""

    resolution: int  # px
    vocabulary: int | None  # rows of the token embedding; None: as many as the tokenizer has
    text: dict[str, Any]
    unet: dict[str, Any]
    vae: dict[str, Any]
    vit: dict[str, Any]
    parser: dict[str, int]
    dtype: torch.dtype


TINY = Sizes(
    resolution=64,
    vocabulary=None,
    text={"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    unet={"block_out_channels": (16, 32, 32, 32), "attention_head_dim": [1, 2, 2, 2], "layers_per_block": 1}
    | {"norm_num_groups": 8, "cross_attention_dim": 32, "sample_size": 8},
    vae={"block_out_channels": (8, 8, 16, 16), "layers_per_block": 1, "norm_num_groups": 4, "sample_size": 64},
    vit={"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    | {"image_size": 32, "patch_size": 8},
    parser={"in_size": 64, "out_size": 64, "min_feat_size": 32, "base_ch": 32, "res_depth": 1, "parsing_ch": 19},
    dtype=torch.float32,
)
SD21 = Sizes(
    resolution=512,
    vocabulary=49408,
    text={"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
    unet={"block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": [5, 10, 20, 20], "layers_per_block": 2}
    | {"norm_num_groups": 32, "cross_attention_dim": 1024, "sample_size": 64},
    vae={"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "norm_num_groups": 32, "sample_size": 512},
    vit={"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    | {"image_size": 224, "patch_size": 16},
    parser={"in_size": 512, "out_size": 512, "parsing_ch": 19},
    dtype=torch.bfloat16,
)


def _text_config(sizes: Sizes, tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        **sizes.text,
        vocab_size=sizes.vocabulary or len(tokenizer),
        max_position_embeddings=NUM_TOKENS,
        hidden_act="gelu",
        projection_dim=sizes.text["hidden_size"] // 2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def save_base(folder: Path, sizes: Sizes, tokenizer: CLIPTokenizer, prediction_type: str, vae: str) -> None:
    """The text encoder, UNet, VAE and schedule, as a pipeline of diffusers is stored."""
    shard = "900MB"
    text_encoder = CLIPTextModel(_text_config(sizes, tokenizer)).to(sizes.dtype)
    text_encoder.save_pretrained(folder / "text_encoder", max_shard_size=shard)
    before = torch.get_default_dtype()
    torch.set_default_dtype(sizes.dtype)  # the full-size UNet in float32 would be 3.5 GB of memory
    try:
        _unet(sizes).save_pretrained(folder / "unet", max_shard_size=shard)
        _vae(sizes, vae).save_pretrained(folder / "vae", max_shard_size=shard)
    finally:
        torch.set_default_dtype(before)
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL" if vae == "kl" else "AutoencoderTiny"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))


def _unet(sizes: Sizes) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        **sizes.unet,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        use_linear_projection=True,
    )


def save_control(folder: Path, sizes: Sizes) -> None:
    """thibaud/controlnet-sd21-openpose-diffusers' configuration, at this size: a ControlNet made from the UNet's."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(sizes.dtype)
    try:
        unet = {name: value for name, value in sizes.unet.items() if name != "sample_size"}
        control = ControlNetModel(
            **unet, down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), use_linear_projection=True
        )
    finally:
        torch.set_default_dtype(before)
    for name, weight in control.named_parameters():  # diffusers begins with zeros, which would say nothing
        if name.startswith(("controlnet_down_blocks", "controlnet_mid_block", "controlnet_cond_embedding.conv_out")):
            torch.nn.init.normal_(weight, std=0.05)
    control.save_pretrained(folder, max_shard_size="900MB")


def _vae(sizes: Sizes, kind: str) -> AutoencoderKL | AutoencoderTiny:
    if kind == "tiny":
        widths, blocks = (8, 8, 8, 8), (1, 1, 1, 1)
        return AutoencoderTiny(
            encoder_block_out_channels=widths,
            decoder_block_out_channels=widths,
            num_encoder_blocks=blocks,
            num_decoder_blocks=blocks,
            latent_channels=4,
            scaling_factor=1.0,
        )
    return AutoencoderKL(
        **sizes.vae,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        scaling_factor=0.18215,
    )


def save_fr_vit(folder: Path, sizes: Sizes) -> None:
    """The FR-ViT and its normalisation."""
    side = sizes.vit["image_size"]
    ViTModel(ViTConfig(**sizes.vit), add_pooling_layer=False).save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    ViTImageProcessor(size={"height": side, "width": side}, image_mean=half, image_std=half).save_pretrained(folder)


def save_clip(folder: Path, tokenizer: CLIPTokenizer) -> None:
    """A toy CLIP in both sizes: nothing of the production path depends on its width."""
    text = _text_config(TINY, tokenizer)
    vision = TINY.vit | {"hidden_size": 32, "num_attention_heads": 2}
    config = CLIPModel.config_class(text_config=text.to_dict(), vision_config=vision, projection_dim=16)
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)


def save_parser(file: Path, sizes: Sizes) -> None:
    """Random ParseNet weights whose last layer prefers skin and hair, so that no crop is left without a face."""
    network = ParseNet(**sizes.parser)
    preference = torch.full((19,), -4.0)
    preference[1], preference[17] = 1.0, 0.9
    network.out_mask_conv.conv2d.bias.data.copy_(preference)
    file.parent.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, file)


def save_faces(folder: Path, rng: np.random.Generator) -> None:
    """The studio pack's detector (a random one finds nothing) and a random projection as recogniser."""
    folder.mkdir(parents=True)
    detector = PACKS / "studio" / "faces" / DET_FILE
    if detector.is_file():
        shutil.copy(detector, folder / DET_FILE)
    weight = rng.standard_normal((3 * 14 * 14, 64)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["data"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "judge",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / JUDGE_FILE)
