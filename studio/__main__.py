"""`python -m studio STAGE` builds the studio pack: dataset, clip ... unet, build, look, or all of them in order."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from pathlib import Path

# results below the state folder by which `all` knows that a training is over, in the order in which they depend
RESULTS = {
    "clip": "models/clip",
    "features": "models/fr_vit",
    "vae": "models/vae",
    "judge": "models/judge.onnx",
    "parser": "models/parsing.safetensors",
    "decoder": "models/decoder.done",
    "latent_faces": "models/latent_faces.pt",
    "unet": "models/unet.done",
}

POSE = ("pose", "pose_results")  # the pose control needs the pack that `build` makes


def training(name: str) -> Callable[..., None]:
    """The function that runs a training; imported late, so that each stage needs its own packages only."""
    if name in ("features", "judge"):
        from studio import train_faces

        return train_faces.train_features if name == "features" else train_faces.train_judge
    if name == "decoder":
        from studio import train_vae

        return train_vae.train_decoder
    train: Callable[..., None] = importlib.import_module(f"studio.train_{name}").train
    return train


def pose(stage: str, state: Path, device: str, minutes: float | None) -> None:
    """Train the pose control and put it into the pack, or measure it, once what measures is trained."""
    import torch

    from studio import pose_data, pose_results, train_landmarks, train_pose

    pose_data.build(state)
    if stage == "pose_results":
        if not (state / "models" / "landmarks.pt").exists():
            train_landmarks.train(state, device=torch.device(device))
        pose_results.look(state)
    elif stage == "pose" or not (state / "models" / "pose").exists():
        train_pose.train(state, device=torch.device(device), minutes=minutes)
        train_pose.into_pack(state)


def main() -> None:
    """Parse the command line and run one stage, or all that are not done."""
    parser = argparse.ArgumentParser(prog="python -m studio", description=__doc__)
    parser.add_argument("stage", choices=["dataset", "unpack", *RESULTS, "build", *POSE, "look", "all"])
    parser.add_argument("--state", type=Path, default=Path("out/studio"), help="data, checkpoints, logs (not in git)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--minutes", type=float, help="length of the training in place of its number of steps")
    parser.add_argument("--threads", type=int, default=2, help="threads of a training, processes of `dataset`")
    options = parser.parse_args()
    if options.stage in ("dataset", "all"):
        from studio import dataset, views

        dataset.build(options.state, processes=options.threads)
        views.build(options.state, processes=options.threads)
    if options.stage == "dataset":
        return

    import torch

    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = torch.backends.cuda.matmul.allow_tf32 = True
    torch.set_flush_denormal(True)  # dead gradients of 1e-40 made the steps of a training three times as slow
    if options.stage == "unpack":
        from studio.unpack import unpack

        unpack(options.state)
    for name, result in RESULTS.items():
        if options.stage == name or (options.stage == "all" and not (options.state / result).exists()):
            training(name)(options.state, device=torch.device(options.device), minutes=options.minutes)
    if options.stage in ("build", "all"):
        from studio.build import build

        build(options.state)
    if options.stage in (*POSE, "all"):
        pose(options.stage, options.state, options.device, options.minutes)
    if options.stage in ("look", "all"):
        from studio.samples import look

        look(options.state)


if __name__ == "__main__":
    main()
