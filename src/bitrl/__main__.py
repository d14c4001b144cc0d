"""`python -m bitrl` is the program `bitrl`."""

from bitrl.cli import main

if __name__ == "__main__":
    main()
