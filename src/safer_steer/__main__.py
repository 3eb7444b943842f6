"""`python -m safer_steer` is `safer-steer`."""

from safer_steer.cli import main

main()
