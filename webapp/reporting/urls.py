"""URLs of the report and of the evaluations it uses."""

from django.urls import path

from webapp.reporting import views

urlpatterns = [
    path("reports", views.show_report, name="report"),
    path("experiments/<str:name>/evaluations", views.show_evaluations, name="evaluations"),
]
