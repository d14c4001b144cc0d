"""What memory is left, as Linux says it."""

from __future__ import annotations

from pathlib import Path

from bitrl.plugins.backbones.tools import available_memory as memory


def test_memory_left_is_read_from_the_system(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   2000 kB\n")
    assert memory._meminfo(tmp_path / "meminfo") == 2_048_000
    assert memory._cgroup(tmp_path) is None
    for name, text in {"max": "5000\n", "current": "3000\n", "stat": "anon 1\ninactive_file 500\n"}.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory._cgroup(tmp_path) == 2500
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._cgroup(tmp_path) is None
