"""Input from outside, signals, the logging of libraries, and commands shown to users."""
