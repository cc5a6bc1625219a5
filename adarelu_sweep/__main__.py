"""``python -m adarelu_sweep`` is the command ``adarelu-sweep``."""

from adarelu_sweep.cli.main import main

if __name__ == "__main__":
    main()
