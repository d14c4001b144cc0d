"""The serializer template: the user's sentence, held against Python's own formatting, and attacked."""

import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import bitrl
from bitrl.core.interfaces import Field, ObservationSpec
from bitrl.plugins.envs.smarthome import SmartHomeLight
from bitrl.plugins.serializers import TemplateOptions
from bitrl.plugins.serializers.template import Template
from bitrl.testing import check_serializer

STATE = [0.0312, -0.52, -0.0004, 1.204]
FIELDS = "(the fields of CartPole-v1: cart_position, cart_velocity, pole_angle, pole_velocity)"
SPEC = ObservationSpec("Boiler-v0", (Field("level", 0, 1, "m"), Field("heat"), Field("valves", 0, 4, decimals=0)))


def cartpole(template, **options):
    return bitrl.load_serializer("template", env="CartPole-v1", template=template, **options)


def refusal(template):
    """What is said of a template that is wrong; None if it is right."""
    try:
        cartpole(template)(STATE)
    except bitrl.UsageError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("pole at {pole_velocity:.2f} rad/s", "pole at 1.20 rad/s"),
        ("{cart_position} {cart_velocity}", "0.031 -0.520"),
        ("{pole_angle:.2f}", "0.00"),
        ("{pole_angle:+.2f}", "+0.00"),
        ("{cart_velocity:.0%} of {pole_velocity:.3e}", "-52% of 1.204e+00"),
        ("{pole_velocity:8.2f}|{pole_velocity:08.2f}", "    1.20|00001.20"),
        ("{pole_velocity: .1f}|{pole_velocity:g}", " 1.2|1.204"),
        ("{{{cart_position}}} }}{{ {cart_position}", "{0.031} }{ 0.031"),
        ("größer: {cart_position}\nstatt 日本", "größer: 0.031\nstatt 日本"),
    ],
)  # fmt: skip
def test_word_for_word(template, text):
    assert cartpole(template)(np.array(STATE)) == text


def test_fields_without_a_format_have_the_decimals_of_the_other_serializers():
    write = Template(TemplateOptions(template="{level} {heat} {valves}"), SPEC)
    assert write([0.5, -3.0, 2.0]) == "0.500 -3.000 2"
    assert Template(TemplateOptions(template="{level} {valves}", decimals=1), SPEC)([0.5, -3.0, 2.0]) == "0.5 2"
    lake = bitrl.load_serializer("template", env="FrozenLake-v1", template="at {state}, {state:.1f}")
    assert lake.batch(np.array([5, 15])) == ["at 5, 5.0", "at 15, 15.0"]


def test_texts_are_fields_and_are_not_read_as_templates():
    write = bitrl.load_serializer("template", env="SmartHome-Light", template="{request} at {hour:.0f}")
    observation, _ = SmartHomeLight().reset(seed=4)
    assert write(observation) == f"{observation['request']} at {observation['numbers'][0]:.0f}"
    assert write({"request": "{hour} {0.__class__}", "numbers": [3.0, *[0.0] * 12]}) == "{hour} {0.__class__} at 3"
    with pytest.raises(bitrl.UsageError, match=r"character 1, \"\{request:.2f\}\": request is a string, and takes no"):
        bitrl.load_serializer("template", env="SmartHome-Light", template="{request:.2f}")


formats = st.builds(
    "{}{}{}{}{}".format,
    st.sampled_from(["", "+", " ", "-"]),
    st.sampled_from(["", "0"]),
    st.sampled_from(["", "1", "7", "20"]),
    st.sampled_from(["", ".0", ".3", ".9"]),
    st.sampled_from("efg%"),
)
literals = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
parts = st.lists(st.tuples(literals, st.sampled_from([field.name for field in SPEC.fields]), formats), min_size=1)


@given(parts, literals, st.lists(st.floats(-1e9, 1e9), min_size=3, max_size=3))
def test_it_writes_what_pythons_formatting_writes(parts, end, state):
    """But for the sign of nothing, which is left out."""
    escape = {ord("{"): "{{", ord("}"): "}}"}
    values = dict(zip([field.name for field in SPEC.fields], state, strict=True))
    template = "".join(f"{text.translate(escape)}{{{name}:{form}}}" for text, name, form in parts)
    expected = ""
    for text, name, form in parts:
        written = format(values[name], form)
        nothing = not re.search("[1-9]", written.partition("e")[0])
        expected += text + (format(0.0, form) if nothing else written)
    assert Template(TemplateOptions(template=template + end.translate(escape)), SPEC)(state) == expected + end


