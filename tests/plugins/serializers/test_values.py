"""Numbers without made-up names; the default where nobody named them."""

import numpy as np

from bitrl import load_backbone, load_serializer
from bitrl.core.config import resolve
from bitrl.core.interfaces import Field, ObservationSpec
from bitrl.plugins.backbones.number_ends import number_ends
from bitrl.plugins.serializers import ValuesOptions
from bitrl.plugins.serializers.values import Values


def test_numbers_without_names_stand_alone():
    write = load_serializer("values", env="Reacher-v5")
    state = np.array([0.031, -0.52, 0.01, -0.00001, 12, 0, 0, 0, 0, 1e5], np.float32)
    assert write(state) == "0.031 -0.520 0.010 0.000 12.000 0.000 0.000 0.000 0.000 100000.000"


def test_a_part_is_named_once():
    names = ("arm.joints.0", "arm.joints.1", "lamp", "x1", "speed")
    spec = ObservationSpec("Mine-v0", tuple(Field(name, -1, 1) for name in names))
    text = Values(ValuesOptions(), spec)([0.5, -0.25, 1, 0, 1])
    assert text == "arm.joints 0.500 -0.250 lamp 1.000 0.000 speed 1.000"
    assert len(number_ends(text)) == 5


def test_texts_come_before_the_numbers():
    write = load_serializer("values", env="SmartHome-Light")
    spec = write.numbers.observation
    observation = dict.fromkeys(spec.texts, "Lights on") | {"numbers": np.zeros(len(spec.fields))}
    text = write(observation)
    assert text.startswith("Lights on. ")
    assert len(number_ends(text.removeprefix("Lights on. "))) == len(spec.fields)


def test_a_number_without_a_name_is_at_most_three_tokens():
    write, model = load_serializer("values", env="Reacher-v5"), load_backbone("bitnet")
    states = np.random.default_rng(0).uniform(-9, 9, (200, 10)).astype(np.float32)
    assert max(model.token_counts(write.batch(states))) <= 3 * 10


def test_it_is_the_default_of_environments_without_names():
    def serializer(env, backbone="bitnet"):
        return resolve({"run": {"env": env, "backbone": backbone}}).serializer.name

    assert serializer("Reacher-v5") == "values"
    assert serializer("Reacher-v5", "mlp") == "vector"
    assert serializer("Hopper-v5") == "json"
