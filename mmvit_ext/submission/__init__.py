"""Archives for the test servers of COCO detection and ADE20K scene parsing: write them, and check them."""
