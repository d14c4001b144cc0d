"""Every component of this package keeps bitrl's contracts."""

import bitrl.testing


def test_every_component_keeps_its_contract():
    bitrl.testing.check_plugin("bitrl-example")
