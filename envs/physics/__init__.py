"""Physics engines: W simulations of one MuJoCo model behind one small interface, and what a task of theirs is."""
