"""What an action unit does to the landmarks, the pixels and the viewers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ferkit.data.synthetic.expression import Expression, draw_expression
from ferkit.data.synthetic.geometry import MIRROR, contours
from ferkit.data.synthetic.prototypes import ACTION_UNITS, AU, CLASSES, EXEMPLARS, perceive, vector
from ferkit.data.synthetic.render import render
from ferkit.data.synthetic.scene import OCCLUSIONS, Identity, Scene, draw_identity, draw_scene

SIZE = 96


def face(units: dict[int, float]) -> np.ndarray:
    both = vector(units)
    return contours(Identity(), Expression(both, both), Scene(), SIZE).landmarks


def moved(units: dict[int, float]) -> np.ndarray:
    """How far each landmark moves up (first column: to the right) in pixels."""
    shift = face(units) - face({})
    return shift * np.array([1, -1])


def test_landmarks_at_rest_are_in_order() -> None:
    points = face({})
    x, y = points.T
    assert (np.diff(x[:17]) > 0).all() and y[8] == y.max()
    assert (np.diff(x[17:27]) > 0).all() and (np.diff(y[27:31]) > 0).all() and (np.diff(x[31:36]) > 0).all()
    assert x[36] < x[39] < x[42] < x[45] and x[48] < x[51] < x[54]
    assert y[17:27].max() < y[36:48].min() and y[36:48].max() < y[31:36].min() and y[31:36].max() < y[48:].min()
    assert (y[[37, 38, 43, 44]] < y[[41, 40, 47, 46]]).all()


@pytest.mark.parametrize(
    ("code", "points", "axis", "sign"),
    [
        (1, [21, 22], 1, 1),  # inner brow up
        (2, [17, 26], 1, 1),  # outer brow up
        (4, [21, 22], 1, -1),  # brows down
        (5, [37, 38, 43, 44], 1, 1),  # upper lids up
        (6, [40, 41, 46, 47], 1, 1),  # lower lids up
        (7, [40, 41, 46, 47], 1, 1),
        (9, [31, 35], 1, 1),  # nose wings up
        (10, [50, 51, 52], 1, 1),  # upper lip up
        (12, [48, 54], 1, 1),  # corners up
        (15, [48, 54], 1, -1),  # corners down
        (17, [57, 66], 1, 1),  # lower lip up
        (20, [54], 0, 1),  # corners out
        (23, [54], 0, -1),  # mouth narrower
        (25, [65, 66, 67], 1, -1),  # lips part
        (26, [8, 57, 66], 1, -1),  # jaw down
        (45, [37, 38, 43, 44], 1, -1),  # lids shut
    ],
)
def test_action_units_move_their_landmarks(code: int, points: list[int], axis: int, sign: int) -> None:
    strong, weak = (sign * moved({code: level})[points, axis] for level in (5.0, 2.0))
    assert (strong > weak).all() and (weak > 0.1).all()


def test_jaw_drop_opens_the_mouth_and_blink_shuts_the_eyes() -> None:
    assert (face({26: 4.0})[66, 1] - face({26: 4.0})[62, 1]) > 5
    assert abs(face({})[66, 1] - face({})[62, 1]) < 0.5
    shut, awake = face({45: 5.0}), face({})
    assert (shut[[40, 41], 1] - shut[[38, 37], 1]).max() < 0.3 * (awake[[40, 41], 1] - awake[[38, 37], 1]).min()


@pytest.mark.parametrize("code", [code for code in ACTION_UNITS])
def test_every_action_unit_can_be_seen(code: int) -> None:
    images = []
    for level in (0.0, 4.0):
        both = vector({code: level})
        images.append(
            render(Identity(), Expression(both, both), Scene(), 48, np.random.default_rng(0))[0].astype(float)
        )
    change = np.abs(images[1] - images[0]).max(-1)
    assert (change > 15).sum() >= 4


def test_mirror_is_an_involution_and_mirrors_the_geometry() -> None:
    assert (MIRROR[MIRROR] == np.arange(68)).all() and sorted(MIRROR) == list(range(68))
    rng = np.random.default_rng(0)
    for _ in range(5):
        who, expression = replace(draw_identity(rng), crooked=0.0), draw_expression(rng, 8)
        scene = draw_scene(rng)
        points = contours(who, expression, scene, SIZE).landmarks
        other = contours(who, expression.mirrored(), scene.mirrored(), SIZE).landmarks
        flipped = points[MIRROR] * np.array([-1, 1]) + np.array([SIZE - 1, 0])
        np.testing.assert_allclose(other, flipped, atol=1e-9)


def test_landmarks_lie_on_the_painted_features() -> None:
    """Dark pupils at the eyes, the open mouth dark between the inner lips, skin on the cheek."""
    both = vector({26: 5.0, 25: 3.0})
    image, c = render(Identity(), Expression(both, both), Scene(roll=0.2, yaw=0.15), SIZE, np.random.default_rng(0))

    def at(point: np.ndarray) -> int:
        return int(image[round(float(point[1])), round(float(point[0]))].astype(int).sum())

    points = c.landmarks
    cheek = at((points[3] + points[31]) / 2)
    for lids in ([37, 38, 40, 41], [43, 44, 46, 47]):
        assert at(points[lids].mean(0)) < 0.4 * cheek
    assert at(points[62] * 0.4 + points[66] * 0.6) < 0.5 * cheek


@pytest.mark.parametrize("occlusion", OCCLUSIONS)
def test_occluders_hide_pixels(occlusion: str) -> None:
    both = vector({12: 3.0})
    images = [
        render(Identity(), Expression(both, both), Scene(occlusion=kind), 48, np.random.default_rng(0))[0].astype(int)
        for kind in ("none", occlusion)
    ]
    changed = (np.abs(images[0] - images[1]).max(-1) > 12).sum()
    assert changed == 0 if occlusion == "none" else 20 < changed < 1200


@pytest.mark.parametrize("name", CLASSES)
def test_viewers_name_the_prototypes(name: str) -> None:
    for units in EXEMPLARS[name]:
        full = vector(units) * 0.8
        shares = perceive(full, full * (name != "contempt"), num_classes=8)
        assert CLASSES[int(shares.argmax())] == name and shares.sum() == pytest.approx(1)


def test_two_sided_smile_is_not_contempt_and_weak_faces_lean_to_neutral() -> None:
    smile = vector({12: 3.0, 14: 3.5})
    one, two = perceive(smile, 0 * smile, 8), perceive(smile, smile, 8)
    assert one[7] > 0.5 and two[7] < 0.2
    fear = vector(EXEMPLARS["fear"][0])
    neutral = [perceive(fear * level, fear * level)[0] for level in (0.1, 0.3, 0.6, 1.0)]
    assert (np.diff(neutral) < 0).all()


def test_blends_and_hidden_mouths_are_flatter() -> None:
    fear, surprise = vector(EXEMPLARS["fear"][0]), vector(EXEMPLARS["surprise"][0])
    blend = (fear + surprise) / 2
    sharp = max(perceive(fear, fear).max(), perceive(surprise, surprise).max())
    assert perceive(blend, blend).max() < sharp - 0.1
    smile = vector(EXEMPLARS["happy"][1]) * 0.7
    hidden = perceive(smile, smile, 7, Scene(occlusion="mask").visibility())
    assert hidden[1] < perceive(smile, smile)[1] - 0.2


def test_perception_is_smooth() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        shown = draw_expression(rng)
        step = 1e-5 * rng.standard_normal(17)
        change = perceive(shown.left + step, shown.right + step) - perceive(shown.left, shown.right)
        assert np.abs(change).max() < 1e-3


def test_action_unit_table() -> None:
    assert list(AU) == list(ACTION_UNITS) and len(ACTION_UNITS) == 17
    assert all(code in AU for variants in EXEMPLARS.values() for units in variants for code in units)
