"""Proportions of a head, and its skin: outline, height field, ears, folds, freckles, moles."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from studio.world.people import Person
from studio.world.scenes import Scene
from studio.world.shapes import Canvas, bump, cover, noise, shaded, smooth


@dataclass(frozen=True, slots=True, kw_only=True)
class Mood:
    """What an expression does to a face; lengths in head units."""

    curve: float = 0.0  # mouth corners up
    open: float = 0.0  # half height of the open mouth
    width: float = 1.0  # of the mouth
    teeth: float = 0.0
    raise_brow: float = 0.0
    worry: float = 0.0  # inner brow ends up
    lids: float = 1.0  # opening of the eyes


MOODS: dict[str | None, Mood] = {
    None: Mood(),
    "smiling": Mood(curve=0.115, open=0.055, width=1.22, teeth=1.0, raise_brow=0.02, lids=0.82),
    "sad": Mood(curve=-0.12, width=0.92, worry=0.13, raise_brow=0.02, lids=0.8),
    "surprised": Mood(open=0.15, width=0.62, raise_brow=0.13, lids=1.45),
    "closed": Mood(lids=0.0, curve=0.01),
}


def mood_of(scene: Scene) -> Mood:
    """What a scene's expression does to a face, as far as it shows."""
    full, calm = MOODS[scene.expression], MOODS[None]
    if scene.amount == 1:
        return full
    return Mood(**{f.name: mix(getattr(calm, f.name), getattr(full, f.name), scene.amount) for f in fields(Mood)})


def mix(low: float, high: float, t: float) -> float:
    """Linear blend."""
    return low + (high - low) * t


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Measures of one head in head units, expression included; y grows downwards, the eyes lie at 0."""

    width: float  # half width at the cheek bones
    top: float  # crown above 0
    chin: float  # chin below 0
    jaw_power: float
    jaw_round: float
    cheeks: float
    knob: float  # extra chin
    eye_x: float
    eye_w: float  # half width of an eye
    eye_h: float  # half height when open
    nose_y: float  # tip
    nose_w: float
    mouth_y: float
    mouth_w: float  # half width
    hairline: float  # y of the hairline, negative
    brow_y: float
    mood: Mood
    curve: float  # mouth corners up, expression and smile included
    brim: float  # y below which covering hats leave the head free

    def field(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Implicit outline of the head: below 0 inside, -1 at the centre."""
        ax = np.abs(x)
        half = self.width * (1 + self.cheeks * bump(y - 0.45, 0.32))
        power = 2.2 + (self.jaw_round - 2.2) * smooth(-0.05, 0.5, y)
        across = np.power(ax / half, power)
        chin = self.chin + self.knob * bump(x, 0.22)
        down = np.where(y < 0, np.power(np.abs(y) / self.top, 2.3), np.power(np.abs(y) / chin, self.jaw_power))
        out: np.ndarray = (across + down - 1).astype(np.float32)
        return out

    def corner_y(self) -> float:
        """Height of the mouth corners."""
        return self.mouth_y - self.curve * 0.75

    def landmarks(self) -> tuple[tuple[float, float, float], ...]:
        """Eyes, nose tip and mouth corners as (x, y, lift above the head)."""
        w, y = self.mouth_w, self.corner_y()
        return (-self.eye_x, 0, 0), (self.eye_x, 0, 0), (0, self.nose_y - 0.03, 0.22), (-w, y, 0), (w, y, 0)


