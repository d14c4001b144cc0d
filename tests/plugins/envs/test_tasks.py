"""The tasks for language models: what they ask, and scores against answers found in another way."""

import ast
import itertools
import json
import operator
import string
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bitrl
from bitrl.core.environments.prompt_task import is_held_out
from bitrl.plugins.envs.countdown import Puzzle, value_with
from bitrl.plugins.envs.question_files import final_answer, read_questions, same_answer
from bitrl.testing import check_environment

TASKS = ("addition", "sort-digits", "reverse-word", "countdown")

OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def by_syntax_tree(numbers, expression):
    """The value by Python's own parser; None where it is no expression of these numbers."""
    if set(expression) - set("0123456789+-*/() ") or "//" in expression or "**" in expression:
        return None
    used = []

    def value(node):
        if isinstance(node, ast.BinOp):
            return OPERATIONS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Constant):
            used.append(node.value)
            return Fraction(node.value)
        raise SyntaxError

    try:
        found = value(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ZeroDivisionError):
        return None
    return found if sorted(used) == sorted(numbers) else None


@pytest.mark.parametrize("name", TASKS)
def test_a_task_conforms_and_knows_a_right_answer(name):
    check_environment(name)
    task = bitrl.load_environment(name)
    random = np.random.default_rng(0)
    for _ in range(200):
        prompt, answer = task.prompt(random)
        assert len(prompt) <= task.longest_prompt
        assert task.score(answer, f" {task.solution(answer)}\n") == 1.0
        assert 0.0 <= task.score(answer, "öß\x00☃" * 50) < 1.0
        assert task.score(answer, "") == 0.0


def test_the_answers_are_those_of_the_prompts():
    random = np.random.default_rng(1)
    addition, sort, reverse = (bitrl.load_environment(name) for name in TASKS[:3])
    for _ in range(100):
        prompt, answer = addition.prompt(random)
        _, a, _, b, _ = prompt.split()
        assert int(answer) == int(a) + int(b)
        prompt, answer = sort.prompt(random)
        digits = prompt.removeprefix("Sort the digits ").removesuffix(":")
        assert [answer.count(d) for d in string.digits] == [digits.count(d) for d in string.digits]
        assert all(a <= b for a, b in itertools.pairwise(answer))
        prompt, answer = reverse.prompt(random)
        assert prompt.endswith(f" {''.join(reversed(answer))}:")


def test_what_is_partly_right_gets_a_part():
    addition, reverse = bitrl.load_environment("addition"), bitrl.load_environment("reverse-word")
    assert addition.score("148", "48") == pytest.approx(2 / 3)  # by places from the right
    assert reverse.score("tloms", "tlomx") == pytest.approx(4 / 5)
    assert reverse.score("tloms", "tlomsx") == pytest.approx(5 / 6)
    assert bitrl.load_environment("reverse-word", partial=False).score("tloms", "tlomx") == 0.0
    puzzle = Puzzle((3, 5, 2), 17, "3*5+2")
    scores = [bitrl.load_environment("countdown").score(puzzle, e) for e in ("2+5*3", "3+5+2", "3*5", "17", "2+5*3=17")]
    assert scores == [1.0, 0.1, 0.0, 0.0, 0.0]


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789+-*/() ", max_size=12), st.lists(st.integers(0, 9), min_size=1, max_size=4))
def test_expressions_are_valued_as_pythons_parser_reads_them(expression, numbers):
    assert value_with(numbers, expression) == by_syntax_tree(numbers, expression)


def test_every_countdown_puzzle_has_the_solution_it_names():
    task = bitrl.load_environment("countdown", numbers=5, largest=30)
    random = np.random.default_rng(2)
    for _ in range(300):
        _, puzzle = task.prompt(random)
        assert by_syntax_tree(puzzle.numbers, puzzle.solution) == puzzle.target


@pytest.mark.parametrize("name", TASKS)
def test_training_never_shows_what_evaluation_asks(name):
    task = bitrl.load_environment(name)
    train, held_out = ({env.reset(seed=i)[0] for i in range(50)} for env in (task.make(), task.make_for_evaluation()))
    assert not train & held_out
    assert all(map(is_held_out, held_out))
    first, second = task.make(), task.make()
    assert [first.reset(seed=5)[0], first.reset()[0]] == [second.reset(seed=5)[0], second.reset()[0]]


