"""Address of the report."""

from django.urls import path

from webapp.reporting import views

urlpatterns = [path("reports", views.report, name="report")]
