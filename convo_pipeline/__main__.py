"""The command line: `python -m convo_pipeline`."""

from convo_pipeline.cli import main

if __name__ == "__main__":
    main(prog_name="convo-pipeline")
