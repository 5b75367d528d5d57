"""What a trained model does with an image: prediction, drawing, export, generation, test-time augmentation."""
