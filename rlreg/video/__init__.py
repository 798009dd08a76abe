"""Films of policies: OpenGL found by itself, worlds rendered in a process of their own, MP4 files, contact sheets."""
