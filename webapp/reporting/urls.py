"""Addresses of the report and of the evaluations that it is made from."""

from django.urls import path

from webapp.reporting import views

urlpatterns = [
    path("reports", views.report, name="report"),
    path("experiments/<str:name>/evaluations", views.evaluations, name="evaluations"),
]
