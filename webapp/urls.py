"""Every address of the site."""

from django.contrib import admin
from django.urls import include, path

from webapp import health, prometheus, renamed_urls

# `new` and `compare` must precede the names of experiments.
urlpatterns = [
    path("livez", health.report_liveness, name="livez"),
    path("healthz", health.report_health, name="healthz"),
    path("healthz/report", health.report_details, name="health_report"),
    path("metrics", prometheus.show_metrics, name="metrics"),
    path("admin/", admin.site.urls),
    path("", include(renamed_urls)),
    path("", include("webapp.accounts.urls")),
    path("", include("webapp.api.urls")),
    path("", include("webapp.notifications.urls")),
    path("", include("webapp.experiment_form.urls")),
    path("", include("webapp.reporting.urls")),
    path("", include("webapp.results.urls")),
    path("", include("webapp.playground.urls")),
    path("", include("webapp.audit.urls")),
    path("", include("webapp.dashboard.urls")),
]

handler400 = "webapp.bad_requests.handle_bad_request"
handler500 = "webapp.server_errors.handle_server_error"
