"""What several integrations need: loaders, generators, positions, whatever has a state."""
