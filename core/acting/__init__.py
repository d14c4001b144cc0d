"""Acting: how states are read and actions chosen, with numpy alone. Of bitrl, an exported agent imports only this and
the plugins it names: no Gymnasium, no torch.
"""
