"""The features that carry a face: eyes, brows, nose, mouth, beard."""

from __future__ import annotations

import numpy as np

from studio.world.head import Shape, mix
from studio.world.people import Person
from studio.world.shapes import Canvas, bump, cover, noise, shaded, smooth

INK = np.array((0.05, 0.035, 0.035), np.float32)


def _eye(canvas: Canvas, p: Person, s: Shape, side: int) -> None:
    tilt = mix(-0.16, 0.22, p.eye_tilt)
    c = canvas.window(side * s.eye_x, 0, s.eye_w * 2.1, 0.42)
    x, y = (c.x - side * s.eye_x) * side, c.y  # x runs outwards
    y = y + tilt * x
    ex = x / s.eye_w
    arch = np.clip(1 - ex * ex, -1, 1)
    upper, lower = s.eye_h * 1.12 * s.mood.lids * arch, s.eye_h * 0.78 * min(s.mood.lids, 1.2) * arch
    lid = smooth(1.25, 0.5, np.abs(ex)) * smooth(s.brow_y + 0.03, -s.eye_h, y) * smooth(0.05, -0.02, y)
    if p.eye_shadow > 0:
        c.paint(lid * 0.75 * p.eye_shadow, np.asarray(p.shadow))
    line = 0.020 + 0.022 * p.lashes
    if s.mood.lids == 0:
        curve = y - 0.05 * arch
        c.paint(smooth(1.15, 1.0, np.abs(ex)) * 0.35 * bump(y + 0.03, s.eye_h * 0.9), np.asarray(p.skin) * 0.62)
        shut = cover(np.maximum(np.abs(curve) - line * 0.9, np.abs(ex) - 1.08))
        c.paint(shut, INK, 4 if side < 0 else 5)
        return
    ball = cover(np.maximum(np.maximum(-y - upper, y - lower), np.abs(ex) - 1))
    side_label = 4 if side < 0 else 5
    shade = 0.97 - 0.28 * smooth(0.03, -0.10, y + s.eye_h * 0.6)
    c.paint(ball, np.array((0.97, 0.96, 0.95), np.float32) * shade[..., None], side_label)
    radius = mix(0.088, 0.112, p.eye_size)
    gx = x + 0.01
    dist = np.hypot(gx, y + 0.012)
    glow = (0.72 + 0.5 * smooth(-0.06, 0.08, y))[..., None]
    iris = np.asarray(p.iris, np.float32) * glow * (1 - 0.6 * smooth(0.72, 1.0, dist / radius))[..., None]
    c.paint(ball * cover(dist - radius), iris)
    c.paint(ball * cover(dist - radius * 0.46), INK)
    light = -0.35 if canvas.scene.light_x < 0 else 0.35
    c.paint(ball * cover(np.hypot((c.x - side * s.eye_x) - light * radius, y + 0.05) - 0.024) * 0.95, (1.0, 1.0, 1.0))
    wing = 1.0 + 0.22 * p.lashes
    lash = np.maximum(np.abs(y + upper) - line * (0.7 + 0.5 * np.clip(ex, 0, 1)), np.abs(ex) - wing)
    lashes = cover(np.where(ex > 1, np.maximum(np.abs(y + 0.5 * (ex - 1) * s.eye_w) - line * 0.6, ex - wing), lash))
    c.paint(lashes, INK)
    c.paint(0.35 * bump(y - lower, 0.014) * smooth(1.05, 0.8, np.abs(ex)), np.asarray(p.skin) * 0.4)
    crease = y + upper * 1.0 + 0.055 + 0.03 * p.eye_open
    c.paint(0.45 * bump(crease, 0.018) * smooth(1.1, 0.7, np.abs(ex)), np.asarray(p.skin) * 0.45)


