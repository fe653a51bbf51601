"""Linear layers, in as many bits as were asked for and as each device wants them."""