def measure(p: Person, scene: Scene) -> Shape:
    """The head's measures from identity and expression."""
    mood = mood_of(scene)
    chin = mix(0.96, 1.24, p.face_length)
    nose_y = mix(0.37, 0.55, p.nose_length)
    gap = chin - nose_y
    eye_w = mix(0.145, 0.215, p.eye_size)
    hairline = mix(-0.50, -0.80, p.forehead)
    return Shape(
        width=mix(0.68, 0.93, p.face_width),
        top=mix(1.02, 1.14, p.face_length),
        chin=chin,
        jaw_power=mix(1.75, 3.9, p.jaw),
        jaw_round=mix(1.55, 2.7, p.jaw),
        cheeks=mix(-0.05, 0.10, p.cheeks),
        knob=mix(-0.02, 0.08, p.chin),
        eye_x=mix(0.30, 0.42, p.eye_spacing),
        eye_w=eye_w,
        eye_h=eye_w * mix(0.38, 0.70, p.eye_open),
        nose_y=nose_y,
        nose_w=mix(0.11, 0.24, p.nose_width),
        mouth_y=nose_y + gap * mix(0.38, 0.50, p.mouth_height),
        mouth_w=mix(0.20, 0.38, p.mouth_width) * mood.width,
        hairline=hairline,
        brow_y=-mix(0.21, 0.31, p.brow_height) - mood.raise_brow,
        mood=mood,
        curve=mix(0.018, 0.06, p.mouth_curve) + mood.curve + 0.06 * scene.smile,
        brim=-0.52,
    )


def paint_ears(canvas: Canvas, p: Person, s: Shape) -> None:
    """Both ears, behind the head."""
    size, out = mix(0.17, 0.30, p.ear_size), mix(0.07, 0.19, p.ear_out)
    for side in (-1, 1):
        c = canvas.window(side * s.width, 0.2, 0.5, 0.6)
        x, y = (c.bx - side * (s.width + out * 0.35)) / (out + 0.05), (c.y - 0.16) / size
        field = x * x + (y + side * x * 0.25) ** 2 - 1
        lambert, _ = c.light(0.12 * np.sqrt(np.clip(-field, 0.02, 1)))
        inner = bump(np.sqrt(x * x * 1.6 + y * y * 1.2) - 0.45, 0.2)
        skin = shaded(np.asarray(p.skin) * (0.98, 0.88, 0.86), lambert * 0.9 - 0.22 * inner)
        c.paint(cover(field), skin, 7 if side < 0 else 8)


def _height(c: Canvas, p: Person, s: Shape, field: np.ndarray) -> np.ndarray:
    """Height field of the face in head units."""
    x, y = c.x, c.y
    ax = np.abs(x)
    height = 0.72 * (np.sqrt(np.clip(-field, 0.03, 1)) + 2.9 * np.clip(-field - 0.03, -0.2, 0))
    ridge = smooth(-0.12, s.nose_y, y) * smooth(s.nose_y + 0.07, s.nose_y - 0.02, y)
    width = 0.07 + 0.05 * p.nose_bridge + s.nose_w * 0.28 * smooth(0.1, s.nose_y, y)
    height += 0.17 * ridge * np.exp(-((x / width) ** 2)) + mix(0.01, 0.06, 1 - p.nose_bridge) * bump(x, 0.09) * bump(
        y - 0.02, 0.25
    )
    tip = mix(0.085, 0.135, p.nose_tip)
    height += mix(0.06, 0.12, p.nose_tip) * bump(x, tip) * bump(y - s.nose_y + 0.02, tip * 0.9)
    height += 0.075 * bump(ax - s.nose_w * 0.82, 0.075) * bump(y - s.nose_y - 0.015, 0.085)
    height -= 0.10 * bump(ax - s.eye_x, 0.24) * bump(y + 0.02, 0.17)
    height += 0.035 * bump(y - s.brow_y, 0.10) * bump(ax - s.eye_x, 0.3)
    height += mix(0.02, 0.09, p.cheeks) * bump(ax - s.eye_x * 1.25, 0.22) * bump(y - 0.38, 0.22)
    height += 0.055 * bump(x, 0.2) * bump(y - s.chin + 0.15, 0.14)
    height += 0.03 * bump(x, s.mouth_w * 1.1) * bump(y - s.mouth_y, 0.17)
    height -= 0.03 * bump(x, 0.17) * bump(y - s.mouth_y - 0.17, 0.06)
    height -= 0.018 * bump(x, 0.04) * bump(y - 0.5 * (s.nose_y + s.mouth_y), 0.07)
    return np.asarray(height, np.float32)


