"""`python -m shared.runtime` is `counterfoil`."""

from shared.runtime.cli import main

if __name__ == "__main__":
    main()
