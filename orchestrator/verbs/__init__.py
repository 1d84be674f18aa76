"""The verbs of the command line, a file each: the file's name is the verb, its docstring's first line the help.

A verb has `add_arguments(parser)` and `run(arguments)`, which returns the exit code. Every file is imported to show
`--help`, so whatever is heavy is imported inside `run`.
"""
