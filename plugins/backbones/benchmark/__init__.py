"""How fast the engine is, and of what the machine can do how much: `bitrl bench`."""
