"""`python -m mhfl_mq` is `mhfl`."""

from mhfl_mq.cli import main

if __name__ == "__main__":
    main()
