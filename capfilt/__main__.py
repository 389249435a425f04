"""`python -m capfilt` is the command `capfilt`."""

from capfilt.cli import main

if __name__ == "__main__":
    main()
