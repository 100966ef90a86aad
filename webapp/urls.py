"""Every address of the site."""

from django.contrib import admin
from django.urls import include, path

from webapp import health

# `new` and `compare` come before the names of experiments.
urlpatterns = [
    path("healthz", health.healthz, name="healthz"),
    path("admin/", admin.site.urls),
    path("", include("webapp.people.urls")),
    path("", include("webapp.api.urls")),
    path("", include("webapp.notices.urls")),
    path("", include("webapp.launching.urls")),
    path("", include("webapp.results.urls")),
    path("", include("webapp.trying.urls")),
    path("", include("webapp.audit.urls")),
    path("", include("webapp.experiments.urls")),
]
