"""From a checkpoint to a file for a device, through one gate."""
