"""The Celery application. It only carries messages; the state is in the database and in files.

celery --app workers.celery worker --pool prefork --concurrency 1 --queues gpu,cpu
"""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")

app = Celery("meta_reward", include=["workers.tasks", "workers.ops.celery_signals"])
app.config_from_object("django.conf:settings", namespace="CELERY")
