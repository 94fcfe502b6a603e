"""Run the command line as `python -m rowwise`."""

from rowwise.cli import main

if __name__ == "__main__":
    main()
