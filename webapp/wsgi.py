"""The site for a WSGI server."""

import logging
import os

from django.core.wsgi import get_wsgi_application

from webapp.private_folders import close_private_folders

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")

application = get_wsgi_application()
for told in close_private_folders():
    logging.getLogger(__name__).warning(told)