def test_too_few_prompts_to_hold_some_out_is_said(capfd):
    class One(bitrl.PromptTask):
        def prompt(self, random):
            return "1?", 1

        def score(self, answer, completion):
            return 0.0

    task = One()
    assert [env.reset(seed=0)[0] for env in (task.make(), task.make_for_evaluation())] == ["1?", "1?"]
    assert "too few different ones" in capfd.readouterr().err


def rows(path, *lines):
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return path


def question(i):
    return {"question": f"What is {i} + {i}?", "answer": f"It is twice {i}. #### {2 * i}"}


def test_a_file_of_questions(tmp_path):
    path = rows(tmp_path / "some.jsonl", *map(question, range(30)), b"")
    check_environment("questions", file=str(path))
    task = bitrl.load_environment("questions", file=str(path))
    train, held_out = ({e.reset(seed=i)[0] for i in range(200)} for e in (task.make(), task.make_for_evaluation()))
    assert (len(train), len(held_out), train & held_out) == (27, 3, set())
    env = task.make()
    prompt, _ = env.reset(seed=1)
    right = 2 * int(prompt.split()[2])
    assert env.step(f"12, then #### {right:,}.00")[1] == 1.0
    other = rows(tmp_path / "other.jsonl", question(77))
    both = bitrl.load_environment("questions", file=str(path), eval_file=str(other))
    assert both.make_for_evaluation().reset(seed=0)[0] == question(77)["question"]


@pytest.mark.parametrize(
    ("completion", "number", "found"),
    [
        ("a #### 4\nb", True, "4"),
        ("it is 3, no, 1,200.5.", True, "1,200.5"),
        (" Paris ", False, "Paris"),
        ("", True, ""),
        ("#### 18 dollars", True, "18"),
        ("#### **$1,234**", True, "$1,234"),
        ("#### New York, 5", False, "New York, 5"),
        ("it is .5", True, ".5"),
        ("they are 1,2", True, "2"),
        ("about 1e-05.", True, "1e-05"),
    ],
)
def test_final_answers(completion, number, found):
    assert final_answer(completion, number) == found


def test_a_typeset_minus_is_a_sign():
    """Models write it, too: without it, 5 would be the final answer."""
    for completion in ("x = \N{MINUS SIGN}5", "#### \N{MINUS SIGN}5", "so it is \N{MINUS SIGN}$5."):
        assert not same_answer("5", final_answer(completion, number=True))
        assert same_answer("-5", final_answer(completion, number=True))


def test_same_answers():
    assert same_answer("1000", "$1,000.0")
    assert same_answer("New  York", "new york")
    assert not same_answer("10", "ten")
    assert not same_answer("10", "1" * 200)
    assert same_answer("1e-05", "0.00001")
    assert not same_answer("3,4", "34")
    assert same_answer("\N{MINUS SIGN}5", "-5")
    assert not same_answer("10000000000000000001", "10000000000000000000")


