"""This folder is also inside bitrl, as `bitrl.example`: `bitrl plugin new` writes it with its names changed.

That is all this file is for. A plugin of your own needs none here.
"""
