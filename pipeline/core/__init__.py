"""What every job stands on: settings, errors, table schemas, progress, the Ray session and actor pools."""
