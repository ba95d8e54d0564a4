"""Speed and memory, as ratios to a named base measured in the same run, in alternating rounds."""
