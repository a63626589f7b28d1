"""Commands of the program in files of their own: each has `add(commands)`, which adds its parser."""
