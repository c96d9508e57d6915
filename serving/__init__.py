"""What runs beside the package: containers, their configuration, and programs that try servers."""
