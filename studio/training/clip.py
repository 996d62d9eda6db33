"""Trains the CLIP pair: the text tower and name map that start the diffusion model, and the CLIP of the evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel

from studio.training import tokenizer
from studio.training.dataset import PICTURE_PX, PLACEHOLDER, Dataset, captions
from studio.training.loop import Run, cosine_lr, working_precision
from studio.training.words import NamedText, NameMap

WIDTH, LAYERS, PATCH_PX, PROJECTION = 192, 4, 16, 192
STEPS, BATCH = 3000, 96
TRAIT_WEIGHT = 0.5  # of the identity regression from image and text, beside the contrastive loss


def make(vocab_size: int, end_id: int) -> CLIPModel:
    """The untrained pair; attention is plain, which is fastest for 32 and 65 tokens."""
    tower = {
        "hidden_size": WIDTH,
        "intermediate_size": 4 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 3,
    }
    text = {"vocab_size": vocab_size, "max_position_embeddings": tokenizer.MAX_LENGTH, "bos_token_id": 0}
    ends = {"eos_token_id": end_id, "pad_token_id": end_id}
    vision = {"image_size": PICTURE_PX, "patch_size": PATCH_PX}
    config = CLIPConfig(
        text_config=tower | text | ends | {"projection_dim": PROJECTION},
        vision_config=tower | vision | {"projection_dim": PROJECTION},
        projection_dim=PROJECTION,
    )
    config._attn_implementation = "eager"
    return CLIPModel(config)


class ClipTrainer(nn.Module):
    """The pair, the name map, and two heads that tell the identity vector from the picture and from the text."""

    def __init__(self, state: Path, vectors: np.ndarray) -> None:
        super().__init__()
        words = tokenizer.load(state / "models" / "tokenizer")
        self.clip = make(len(words), int(words.eos_token_id))
        self.named = NamedText(self.clip.text_model, NameMap(vectors, WIDTH), words)
        self.from_image = nn.Linear(WIDTH, vectors.shape[1])
        self.from_text = nn.Linear(WIDTH, vectors.shape[1])

    def embed_text(self, ids: torch.Tensor, vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit embeddings and the tower's pooled output."""
        pooled = self.named(ids, vectors).pooler_output
        return F.normalize(self.clip.text_projection(pooled).float(), dim=-1), pooled

    def embed_image(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit embeddings and the tower's pooled output, for images in [-1, 1]."""
        pooled = self.clip.vision_model(pixel_values=images_BCHW).pooler_output
        return F.normalize(self.clip.visual_projection(pooled).float(), dim=-1), pooled

    def loss(self, images: torch.Tensor, ids: torch.Tensor, vectors: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Symmetric contrastive loss plus the two regressions; and the contrastive part alone."""
        text, text_pooled = self.embed_text(ids, vectors)
        image, image_pooled = self.embed_image(images)
        scores = self.clip.logit_scale.exp().clamp(max=60) * image @ text.T
        target = torch.arange(len(ids), device=ids.device)
        contrastive = (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
        wanted = self.named.names.standardise(vectors)
        named = (ids == self.named.slots[0]).any(1).float()
        by_image = (self.from_image(image_pooled).float() - wanted).square().mean()
        by_text = ((self.from_text(text_pooled).float() - wanted).square().mean(1) * named).mean()
        return contrastive + TRAIT_WEIGHT * (by_image + by_text), contrastive.item()


def pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 [B, H, W, 3] to float [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def recall(model: ClipTrainer, data: Dataset, ids: torch.Tensor, items: np.ndarray) -> float:
    """R@1 from text to image among `items` (held-out people)."""
    device = next(model.parameters()).device
    model.eval()
    with working_precision(device):
        vectors = torch.from_numpy(data.vectors[data.persons[items]]).to(device)
        text, _ = model.embed_text(ids[items].to(device), vectors)
        image, _ = model.embed_image(pixels(data.images[items]).to(device))
    model.train()
    best = (text @ image.T).argmax(1).cpu()
    return float((best == torch.arange(len(items))).float().mean())


def train(state: Path, *, device: torch.device, minutes: float | None = None) -> None:
    """Train to `<state>/models/clip` (CLIPModel) and `<state>/models/names.pt` (name map)."""
    torch.manual_seed(2)
    data = Dataset(state)
    data.wait(8000)
    folder = state / "models" / "tokenizer"
    words = tokenizer.load(folder) if folder.exists() else tokenizer.build(folder)
    ids = tokenizer.encode(words, captions(state))
    model = ClipTrainer(state, data.vectors).to(device)
    names = [p for name, p in model.named_parameters() if ".names." in name]
    others = [p for name, p in model.named_parameters() if ".names." not in name]
    groups = [{"params": names, "lr": 1e-3, "weight_decay": 0.0}, {"params": others, "lr": 1e-3, "weight_decay": 0.05}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    run = Run(state, "clip", steps=STEPS, minutes=minutes)
    run.resume(model=model, optimiser=optimiser)
    rng = np.random.default_rng(3)
    held = rng.permutation(data.ready(held_out=True))[:200]
    items = data.ready()
    for step in run:
        if step % 200 == 0:
            items = data.ready()
        cosine_lr(optimiser, step, run.progress, warmup=200)
        batch = np.sort(np.random.default_rng([2, step]).choice(items, BATCH, replace=False))
        images = pixels(data.images[batch])
        vectors = torch.from_numpy(data.vectors[data.persons[batch]])
        with working_precision(device):
            loss, contrastive = model.loss(images.to(device), ids[batch].to(device), vectors.to(device))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        run.track(loss=loss.item(), contrastive=contrastive)
        if step % 500 == 499:
            run.note(recall=recall(model, data, ids, held))
    run.note(recall=recall(model, data, ids, held), placeholder=" ".join(PLACEHOLDER))
    model.cpu()
    model.clip.save_pretrained(state / "models" / "clip")
    torch.save(model.named.names.state_dict(), state / "models" / "names.pt")
