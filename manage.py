#!/usr/bin/env python
"""Django's command line in a checkout: `python manage.py help`."""

from workers.__main__ import main

if __name__ == "__main__":
    main()
