"""What this machine has: its devices, their memory, and how much of it a container may use."""
