"""Acting: how states are read and actions chosen, with numpy alone. An exported agent imports nothing else of bitrl
but the plugins it names: no Gymnasium, no torch.
"""
