"""Archives for the test servers of COCO detection and ADE20K scene parsing: written, and checked as a server would."""
