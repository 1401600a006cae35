"""Entry points: `python -m scripts.<job> --config RECIPE [flags]`."""
