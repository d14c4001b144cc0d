import json

from bitrl_example.leaderboard import leaderboard
from click.testing import CliRunner


def test_the_highest_return_comes_first(tmp_path):
    for name, mean in [("low", 1.0), ("high", 9.0)]:
        (tmp_path / name).mkdir()
        summary = {"run": name, "eval": {"episodes": 5, "mean_return": mean}}
        (tmp_path / name / "summary.json").write_text(json.dumps(summary))
    lines = CliRunner().invoke(leaderboard, [str(tmp_path)]).output.splitlines()
    assert [line.split() for line in lines] == [["9.0", "high"], ["1.0", "low"]]