@given(st.text("{}:.!0fa[] pole_angle\n", min_size=1, max_size=30) | st.text(min_size=1, max_size=30))
def test_any_template_is_written_or_refused_in_one_line(template):
    assume(template.strip().lower() not in ("", "none"))  # unset
    error = refusal(template)
    if error is None:
        assert re.search(r"\{pole_angle(:[0-9.]*[efg%])?\}", template)
    else:
        assert error.startswith("serializer.template: ")
        assert error.endswith(FIELDS)
        assert error.isprintable()


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("falling", "expected at least one field, got none: every state would read the same"),
        ("a {{pole_angle}}", "expected at least one field, got none: every state would read the same"),
        ("at {pole_angel:.2f}", 'character 4, "{pole_angel:.2f}": there is no field "pole_angel"'),
        ("{}", 'character 1, "{}": there is no field ""'),
        ("{0}", 'character 1, "{0}": there is no field "0"'),
        ("{ pole_angle }", 'character 1, "{ pole_angle }": there is no field " pole_angle "'),
        ("x {pole_angle", 'character 3, "{": this brace is not closed: write {{ for a literal brace'),
        ("x pole_angle}", 'character 13, "}": this brace closes nothing: write }} for a literal brace'),
        ("{pole_angle:x}", '"x" is not a number format such as .2f, +.1f, 06.2f, .3e or .0%'),
        ("{pole_angle:}", '"" is not a number format'),
        ("{pole_angle:.f}", '".f" is not a number format'),
        ("{pole_angle:.12f}", '".12f" is not a number format'),
        # Attacks.
        ("{0.__class__}", 'there is no field "0.__class__"'),
        ("{pole_angle.__class__.__mro__}", 'there is no field "pole_angle.__class__.__mro__"'),
        ("{x[0]}", 'there is no field "x[0]"'),
        ("{pole_angle[real]}", 'there is no field "pole_angle[real]"'),
        ("{pole_angle!r}", 'there is no field "pole_angle!r"'),
        ("{pole_angle!r:>9}", 'there is no field "pole_angle!r"'),
        ("{pole_angle:{cart_position}}", 'character 1, "{": this brace is not closed'),
        ("{pole_angle:.{cart_position}f}", 'character 1, "{": this brace is not closed'),
        ("{{{{{pole_angle", 'character 5, "{": this brace is not closed'),
        ("{pole_angle:999999999f}", '"999999999f" is not a number format'),
        ("{pole_angle:.999999999f}", '".999999999f" is not a number format'),
        ("{pole_angle:*^9f}", '"*^9f" is not a number format'),
        ("{pole_angle:١f}", "is not a number format"),  # a digit, but not one of ours
        ("{pole_angle:\n.2f}", r'"\n.2f" is not a number format'),
        ("{" + "a" * 10_000 + "}", f'there is no field "{"a" * 40}…"'),
    ],
)
def test_a_mistake_is_one_line_that_says_what_and_where_and_which_fields_there_are(template, error):
    message = refusal(template)
    assert message.startswith("serializer.template: ")
    assert error in message
    assert message.endswith(FIELDS)
    assert "\n" not in message
    assert len(message) < 400


def test_hostile_templates_take_linear_time():
    for unit in ("{", "}", "{{", "{a", "{}}", "{pole_angle:", "{pole_angle:0"):
        with pytest.raises(bitrl.UsageError):
            cartpole(unit * 100_001)


def test_many_fields_are_not_all_listed():
    spec = ObservationSpec("Wide-v0", tuple(Field(f"x{index}") for index in range(100)))
    with pytest.raises(bitrl.UsageError, match=r"x0, x1, .*, x39 and 60 more\)$"):
        Template(TemplateOptions(template="{y}"), spec)


def test_what_it_cannot_write_is_refused():
    with pytest.raises(bitrl.UsageError, match="name an environment"):
        bitrl.load_serializer("template", template="{x0}")
    with pytest.raises(bitrl.UsageError, match="is a grid, not a list of numbers"):
        Template(TemplateOptions(template="{x}"), ObservationSpec("BabyAI-GoTo-v0", texts=("mission",), grid=True))
    with pytest.raises(bitrl.UsageError, match="environment CartPole-v1: expected an observation of 4 numbers, got 3"):
        cartpole("{pole_angle}")([1, 2, 3])


@pytest.mark.parametrize(
    ("env", "template"),
    [("CartPole-v1", "{pole_angle}"), ("FrozenLake-v1", "at {state:.0f}"), ("SmartHome-Light", "{request} {hour}")],
)
def test_it_keeps_the_contract(env, template):
    check_serializer("template", env=env, template=template)


def test_without_a_template_it_writes_what_compact_writes():
    written = "x=0.031 v=-0.520 angle=0.000 spin=1.204"
    assert cartpole(None)(STATE) == cartpole("")(STATE) == written
