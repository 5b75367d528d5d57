"""What is looked for before a run: types, files, datasets, class counts; every sample on request."""
