"""One file a run; its docstring holds the exact command and the result to expect."""
