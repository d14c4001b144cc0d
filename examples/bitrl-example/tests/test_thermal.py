from bitrl_example.thermal import check


def test_a_sensor_beyond_the_limit_is_wrong(tmp_path):
    for zone, text in enumerate(["45000\n", "91500\n"]):
        (tmp_path / f"thermal_zone{zone}").mkdir()
        (tmp_path / f"thermal_zone{zone}" / "temp").write_text(text)
    assert [(finding.ok, finding.detail) for finding in check(tmp_path)] == [(True, "45 °C"), (False, "92 °C")]
