"""``python -m streamem`` is the same as ``streamem``."""

from streamem.cli import main

if __name__ == "__main__":
    main(prog_name="streamem")
