"""What touches the machine: processes, files, clocks. Nothing here knows what a fleet is."""
