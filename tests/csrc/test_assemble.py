"""A file made of a caller's table, under AddressSanitizer and UndefinedBehaviorSanitizer."""

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path

CSRC = Path(__file__).parents[2] / "csrc"

# codes (0x24, 0x06, 0x18): bits 2 i and 2 i + 1 of the packed row are row i of 4, a code is a weight + 1; times 0.5.
ROWS = "-0.5 0.5 -0.5 0 0 0.5 0.5 -0.5 0 -0.5 -0.5 -0.5"
EXPECTED = [
    ("nothing", "ok 0 bytes"),
    ("both", f"ok 19 bytes {ROWS} 1 -2 0.5 0"),
    ("short value", "error has a wrong value for key n"),
    ("text beyond its value", "error has a wrong value for key s"),
    ("two of one", "error has a wrong value for key n"),
    ("array of 2^62", "error has a wrong value for key n"),
    ("no name", "error has a name of no or too many bytes"),
    ("twice a key", "error is damaged: it has the key n twice"),
    ("twice a tensor", "error is damaged: it has the tensor w twice"),
    ("three packed rows", "error is damaged: tensor w has a shape that HF_PACKED cannot have"),
    ("product wraps", "error is damaged: tensor w has an impossible shape"),
    ("bytes", "error is damaged: tensor w has 4 bytes; its shape needs 3"),
    ("no data", "error is damaged: tensor w has 3 bytes"),
    ("five dimensions", "error is damaged: tensor w has 5 dimensions"),
    ("type", "error has tensor w in a type that GGUF does not have (1001)"),
    ("scale", "error is damaged: w has the scale nan"),
    ("scale", "error is damaged: w has the scale inf"),
    ("scale", "error is damaged: w has the scale -1"),
    ("scale", "error is damaged: w has the scale 0"),
    ("code 3", "ok 3 bytes; is damaged: w is not finite"),
    ("not finite", "ok 16 bytes; is damaged: v is not finite"),
]


def test_tables_of_a_caller(tmp_path: Path) -> None:
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[:1]
    sources = [str(CSRC / name) for name in ("common.c", "gguf.c", "weights.c")]
    flags = "-std=c11 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=all"
    own, out = str(Path(__file__).with_name("assemble.c")), tmp_path / "assemble"
    command = [*compiler, *flags.split(), f"-I{CSRC}", *sources, own, "-lm", "-o", str(out)]
    subprocess.run(command, check=True, capture_output=True)
    done = subprocess.run([out], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    lines = [line.split(": ", 1) for line in done.stdout.splitlines()]
    assert len(lines) == len(EXPECTED)
    for (title, found), (wanted_title, wanted) in zip(lines, EXPECTED, strict=True):
        assert title == wanted_title
        assert found.startswith(wanted), f"{title}: {found}"
