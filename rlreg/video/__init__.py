"""Films of policies: OpenGL found by itself, the world rendered in a process of its own, MP4 files and contact sheets."""
