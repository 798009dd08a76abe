"""Starting the runs of a table."""
