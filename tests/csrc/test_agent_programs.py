"""bitrl-act as a program: its lines beside those of `bitrl act`; hostile files and lines for the sanitizers; on ARM."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from c_agents import pair
from c_programs import ARM, ARM_COMPILER, CSRC, SANITIZED, build, compiler
from test_agent import BOOK, CARTPOLE, CHANGES, FLOAT4, MIXED, MIXED_EXAMPLE, parts_of, states
from tiny_models import TinyModel

from bitrl.core.acting.gguf_bytes import gguf_bytes

EMULATOR = "qemu-aarch64"
ON_ARM = pytest.mark.skipif(
    not (shutil.which(ARM_COMPILER) and shutil.which(EMULATOR)),
    reason=f"needs {ARM_COMPILER} and {EMULATOR}: apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user",
)


@pytest.fixture(scope="module")
def act(tmp_path_factory) -> Path:
    """bitrl-act under the sanitizers."""
    out = tmp_path_factory.mktemp("act") / "bitrl-act"
    return build(out, CSRC / "agent" / "main.c", *SANITIZED, agent=True)


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    """An agent of texts and numbers that reads three states of an episode."""
    folder = tmp_path_factory.mktemp("agent")
    model = TinyModel(width=48, ffn=80, heads=3, kv_heads=1, blocks=2).write(folder / "tiny.gguf")
    return pair(folder, MIXED, MIXED_EXAMPLE, "json", {}, {"model": str(model), "threads": 1}, history=3)


def run(*command, given: bytes = b"", code: int = 0) -> tuple[str, str]:
    """What a program says on stdout and stderr."""
    done = subprocess.run([str(word) for word in command], input=given, capture_output=True, timeout=120, check=False)
    assert done.returncode == code, done.stdout[-500:] + done.stderr[-3000:]
    return done.stdout.decode(), done.stderr.decode()


GOOD = {"goal": 'say "é"', "note": "x", "numbers": [0.25, -1], "level": 3, "extra": [True, False]}


def test_the_header_is_c_and_c_plus_plus(tmp_path) -> None:
    for name, standard in (("a.c", "c99"), ("a.cpp", "c++11")):
        (tmp_path / name).write_text(
            '#include "bitrl_agent.h"\nint main(void) { return bitrl_agent_version() == 0; }\n'
        )
        flags = [f"-std={standard}", "-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only", f"-I{CSRC / 'agent'}"]
        run(*compiler(), *flags, tmp_path / name)


def test_lines_are_answered_as_bitrl_act_answers_them(act, agent) -> None:
    lines = [
        json.dumps(GOOD),
        "",
        "null",
        json.dumps({**GOOD, "level": 0}),
        " \t",
        "[1]",
        "{",
        json.dumps(GOOD),
        "\xff",
    ]
    given = "\n".join(lines).encode("latin-1")
    expected = run(sys.executable, "-m", "bitrl", "act", agent.files[0], given=given)[0].splitlines()
    answers = run(act, agent.files[1], given=given)[0].splitlines()
    assert len(answers) == len(expected) == 7
    for one, other in zip(answers, expected, strict=True):
        if "error" not in other:
            assert one == other
        else:
            assert json.loads(one)["error"].split(":")[0] == json.loads(other)["error"].split(":")[0]


def test_errors_are_one_line_of_utf8(act, agent) -> None:
    """Whatever they quote, and wherever it is cut; so a line that is answered by one is JSON."""
    said = {
        '{"é\\n": 1, "é\\n": 2}': 'expected JSON: the key "é?" is there twice',
        json.dumps(
            {**GOOD, "numbers": "\u009b\u7a81\x7f"}, ensure_ascii=False
        ): '"numbers": expected 2 numbers, got "??突?"',
        json.dumps(
            {**GOOD, "numbers": "é" * 60}, ensure_ascii=False
        ): f'"numbers": expected 2 numbers, got "{"é" * 29}?...',
        json.dumps({**GOOD, "other": [1] * 400}): "expected JSON of at most 266 values and names, got more",
    }
    answers = run(act, agent.files[1], given="\n".join(said).encode())[0].splitlines()
    found = [json.loads(answer)["error"].partition(": ")[2] for answer in answers]
    assert found == [*said.values()]
    given = json.dumps({**GOOD, "numbers": 0}).replace('"numbers": 0', '"numbers": [1,\n2, 3]')
    with pytest.raises(ValueError, match=r"got \[1,\?2, 3\]$"):
        agent.c.act_json(given.encode())


def test_its_commands(act, agent, tmp_path) -> None:
    file = agent.files[1]
    assert run(act, "--help")[0].startswith("Usage: bitrl-act [OPTIONS] FILE")
    assert run(act, "--version")[0] == "bitrl-act 1.0.0\n"
    example = json.loads(run(act, file, "--example")[0])
    assert example == agent.python.example
    assert run(act, "-h") == run(act, "--help")
    assert run(act, "--threads=2", "--example", "--", file) == run(act, file, "--example")
    facts = json.loads(run(act, "--facts", file)[0])
    assert (facts["env"], facts["serializer"]["name"], facts["history"]) == ("Mixed-v0", "json", 3)
    (tmp_path / "foreign.gguf").write_bytes(b"GGUF" + b"\0" * 100)
    for arguments, words in (
        ((), "expected the file of an agent"),
        ((file, file), "expected one file"),
        (("--fast", file), "unknown option --fast"),
        (("--threads", "0", file), "expected 1 to 1024 threads, got 0"),
        (("--threads",), "a value is missing"),
        (("--threads", "two", file), "expected 1 to 1024 threads, got two"),
        (("--isa", "sse9", file), "this CPU has no instruction set sse9"),
        (("--isa=sse9", file), "this CPU has no instruction set sse9"),
        (("--", "--fast"), "--fast cannot be opened"),
        (("a\nb\x1b[31m",), "a?b?[31m cannot be opened: No such file or directory"),
        ((tmp_path / "nowhere.gguf",), "nowhere.gguf cannot be opened: No such file or directory"),
        ((tmp_path / "foreign.gguf",), "foreign.gguf is GGUF version 0"),
    ):
        out, error = run(act, *arguments, code=2)
        assert (out, error.count("\n")) == ("", 1)
        assert words in error
        assert error.startswith("Error: ")
    out, error = run(act, "--strict", file, given=json.dumps(GOOD).encode() + b"\n[1]\nnull\n", code=1)
    assert (out.count("\n"), error.startswith("Error: line 2 of the input: observation")) == (1, True)


def test_lines_that_are_too_long_are_skipped(act, agent) -> None:
    good = json.dumps(GOOD).encode()
    given = good + b"\n" + b"[" * 3_000_000 + b"\n" + good + b"\n" + b" " * 3_000_000
    answers = [json.loads(line) for line in run(act, agent.files[1], given=given)[0].splitlines()]
    assert all("expected at most" in answer["error"] for answer in answers[1::2])
    assert all(isinstance(answer, int) for answer in (answers[0], answers[2]))


def test_a_line_is_answered_before_the_next_is_waited_for(act, agent) -> None:
    with subprocess.Popen([act, agent.files[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        for _ in range(3):
            process.stdin.write(json.dumps(GOOD).encode() + b"\n")
            process.stdin.flush()
            assert int(process.stdout.readline()) >= 5
        process.stdin.close()
        assert process.wait(60) == 0


def test_hostile_files_and_lines_are_clean(tmp_path, agent) -> None:
    """Sealed again after each change, so that what reads a plan is reached."""
    program = build(tmp_path / "agent", "agent.c", *SANITIZED, agent=True)
    rng = np.random.default_rng(0)
    good = json.dumps(GOOD).encode()
    lines = [good, b"null"]
    for _ in range(120):
        line = bytearray(good)
        for _ in range(rng.integers(1, 4)):
            at = rng.integers(len(line))
            line[at : at + rng.integers(3)] = bytes(
                rng.choice([*b'{}[]",:\\u0123456789eE.-tn \xff\xc3'], rng.integers(4)).tolist()
            )
        lines.append(bytes(line).replace(b"\n", b" "))
    (tmp_path / "lines").write_bytes(b"\n".join(lines))
    keys, tensors, plan = parts_of(agent.files[1])
    files = [agent.files[1]]

    def add(name: str, keys) -> None:
        files.append(tmp_path / f"{name}.gguf")
        files[-1].write_bytes(b"".join(gguf_bytes(keys, tensors)))

    for index, change in enumerate(CHANGES):
        add(f"change-{index}", {**keys, "bitrl.agent": json.dumps({**plan, **change})})
    text = keys["bitrl.agent"]
    for index in range(40):
        at = int(rng.integers(len(text)))
        add(f"text-{index}", {**keys, "bitrl.agent": text[:at] + str(rng.choice([*'0919-"[]{},x '])) + text[at + 1 :]})
    for name in ("token_lengths", "merges", "token_bytes"):
        array = keys[f"bitrl.agent.{name}"].copy()
        array[rng.integers(0, len(array), 3)] = 250
        add(name, {**keys, f"bitrl.agent.{name}": array})
        add(f"short-{name}", {**keys, f"bitrl.agent.{name}": array[: len(array) // 2]})
        add(f"no-{name}", {each: value for each, value in keys.items() if each != f"bitrl.agent.{name}"})
    add("phrases", {**keys, "bitrl.agent.phrases": np.array([5, 5], np.uint32)})
    out = run(program, tmp_path / "lines", *files)[0].splitlines()
    assert len(out) == len(files)
    kept = out[0].split()
    assert (kept[0], int(kept[1]) > 1, int(kept[2]) > 100) == ("ok", True, True)
    assert all(line.endswith(" 0") if line.startswith("ok ") else line.startswith("error ") for line in out)
    assert sum(line.startswith("error ") for line in out) > len(CHANGES)


@ON_ARM
def test_actions_on_arm_are_those_of_this_cpu(tmp_path) -> None:
    """Without dot products, as a Raspberry Pi 4, with, as a 5, and as on a server."""
    program = build(tmp_path / "bitrl-act", CSRC / "agent" / "main.c", *ARM, compiled_by=[ARM_COMPILER], agent=True)
    model = TinyModel(width=48, ffn=80, heads=3, kv_heads=1, blocks=2).write(tmp_path / "tiny.gguf")
    box = np.full(3, -1, np.float32), np.full(3, 1, np.float32)
    made = pair(
        tmp_path, CARTPOLE, FLOAT4, "codes", {"codes": 16}, {"model": str(model), "threads": 1}, box=box, state=BOOK
    )
    lines = [json.dumps(state) for state in states(200).tolist()]
    expected = [made.c.act_json(line.encode()) for line in lines]
    for cpu in ("cortex-a72", "cortex-a76", "neoverse-n1"):
        out = run(EMULATOR, "-cpu", cpu, program, made.files[1], given="\n".join(lines).encode())[0]
        assert out.splitlines() == expected
