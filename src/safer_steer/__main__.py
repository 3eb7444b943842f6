"""`python -m safer_steer` is `safer-steer`, and where it begins: an interrupt is heard from the first import on."""

import sys


def main() -> None:
    """Run the command; interrupted before it has begun, exit with 130."""
    try:
        from safer_steer.cli import main as command

        command()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
