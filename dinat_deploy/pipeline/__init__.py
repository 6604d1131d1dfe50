"""What the commands do: each a function that puts the stages together."""
