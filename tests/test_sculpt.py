"""Heads of Gaussians: the two objectives, growing, interruptions, files, the job and its table."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import gsply
import numpy as np
import pyarrow as pa
import pytest
import ray
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from plyfile import PlyData

from factory.base.diffusion import DiffusionBase
from factory.config import SculptConfig
from factory.draw.control import PoseNet
from factory.draw.distill import Guide
from factory.draw.gaussians import Growing, ellipsoid
from factory.draw.sculpt import Sculptor, _Work, show, turntable
from factory.draw.splat_files import encode_turntable, export_head, from_ply, to_ply
from factory.draw.splats import SH_C0, Splats, View
from factory.draw.texts import TextStates
from factory.ids import model_id
from factory.pack import Pack, load_pack
from factory.records import SculptRequest
from factory.store.erase import erase, find_person
from factory.store.rows import identity_row, model_from_row
from factory.store.tables import Store
from factory.supply.verify import record_hashes
from pipelines import sculpt as job
from studio.training import pose as training
from tests.serving import person

CONFIG = SculptConfig(
    num_iterations=6, views_per_iteration=2, num_gaussians=40, max_gaussians=60, densify_every=2, denoising_steps=2,
    refresh_every=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def posed(tiny_pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    """The tiny pack with a pose control of heads, whose weights are random and do something."""
    root = tmp_path_factory.mktemp("posed") / "pack"
    shutil.copytree(tiny_pack.root, root)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = training.make(UNet2DConditionModel.from_pretrained(root / "base" / "unet"))
        for name, parameter in net.named_parameters():
            if "controlnet_down" in name or "controlnet_mid" in name or "conv_out" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    training.save(net, root / "control" / "pose")
    part = '\n[control.pose]\npath = "control/pose"\nlicence = "test"\nconditioning = "head_pose"\n'
    (root / "pack.toml").write_text((root / "pack.toml").read_text() + part)
    pack = load_pack(root)
    record_hashes(pack, "control.pose")
    return pack


@pytest.fixture(scope="module")
def sculptor(posed: Pack) -> Sculptor:
    return Sculptor(posed)


def request(pack: Pack, config: SculptConfig = CONFIG, **changes: Any) -> SculptRequest:
    return SculptRequest(
        identity=person(1, "ada", pack.fingerprint()), prompt="a photo of <person>", config=config, **changes
    )


def guide(sculptor: Sculptor, config: SculptConfig) -> Guide:
    base = sculptor.base
    return Guide(base, PoseNet(base), TextStates(base), request(base.pack).identity, "a photo of <person>", config)


class Oracle:
    """Stands for a UNet that sees the same finished latent in everything: the base model's whole opinion."""

    def __init__(self, base: DiffusionBase, x0: torch.Tensor) -> None:
        self.base, self.x0, self.asked = base, x0, list[float]()

    def __call__(self, x: torch.Tensor, times: torch.Tensor, *_: Any) -> torch.Tensor:
        self.asked.append(float(times[0]))
        abar = self.base.abar_T[times.long()].view(-1, 1, 1, 1)
        return (x - abar.sqrt() * self.x0) / (1 - abar).sqrt()  # the tiny pack predicts epsilon


