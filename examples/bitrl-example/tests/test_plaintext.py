from bitrl_example.plaintext import PlainText


def log(directory, steps, start=0):
    logger = PlainText(None, directory)
    logger.start({}, start)
    for step in steps:
        logger.log({"step": step, "loss": 1 / step})


def test_a_resumed_run_has_every_line_once(tmp_path):
    log(tmp_path, [1, 2, 3])
    log(tmp_path, [3, 4], start=2)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert lines == ["loss=1 step=1", "loss=0.5 step=2", "loss=0.333333 step=3", "loss=0.25 step=4"]
