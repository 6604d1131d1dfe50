"""How well a model does on labelled data, and how often it agrees with another."""
