"""What a trained model looks at: pictures of what it computes on the way to its prediction."""
