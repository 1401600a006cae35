"""Give a model graphs for other runtimes, or to the Hub: `python -m scripts.export --model DIR --to onnx --to int8`."""

from pipeline.core.config import main
from pipeline.encoder.export import ExportConfig, run

if __name__ == "__main__":
    main(ExportConfig, "export", run)
