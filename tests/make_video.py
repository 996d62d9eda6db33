"""What makes clips, with random weights, at toy widths or at the real ones; each function saves one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import factory  # noqa: F401  (before diffusers: see factory/__init__.py)

# isort: split
import torch
from diffusers import MotionAdapter, UNet3DConditionModel

from factory.draw.motion import MotionText
from tests.make_networks import Sizes


def save_motion(folder: Path, sizes: Sizes) -> None:
    """AnimateDiff's configuration at this size, with layers that do something, and a reader of the text for them."""
    channels, per_block = sizes.unet["block_out_channels"], sizes.unet["layers_per_block"]
    adapter = MotionAdapter(
        block_out_channels=channels,
        motion_layers_per_block=per_block,
        motion_num_attention_heads=2,
        motion_norm_num_groups=sizes.unet["norm_num_groups"],
    )
    adapter.save_pretrained(folder / "adapter", max_shard_size="900MB")
    blocks = (*adapter.down_blocks, adapter.mid_block, *adapter.up_blocks)
    widths = [layer.in_channels for block in blocks for layer in block.motion_modules]
    MotionText(sizes.text["hidden_size"], widths, width=24, num_heads=2).save_pretrained(folder / "text")


def save_video(folder: Path, sizes: Sizes, base: Path) -> None:
    """damo-vilab/text-to-video-ms-1.7b's configuration at this size, with the base model's text encoder and VAE."""
    for part in ("text_encoder", "tokenizer", "vae", "scheduler"):
        shutil.copytree(base / part, folder / part)
    before = torch.get_default_dtype()
    torch.set_default_dtype(sizes.dtype)
    try:
        unet = UNet3DConditionModel(
            sample_size=sizes.unet["sample_size"] // 2,
            block_out_channels=sizes.unet["block_out_channels"],
            layers_per_block=sizes.unet["layers_per_block"],
            norm_num_groups=sizes.unet["norm_num_groups"],
            cross_attention_dim=sizes.unet["cross_attention_dim"],
            attention_head_dim=sizes.unet["block_out_channels"][0] // sizes.unet["attention_head_dim"][0],
        )
    finally:
        torch.set_default_dtype(before)
    unet.save_pretrained(folder / "unet", max_shard_size="900MB")
    index = {
        "_class_name": "TextToVideoSDPipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet3DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