def _brow(canvas: Canvas, p: Person, s: Shape, side: int) -> None:
    c = canvas.window(side * s.eye_x, s.brow_y, 0.42, 0.3)
    x = (c.x * side - s.eye_x) / 0.25  # -1 inner end, 1 outer end
    angle = mix(0.06, -0.045, p.brow_angle) + s.mood.worry
    middle = s.brow_y - angle * -x - mix(0.0, 0.075, p.brow_arch) * (1 - x * x) + 0.02 * x * x
    thick = mix(0.018, 0.068, p.brow_thickness) * (1.0 - 0.42 * smooth(-0.2, 1.0, x))
    field = np.maximum(np.abs(c.y - middle) - thick, np.abs(x) - 1.02)
    colour = np.asarray(p.hair) * mix(0.85, 0.30, p.brow_dark) + np.asarray(p.skin) * 0.05
    c.paint(cover(field.astype(np.float32)) * 0.92, colour, 2 if side < 0 else 3)


def _nose(canvas: Canvas, p: Person, s: Shape, skull: np.ndarray) -> None:
    c = canvas.window(0, s.nose_y, 0.5, 0.7)
    ax = np.abs(c.x)
    y = c.y - s.nose_y
    skin = np.asarray(p.skin)
    wing = bump(np.hypot(ax - s.nose_w * 0.75, (y - 0.01) * 0.9) - 0.085, 0.022) * smooth(
        s.nose_w * 0.7, s.nose_w + 0.03, ax)
    c.paint(0.42 * wing * smooth(0.11, 0.05, y), skin * (0.40, 0.30, 0.28))
    hole = np.hypot((ax - s.nose_w * 0.50) / (0.26 * s.nose_w + 0.022), (y - 0.052 - 0.1 * ax) / 0.028) - 1
    c.paint(0.85 * cover(hole.astype(np.float32)), skin * (0.26, 0.17, 0.16))
    side = bump(ax - (0.10 + 0.05 * p.nose_bridge), 0.05) * smooth(-0.4, -0.05, y) * smooth(0.02, -0.06, y)
    c.paint(0.16 * side, skin * (0.5, 0.4, 0.38))
    half = 0.08 + (s.nose_w + 0.03) * smooth(-0.35, 0.0, y)
    c.labels[(np.maximum(ax - half, np.maximum(-y - s.nose_y + 0.02, y - 0.10)) < 0) & (c.labels == 1)] = 10


def _mouth(canvas: Canvas, p: Person, s: Shape) -> None:
    c = canvas.window(0, s.mouth_y, s.mouth_w * 1.4, 0.42)
    mx = c.x / s.mouth_w
    arch = np.clip(1 - mx * mx, -1, 1)
    y = c.y - s.mouth_y - s.curve * (0.25 - mx * mx)  # corners up where the curve is positive
    gape = s.mood.open * np.sqrt(np.clip(arch, 0, 1))
    top, low = (gape * 0.45, gape * 0.9) if s.mood.teeth else (gape, gape)
    upper = mix(0.035, 0.105, p.lip_upper) * arch * (1 + 0.25 * bump(np.abs(mx) - 0.3, 0.22) - 0.22 * bump(mx, 0.16))
    lower = mix(0.045, 0.135, p.lip_lower) * np.clip(arch, -1, 1) * (0.6 + 0.4 * np.clip(arch, 0, 1))
    natural = np.asarray(p.skin) * (0.80, 0.52, 0.50)
    lips = natural + (np.asarray(p.lips) - natural) * (0.10 + 0.85 * p.makeup)
    ends = np.abs(mx) - 1
    shade = (0.9 - 1.6 * np.clip(y - 0.02, 0, 0.1))[..., None]
    c.paint(0.30 * bump(y - low - 0.165, 0.045) * bump(mx, 0.6), np.asarray(p.skin) * 0.45)
    c.paint(cover(np.maximum(np.maximum(-y - top - upper, y + top), ends)), lips * 0.80, 12)
    c.paint(cover(np.maximum(np.maximum(y - low - lower, low - y), ends)), lips * shade, 13)
    c.paint(0.35 * bump(y - low - lower * 0.45, 0.02) * bump(mx, 0.4) * smooth(0.02, 0.05, lower), (1.0, 0.9, 0.88))
    if s.mood.open:
        inside = cover(np.maximum(np.maximum(-y - top, y - low), ends))
        c.paint(inside, (0.22, 0.04, 0.05), 11)
        teeth = cover(np.maximum(np.maximum(-y - top, y - (low * 0.55 if s.mood.teeth else 0.02 - top)),
                                 np.abs(mx) - (0.93 if s.mood.teeth else 0.7)))
        c.paint(inside * teeth * 0.95, (0.96, 0.95, 0.92))
    else:
        c.paint(0.80 * bump(y, 0.013) * smooth(1.08, 0.98, np.abs(mx)), lips * (0.22, 0.14, 0.16))
    corner = np.hypot(np.abs(mx) - 1.02, (y + 0.0) / s.mouth_w) - 0.0
    c.paint(0.35 * bump(corner, 0.10), np.asarray(p.skin) * (0.45, 0.32, 0.3))


