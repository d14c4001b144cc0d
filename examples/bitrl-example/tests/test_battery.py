from bitrl_example.battery import meters


def test_a_battery_is_a_meter_of_its_power(tmp_path):
    (tmp_path / "BAT0").mkdir()
    (tmp_path / "BAT0" / "power_now").write_text("8500000\n")
    assert [(meter.name, meter.read()) for meter in meters(tmp_path)] == [("battery BAT0", 8.5)]
