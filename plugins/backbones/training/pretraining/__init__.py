"""How the language models of bitrl are trained: `bitrl model train`."""