def _folds(c: Canvas, p: Person, s: Shape) -> np.ndarray:
    """Darkness of age folds and expression lines, float32 [H, W]."""
    ax, y = np.abs(c.x), c.y
    lift = max(s.mood.curve, 0.0)
    age = max(p.age - 0.25, 0.0) / 0.75
    path = s.nose_w + 0.10 + (y - s.nose_y) * 0.42 + 0.4 * lift
    cheek = bump(ax - path, 0.028) * smooth(s.nose_y - 0.06, s.nose_y + 0.06, y) * smooth(
        s.mouth_y + 0.14, s.mouth_y - 0.06, y)
    total = cheek * (0.08 + 0.40 * age + 1.2 * lift)
    if age > 0:
        for row in (-0.16, -0.26, -0.35):
            total += 0.24 * age * bump(y - s.brow_y - row + 0.05 * ax * ax, 0.016) * smooth(0.48, 0.3, ax)
        total += 0.34 * age * bump(y - s.eye_h - 0.11 + 0.5 * (ax - s.eye_x) ** 2, 0.022) * bump(ax - s.eye_x, 0.17)
        for row in (-0.06, 0.0, 0.06):
            reach = ax - s.eye_x - s.eye_w
            total += 0.16 * age * bump(y - row * (1 + 5 * reach), 0.012) * smooth(0.03, 0.06, reach) * smooth(
                0.14, 0.08, reach)
    return np.asarray(total, np.float32)


def _spots(c: Canvas, p: Person, s: Shape, colour: np.ndarray) -> None:
    """Freckles and blush, onto the skin colour in place."""
    ax, y = np.abs(c.x), c.y
    if p.freckles > 0.15:
        rng, dots = np.random.default_rng(1), np.zeros_like(c.x)
        for _ in range(46):
            fx, fy = rng.uniform(-1, 1) * s.width * 0.75, rng.normal(0.24, 0.11)
            dots = np.maximum(dots, smooth(0.0007, 0.0002, (c.x - fx) ** 2 + (y - fy) ** 2))
        dots *= 0.35 + 0.45 * p.freckles
        colour *= 1 - dots[..., None] * np.array((0.35, 0.52, 0.62), np.float32)
    flush = (0.06 + 0.42 * p.blush) * bump(ax - s.eye_x * 1.35, 0.17) * bump(y - 0.36, 0.14)
    flush += 0.18 * bump(c.x, s.nose_w) * bump(y - s.nose_y, 0.12)
    colour *= 1 - flush[..., None] * np.array((0.0, 0.34, 0.28), np.float32)


def paint_head(canvas: Canvas, p: Person, s: Shape, hair_shadow: np.ndarray | None) -> np.ndarray:
    """The skin of the head, without eyes, brows and mouth; returns its coverage [S, S]."""
    c = canvas
    field = s.field(c.x, c.y)
    coverage = cover(field)
    lambert, shine = c.light(_height(c, p, s, field))
    colour = np.broadcast_to(np.asarray(p.skin, np.float32), (*c.x.shape, 3)) * (
        0.975 + 0.05 * noise(7, 24, c.size)[..., None])
    colour = colour.astype(np.float32)
    _spots(c, p, s, colour)
    sockets = bump(np.abs(c.x) - s.eye_x, 0.2) * bump(c.y + 0.03, 0.13)
    under_nose = bump(c.x, s.nose_w * 1.1) * bump(c.y - s.nose_y - 0.10, 0.045)
    lambert = lambert - 0.15 * sockets - 0.22 * under_nose - _folds(c, p, s)
    if hair_shadow is not None:
        lambert = lambert - 0.22 * hair_shadow
    skin = shaded(colour, np.clip(lambert, 0, 1))
    gloss = 0.20 if p.hair_style != "bald" else 0.26
    skin += (gloss * shine)[..., None] * np.array((1.0, 0.96, 0.9), np.float32)
    c.paint(coverage, skin, 1)
    for present, mx, my in p.moles:
        if present:
            x = mx * s.width * 0.62
            y = 0.42 + my * 0.28
            w = c.window(x, y, 0.1, 0.1)
            w.paint(smooth(0.046, 0.026, np.hypot(w.x - x, w.y - y)), np.asarray(p.skin) * 0.2 + (0.03, 0.01, 0.0))
    return coverage
