"""``python -m mmvit_ext VERB`` is the command ``mmvit VERB``."""

from mmvit_ext.cli.main import main

if __name__ == '__main__':
    main()
