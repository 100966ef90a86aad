"""Every address of the site."""

from django.contrib import admin
from django.urls import include, path

from webapp import health, metrics

# `new` and `compare` come before the names of experiments.
urlpatterns = [
    path("livez", health.livez, name="livez"),
    path("healthz", health.healthz, name="healthz"),
    path("healthz/report", health.report, name="health_report"),
    path("metrics", metrics.metrics, name="metrics"),
    path("admin/", admin.site.urls),
    path("", include("webapp.people.urls")),
    path("", include("webapp.api.urls")),
    path("", include("webapp.notices.urls")),
    path("", include("webapp.launching.urls")),
    path("", include("webapp.reporting.urls")),
    path("", include("webapp.results.urls")),
    path("", include("webapp.trying.urls")),
    path("", include("webapp.audit.urls")),
    path("", include("webapp.experiments.urls")),
]

handler400 = "webapp.refusals.bad_request"