@pytest.mark.parametrize("interval", [0.05, 0.2])
def test_matching_is_its_equation_where_the_model_knows_one_picture(
    sculptor: Sculptor, monkeypatch: pytest.MonkeyPatch, interval: float
) -> None:
    """With one guess x0 everywhere, eps(x_t, t) = eps(x_s, s): every DDIM step keeps the noise, and the loss is 0."""
    asked = guide(sculptor, CONFIG.model_copy(update={"interval_t": interval, "control": False}))
    oracle = Oracle(sculptor.base, torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    monkeypatch.setattr(sculptor.base, "denoise", oracle)
    renders = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    loss = asked.matching_loss(renders, [View(), View(yaw=9)], 0.7)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    s = round(0.7 * 1000) - round(interval * 1000)
    assert oracle.asked == [*range(0, s, 200), s, 700], "inversion in steps of 200, then s, then t"


def test_matching_pulls_along_the_difference_of_the_two_predictions(
    sculptor: Sculptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """d loss / d latent = w(t) (eps_t - eps_s) / cells, by numbers put into the model's mouth."""
    config = CONFIG.model_copy(update={"control": False, "guidance_scale": 1.0, "inversion_t": 1.0})
    asked, base = guide(sculptor, config), sculptor.base
    answers = iter([torch.full((1, 4, 8, 8), value) for value in (0.0, 0.25, 0.75)])  # at 0, at s, at t
    monkeypatch.setattr(base, "denoise", lambda *_: next(answers))
    latent = torch.zeros(1, 4, 8, 8, requires_grad=True)
    monkeypatch.setattr(asked, "_latents", lambda _: latent)
    asked.matching_loss(torch.zeros(1, 3, 64, 64), [View()], 0.5).backward()
    abar = base.abar_T[500]
    expected = ((1 - abar) / abar).sqrt() * (0.75 - 0.25) / latent.numel()
    assert latent.grad is not None
    torch.testing.assert_close(latent.grad, expected.expand_as(latent), rtol=1e-4, atol=0)


def test_gradients_of_both_objectives_reach_every_gaussians_colour(sculptor: Sculptor, posed: Pack) -> None:
    for objective in ("ism", "reconstruction"):
        config = CONFIG.model_copy(update={"objective": objective, "num_gaussians": 8})
        work = _Work(guide(sculptor, config), request(posed, config))
        before = work.growing.splats.detached()
        work.iterate()
        moved = (work.growing.splats.sh_NK3 - before.sh_NK3).abs().amax((1, 2))
        assert (moved > 0).float().mean() > 0.7, objective


def test_the_control_is_what_tells_views_apart(sculptor: Sculptor) -> None:
    views = [View(yaw=-30), View(yaw=30)]
    apart = []
    for control in (True, False):
        asked = guide(sculptor, CONFIG.model_copy(update={"control": control}))
        noise = asked.noise(1, torch.Generator().manual_seed(0))
        left, right = asked.pictures(None, views, 1.0, noise, 2)
        apart.append((left - right).abs().max().item())
        assert asked.posed is control
    assert apart[0] > 1e-3 and apart[1] < 1e-3
    words = [guide(sculptor, CONFIG.model_copy(update={"control": False}))._said(View(yaw=yaw)) for yaw in (0, 90, 180)]
    assert [text.rpartition(", ")[2] for text in words] == ["front view", "side view", "back view"]


def test_a_pack_without_heads_is_seen_from_all_around_and_one_with_them_is_not(
    posed: Pack, tiny_pack_posed: Pack, store: Store
) -> None:
    """A control of OpenPose's bodies says nothing of a head's view: words do."""
    around = {"yaw_limit": 180.0, "pitch_limit": 30.0, "num_iterations": 2, "objective": "ism"}
    config = CONFIG.model_copy(update=around)
    assert len(Sculptor(tiny_pack_posed).sculpt(request(tiny_pack_posed, config))) >= 8
    with pytest.raises(ValueError, match="yaw_limit 180 is beyond the 32 degrees"):
        job.sculpt(store.root, posed.root, prompts=["<person>"], config=config)


@pytest.mark.parametrize("objective", ["ism", "reconstruction"])
def test_an_interrupted_head_is_the_one_made_in_one_go(sculptor: Sculptor, posed: Pack, objective: str) -> None:
    asked = request(posed, CONFIG.model_copy(update={"objective": objective}))
    kept: dict[int, bytes] = {}
    steps: list[tuple[int, int]] = []
    whole = sculptor.sculpt(
        asked,
        on_step=lambda *step: steps.append(step),
        on_checkpoint=lambda state, done: kept.update({done: state}),
        checkpoint_every_s=0.0,
    )
    assert steps == [(n, 6) for n in range(1, 7)] and list(kept) == [1, 2, 3, 4, 5]
    for done in (1, 4):
        again = sculptor.sculpt(asked, checkpoint=kept[done])
        for a, b in zip(whole.tensors().values(), again.tensors().values(), strict=True):
            assert torch.equal(a, b)
    other = sculptor.sculpt(replace(asked, config=asked.config.model_copy(update={"seed": 1})))
    assert other.means_N3.shape != whole.means_N3.shape or not torch.equal(other.means_N3, whole.means_N3)


def test_who_is_faint_goes_and_who_is_pulled_most_becomes_two() -> None:
    random = torch.Generator().manual_seed(0)
    start = ellipsoid(20, 0, None, None, random)
    start.log_scales_N3[:] = np.log(0.05)
    start.logits_N[3] = -9.0
    start.log_scales_N3[7] = np.log(0.5)
    growing = Growing(start)
    centres = torch.zeros(20, 2, requires_grad=True)
    centres.grad = torch.zeros(20, 2)
    centres.grad[7], centres.grad[9] = 5.0, 4.0
    growing.splats.means_N3.sum().backward()
    growing.step([centres])
    growing.densify(21, 0.03, random, grow=0.11)
    grown = growing.splats
    assert len(grown) == 19 + 2, "one is gone, two have become four"
    assert (grown.logits_N.sigmoid() > 0.03).all()
    np.testing.assert_allclose(grown.log_scales_N3[[6, 19]].detach(), np.log(0.5 / 1.6), atol=0.05)  # it was large
    np.testing.assert_allclose(grown.log_scales_N3[20].detach(), start.log_scales_N3[9], atol=0.05)  # a copy
    growing.splats.means_N3.sum().backward()
    growing.step([])  # Adam's moments fit the new tensors
    growing.densify(10, 0.03, random)
    assert len(growing.splats) == 21, "none are added beyond the limit"


def test_it_begins_in_the_colours_of_the_photo() -> None:
    crop = np.zeros((64, 64, 3), np.uint8)
    crop[:, :32], crop[:, 32:] = (255, 0, 0), (0, 0, 255)
    mask = np.ones((64, 64), bool)
    mask[:16] = False
    start = ellipsoid(400, 0, crop, mask, torch.Generator().manual_seed(0))
    colours = 0.5 + SH_C0 * start.sh_NK3[:, 0]
    x, y = start.means_N3[:, 0], start.means_N3[:, 1]
    middle = (y > -0.4) & (y < 0.9)
    assert (colours[middle & (x < -0.1), 0] > 0.99).all() and (colours[middle & (x > 0.1), 2] > 0.99).all()
    assert (colours[y < -0.75] - 0.5).abs().max() < 1e-6, "above the mask it is grey"


def some(degree: int) -> Splats:
    random = torch.Generator().manual_seed(degree)
    start = ellipsoid(30, degree, None, None, random)
    return replace(start, sh_NK3=0.3 * torch.randn(start.sh_NK3.shape, generator=random), background_3=torch.rand(3))


@pytest.mark.parametrize("degree", [0, 1])
def test_a_ply_is_read_by_others_and_read_back(degree: int, tmp_path: Path) -> None:
    splats = some(degree)
    data = to_ply(splats)
    back = from_ply(data)
    for name, tensor in splats.tensors().items():
        expected = torch.nn.functional.normalize(tensor, dim=1) if name == "quats_N4" else tensor
        torch.testing.assert_close(back.tensors()[name], expected, atol=1e-6, rtol=1e-6)
    np.testing.assert_array_equal(show(back, [View()], 32), show(splats, [View()], 32))
    vertex = PlyData.read(io.BytesIO(data))["vertex"]
    np.testing.assert_allclose(vertex["x"], splats.means_N3[:, 0])
    np.testing.assert_allclose(vertex["f_dc_2"], splats.sh_NK3[:, 0, 2])
    if degree:  # channel by channel: green's first coefficient is the fourth
        np.testing.assert_allclose(vertex["f_rest_3"], splats.sh_NK3[:, 1, 1])


@pytest.mark.parametrize("degree", [0, 1])
def test_a_splat_library_reads_both_formats(degree: int, tmp_path: Path) -> None:
    """gsply reads 3DGS's PLY as it was meant, and the SPZ up to its rounding, in a quarter of the bytes."""
    splats = some(degree)
    ply, spz = tmp_path / "head.ply", tmp_path / "head.spz"
    ply.write_bytes(to_ply(splats))
    spz.write_bytes(export_head(ply.read_bytes(), "spz"))
    exact, packed = gsply.plyread(str(ply)), gsply.read_spz(str(spz))
    np.testing.assert_allclose(exact.scales, splats.log_scales_N3)
    for read, near in ((exact, 1e-6), (packed, 0.15)):
        np.testing.assert_allclose(read.means, splats.means_N3, atol=min(near, 1e-3))
        np.testing.assert_allclose(read.opacities.ravel(), splats.logits_N, atol=near)
        np.testing.assert_allclose(read.sh0, splats.sh_NK3[:, 0], atol=near)
        if degree:
            np.testing.assert_allclose(read.shN.reshape(30, 3, 3), splats.sh_NK3[:, 1:], atol=near)


def test_what_is_no_ply_of_ours_is_told() -> None:
    data = to_ply(some(0))
    for bad, complaint in ((b"ply\nend_header\n", "no PLY of 3D Gaussians"), (data[:-1], "is cut")):
        with pytest.raises(ValueError, match=complaint):
            from_ply(bad)


def test_a_turntable_turns_to_both_sides_or_all_around() -> None:
    yaws = [view.yaw for view in turntable(8, 32)]
    assert max(yaws) == 32 and min(yaws) == -32 and yaws[0] == 0
    assert [view.yaw for view in turntable(4, 180)] == [0, 90, 180, 270]
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    with Image.open(io.BytesIO(encode_turntable(frames))) as animation:
        assert animation.n_frames == 3 and animation.size == (16, 16)  # type: ignore[attr-defined]


class Killed(BaseException):
    """As kill -9: nothing is caught, nothing is tidied up."""


def worker(sculptor: Sculptor, store: Store) -> job.HeadSculptor:
    made = job.HeadSculptor.__new__(job.HeadSculptor)
    made.sculptor, made.config, made.store = sculptor, CONFIG, store
    made.reporter = type("Reporter", (), {"step": lambda *_: None, "finished": lambda _: None})()  # type: ignore[assignment]
    return made


def batch(pack: Pack, store: Store) -> pa.Table:
    rows = list(job._requests(store.identities(), ["a photo of <person>"], CONFIG, pack))
    assert rows[0]["model_id"] == model_id(request(pack), pack.model_fingerprint())
    return pa.Table.from_pylist(rows, job.REQUEST)


def test_a_killed_job_goes_on_from_its_checkpoint_and_does_nothing_twice(
    sculptor: Sculptor, posed: Pack, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert("identities", [identity_row(request(posed).identity)])
    asked, working = batch(posed, store), worker(sculptor, store)
    monkeypatch.setattr(job, "CHECKPOINT_EVERY_S", 0.0)

    def dies(_items: int, done: int, _of: int) -> None:
        if done == 4:
            raise Killed

    monkeypatch.setattr(working.reporter, "step", dies, raising=False)
    with pytest.raises(Killed):
        working(asked)
    (kept,) = store.read("checkpoints").to_pylist()
    assert kept["num_iterations"] == 3 and store.count("models") == 0
    seen: list[int] = []
    monkeypatch.setattr(working.reporter, "step", lambda _items, done, _of: seen.append(done), raising=False)
    counts = dict(zip(*working(asked).to_pydict().values(), strict=True))
    assert seen == [4, 5, 6] and counts == {"models": 1, "done": 1}
    assert store.count("checkpoints") == 0
    (model,) = (model_from_row(row) for row in store.read("models").to_pylist())
    assert model.num_iterations == 6 and model.seconds > kept["seconds"] > 0
    whole = sculptor.sculpt(request(posed))
    assert to_ply(whole) == model.splats, "the same as made in one go"
    working(asked)
    assert seen == [4, 5, 6] and store.count("models") == 1, "the second time nothing is done"


def test_erasing_reaches_heads_and_heads_in_the_making(
    sculptor: Sculptor, posed: Pack, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert("identities", [identity_row(request(posed).identity)])
    asked, working = batch(posed, store), worker(sculptor, store)
    working(asked)
    ids = asked.to_pylist()[0]
    row = {"model_id": "f" * 16, "identity_id": ids["identity_id"], "num_iterations": 1, "seconds": 1.0, "state": b"x"}
    store.upsert("checkpoints", [row])
    done = erase(store, find_person(store, name="ada"))
    assert (done.rows["models"], done.rows["checkpoints"], done.found) == (1, 1, [])
    store.upsert("checkpoints", [row])
    assert store.count("checkpoints") == 0, "a running job's checkpoint is refused"
    counts = dict(zip(*working(asked).to_pydict().values(), strict=True))
    assert counts == {"models": 0, "done": 1} and store.count("models") == 0


@pytest.mark.cluster
@pytest.mark.timeout(600)  # Ray starts
def test_the_job_on_a_cluster_and_its_files(posed: Pack, store: Store, tmp_path: Path) -> None:
    for number, name in ((1, "ada"), (2, "bob")):
        store.upsert("identities", [identity_row(person(number, name, posed.fingerprint()))])
    prompts = ["a photo of <person>", "<person> at sea"]
    try:
        first = job.sculpt(store.root, posed.root, prompts=prompts, identities=["ada"], config=CONFIG)
        again = job.sculpt(store.root, posed.root, prompts=prompts, config=CONFIG, out=tmp_path / "out")
    finally:
        ray.shutdown()
    assert (first.models, first.skipped_existing) == (2, 0) and (again.models, again.skipped_existing) == (2, 2)
    assert store.count("models") == 4 and store.count("checkpoints") == 0
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert files == [f"{name}_{n}.{kind}" for name in ("ada", "bob") for n in (0, 1) for kind in ("ply", "webp")]
    assert len(from_ply((tmp_path / "out" / "ada_0.ply").read_bytes())) > 8