def _beard(canvas: Canvas, p: Person, s: Shape, skull: np.ndarray) -> None:
    c = canvas
    ax, y = np.abs(c.x), c.y
    hang = 0.12 if p.beard == "full" else 0.0
    edge = s.mouth_y - 0.16 - 0.30 * smooth(s.mouth_w * 1.1, s.width, ax)  # upper border, up to the sideburns
    edge = np.where(ax > s.width * 0.86, -0.02, edge)
    inside = s.field(c.x * (1 - 0.4 * hang), y - hang * smooth(s.mouth_y, s.chin, y))
    lips = np.hypot(c.x / (s.mouth_w * 1.08), (y - s.mouth_y - 0.02 - s.mood.open * 0.3) / (0.125 + s.mood.open)) - 1
    above = s.nose_y + 0.085
    droop = 0.20 * np.clip(ax - 0.15, 0, 1)
    moustache = np.maximum(np.maximum(above + droop - y, y - s.mouth_y + 0.035 - droop * 1.5 + 0.0 * ax),
                           ax - s.mouth_w * 1.25)
    goatee = np.maximum(np.hypot(c.x / mix(0.20, 0.26, p.jaw), (y - s.chin + 0.07) / 0.23) - 1, -lips * 0.5)
    full = np.maximum(np.maximum(inside, (edge - y) * 1.5), -lips * 0.4)
    jaw = smooth(0.0, 0.16, y - edge) * smooth(0.05, -0.08, inside) * smooth(-0.15, 0.1, lips)
    colour = np.asarray(p.hair) * 0.78
    grain = noise(11, 70, c.size)
    if p.beard == "stubble":
        soft = np.maximum(jaw, smooth(0.05, -0.03, moustache)) * skull
        c.paint(soft * (0.36 + 0.30 * grain), np.asarray(p.hair) * 0.45 + (0.03, 0.03, 0.04))
        return
    fields = {"moustache": moustache, "goatee": np.minimum(moustache, goatee), "full": np.minimum(moustache, full)}
    field = (fields[p.beard] + 0.03 * (grain - 0.5)).astype(np.float32)
    relief = 0.10 * np.clip(-field * 3, 0, 1) + 0.05 * grain + 0.25 * np.clip(1 - ax, 0, 1)
    lambert, _ = c.light(relief.astype(np.float32))
    c.paint(cover(field) * 0.95, shaded(colour, lambert, dark=0.5, bright=0.7), 1)


def paint_features(canvas: Canvas, p: Person, s: Shape, skull: np.ndarray) -> None:
    """Nose, beard, mouth, eyes and brows over the painted head."""
    _nose(canvas, p, s, skull)
    if p.beard != "none":
        _beard(canvas, p, s, skull)
    _mouth(canvas, p, s)
    for side in (-1, 1):
        _eye(canvas, p, s, side)
        _brow(canvas, p, s, side)