def test_answers_that_are_json_numbers_are_as_the_file_writes_them(tmp_path):
    written = [b"1234", b"1.50", b"0.00001", b"1e400", b"9" * 5000]
    lines = [b'{"question": "%d", "answer": %s}' % pair for pair in enumerate(written)]
    read = read_questions(rows(tmp_path / "numbers.jsonl", *lines))
    assert [each.answer.encode() for each in read] == written


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has no questions"),
        ([question(1), b"{oops"], "line 2: is not JSON"),
        ([question(1), b'{"question": "a", "question": "b", "answer": "1"}'], 'line 2: has the key "question" twice'),
        ([question(1), {"question": "a"}], 'line 2: lacks the key "answer"'),
        ([question(1), {"question": "a", "answer": "b ####"}], 'line 2: nothing stands behind "####"'),
        ([question(1), {"question": " ", "answer": "b"}], 'line 2: expected a non-empty string as "question"'),
        ([question(1), b"[1]"], "line 2: expected an object"),
        ([question(1), b'{"question": "\xff", "answer": "1"}'], "line 2: is not UTF-8 (byte 15)"),
        ([question(1), question(1)], "line 2: the same question as in line 1"),
        ([question(1), b"x" * 5_000_000], "line 2: is longer than 1,000,000 characters"),
        ([question(1), b"[" * 100_000], "line 2:"),
        ([question(1), b'{"question": "a", "answer": NaN}'], "line 2: NaN is no number of JSON"),
        ([question(1), b'{"question": 5, "answer": "1"}'], 'line 2: expected a non-empty string as "question"'),
        ([question(1), b'{"question": "\\ud800", "answer": "1"}'], "line 2: half of a character"),
        ([question(1)], "has one question"),
    ],
)
def test_malformed_files_are_refused_by_line(tmp_path, lines, message):
    path = rows(tmp_path / "some.jsonl", *lines)
    with pytest.raises(bitrl.UsageError) as refused:
        bitrl.load_environment("questions", file=str(path)).make()
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_answers_without_the_mark_that_others_have_are_told(tmp_path, capsys):
    """A solution whose mark was lost could never be earned; a file without any marks has answers alone."""
    bare = [{"question": f"{i}?", "answer": f"so {i}"} for i in range(3)]
    read_questions(rows(tmp_path / "mixed.jsonl", *map(question, range(5)), *bare))
    assert 'mixed.jsonl, line 6 and 2 more: the answer has no "####", as others' in capsys.readouterr().err
    read_questions(rows(tmp_path / "one.jsonl", bare[0], question(1)))
    assert "one.jsonl, line 1: the answer has no" in capsys.readouterr().err
    read_questions(rows(tmp_path / "bare.jsonl", *bare))
    read_questions(rows(tmp_path / "marked.jsonl", *map(question, range(5))))
    assert capsys.readouterr().err == ""


def test_a_run_keeps_to_the_questions_that_it_began_with(tmp_path):
    """A changed answer would change what is learned, a question more which are held out; another place is no matter."""
    path = rows(tmp_path / "some.jsonl", *map(question, range(30)))
    options = {"backbone.model": "starter-tasks-fp16", "env.file": str(path), "algo.max_tokens": 4, "run.num_envs": 8}
    run = tmp_path / "run"
    bitrl.run("questions", algo="grpo", steps=8, out=run, options={**options, "run.eval_episodes": 1})
    kept = path.read_bytes()
    for changed in (kept.replace(b"#### 12", b"#### 13"), kept + json.dumps(question(40)).encode()):
        path.write_bytes(changed)
        for use in (lambda: bitrl.resume(run, steps=16), lambda: bitrl.evaluate(run)):
            with pytest.raises(bitrl.UsageError, match=r"its environment is not .*file_sha256 changed.*original file"):
                use()
    path.write_bytes(kept)
    moved = path.rename(tmp_path / "moved.jsonl")
    config = run / "config.toml"
    config.write_text(config.read_text().replace(str(path), str(moved)))
    assert bitrl.resume(run, steps=16)["steps"] == 16


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(bitrl.UsageError, match="cannot be read: No such file"):
        read_questions(tmp_path / "none.jsonl")
    with pytest.raises(bitrl.UsageError, match="needs a file of questions"):
        bitrl.load_environment("questions").make()


def test_reasoning_gym():
    pytest.importorskip("reasoning_gym")
    with pytest.raises(bitrl.UsageError, match='did you mean "leg_counting"'):
        bitrl.load_environment("reasoning-gym", task="leg_conting").make()
    with pytest.raises(bitrl.UsageError, match="does not take"):
        bitrl.load_environment("reasoning-gym", task="leg_counting", settings='{"legs": 5}').make()
    with pytest.raises(bitrl.UsageError, match="needs the name of a task"):
        bitrl.load_environment("reasoning-gym").make()
    first, second = (bitrl.load_environment("reasoning-gym", task="leg_counting") for _ in range(2))
    env = first.make()
    prompt, _ = env.reset(seed=3)
    assert second.make().reset(seed=3)[0] == prompt
    _, answer = first.draw(np.random.default_rng(4), held_out=True)
    assert first.reward(answer, first.solution(answer)) == (1.0, False)
    assert first.reward(answer, "none")[0] < 1.0
    env.close()
