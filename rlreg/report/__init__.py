"""What is told of runs that are there: tables, figures."""
