"""A short run of the fuzzers: the corpus, every named attack, and mutations of them that are the same every time."""

import subprocess
from pathlib import Path

from c_programs import SANITIZED, build
from fuzz_metadata import accepts, write
from hostile_files import attacks_on_the_container, attacks_on_the_model, good

CORPUS = Path(__file__).parent / "corpus" / "gguf"
MUTATIONS, WRONG_METADATA = 2000, 400


def test_no_file_makes_the_loader_read_beyond_it_or_run_into_undefined_behaviour(tmp_path):
    replay = build(tmp_path / "replay", "fuzz_gguf.c", *SANITIZED, "-DREPLAY")
    files = sorted(CORPUS.iterdir())
    for i, (_, data) in enumerate([*good(), *attacks_on_the_container(), *attacks_on_the_model()]):
        files.append(tmp_path / f"{i}.gguf")
        files[-1].write_bytes(data)
    done = subprocess.run([replay, str(MUTATIONS), *files], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-5000:]
    assert done.stdout == f"{len(files)} files, {MUTATIONS} mutations\n"


def test_no_metadata_is_more_than_python_can_refuse(tmp_path):
    path, accepted = tmp_path / "model.gguf", 0
    for seed in range(WRONG_METADATA):
        write(path, seed)
        accepted += accepts(path)
    assert 0 < accepted < WRONG_METADATA / 2
